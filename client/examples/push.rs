//! Prints the messages of a topic as they come, as one member of a consumer group. Ctrl-C ends it and leaves nothing half done.
//!
//! ```text
//! cargo run --release -p kerolox-client --example push -- 127.0.0.1:9876 greetings GROUP
//! ```

use kerolox_client::{Client, FilterExpression};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, topic, group] = arguments.as_slice() else {
        return Err("usage: push ENDPOINT TOPIC GROUP".into());
    };
    let consumer = Client::builder(endpoint)
        .build()?
        .push_consumer(group)
        .subscribe(topic, FilterExpression::all())
        .start(|delivery| async move {
            // A body that is no text has the message delivered again, and at last it becomes a dead letter.
            let text = std::str::from_utf8(delivery.message().body())?;
            println!("{} (attempt {}): {text}", delivery.message_id(), delivery.attempt());
            Ok::<_, std::str::Utf8Error>(())
        })
        .await?;
    tokio::signal::ctrl_c().await?;
    let left = consumer.shutdown(Duration::from_secs(30)).await;
    println!("{left} messages are with listeners still");
    Ok(())
}
