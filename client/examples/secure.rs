//! Encrypted connections and signed requests. The quickstart's servers have certificates that they made themselves.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example secure [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use kerolox_client::{Client, Credentials, Message, Tls};

const TOPIC: &str = "example-secure";

#[tokio::main]
async fn main() -> Result<()> {
    // With certificates of your own: Tls::trusting_pem(&std::fs::read("ca.pem")?)?
    let client = Client::builder(common::endpoint())
        .tls(Tls::unverified())
        .credentials(Credentials::new("an-access-key", "its secret"))
        .build()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    let receipt = producer.send(Message::builder(TOPIC).body("no eavesdropper reads this").build()).await?;
    println!("sent {} over TLS", receipt.message_id);
    Ok(())
}
