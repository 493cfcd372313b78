//! Has urgent messages delivered before the others.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example priority [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use kerolox_client::{FilterExpression, Message};
use std::time::Duration;

const TOPIC: &str = "example-priority";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "PRIORITY").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    for (text, priority) in [("a newsletter", 0), ("an order", 1), ("an alarm", 3)] {
        producer.send(Message::builder(TOPIC).body(text).priority(priority).build()).await?;
    }
    let consumer = client
        .simple_consumer("example-priority-readers")
        .subscribe(TOPIC, FilterExpression::all())
        .start()
        .await?;
    for _ in 0..3 {
        for delivery in consumer.receive(1, Duration::from_secs(30)).await? {
            println!("{:?}: {}", delivery.message().priority(), common::text(delivery.message()));
            consumer.ack(&delivery).await?;
        }
    }
    Ok(())
}
