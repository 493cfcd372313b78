//! Has a listener called with messages: the push consumer. One fails at first and comes again.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example push [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Result, bail};
use kerolox_client::{FilterExpression, Message};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const TOPIC: &str = "example-push";
const COUNT: u32 = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    // Again after one second, then after two, ..., five times at the most.
    let backoff = ["+retry.backoff=1s/2s/4s"];
    common::group(&client, "example-push-billing", false, &backoff).await?;

    let done = Arc::new(Semaphore::new(0));
    let listener_done = Arc::clone(&done);
    let consumer = client
        .push_consumer("example-push-billing")
        .subscribe(TOPIC, FilterExpression::all())
        .concurrency(4)
        .start(move |delivery| {
            let done = Arc::clone(&listener_done);
            async move {
                let text = common::text(delivery.message());
                println!("{text}, attempt {}", delivery.attempt());
                if text == "order 7" && delivery.attempt() == 1 {
                    // An error has the message delivered again, later.
                    bail!("the database is busy");
                }
                done.add_permits(1);
                Ok(())
            }
        })
        .await?;

    let producer = client.producer().topic(TOPIC).start().await?;
    for number in 1..=COUNT {
        producer.send(Message::builder(TOPIC).body(format!("order {number}")).build()).await?;
    }
    drop(done.acquire_many(COUNT).await?);
    // Lets listeners end what they began, and tells the broker.
    let left = consumer.shutdown(Duration::from_secs(30)).await;
    println!("{left} messages are with listeners still");
    Ok(())
}
