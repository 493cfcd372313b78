//! Sends messages that come later, and takes one of them back.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example delayed [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Context, Result, ensure};
use kerolox_client::{FilterExpression, Message};
use std::time::{Duration, Instant};

const TOPIC: &str = "example-delayed";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "DELAY").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    let started = Instant::now();
    let later =
        |text: &str, delay| Message::builder(TOPIC).body(text.to_owned()).deliver_after(delay).build();

    let reminder = producer.send(later("remind in one minute", Duration::from_secs(60))).await?;
    producer.send(later("remind in two seconds", Duration::from_secs(2))).await?;
    let handle = reminder.recall_handle.context("the server cannot take messages back")?;
    let id = producer.recall(TOPIC, &handle).await?;
    println!("took {id} back: it will never be delivered");

    let consumer = client
        .simple_consumer("example-delayed-readers")
        .subscribe(TOPIC, FilterExpression::all())
        .start()
        .await?;
    let mut received = Vec::new();
    while received.is_empty() {
        received = consumer.receive(1, Duration::from_secs(30)).await?;
    }
    println!("{:?} after {:?}", common::text(received[0].message()), started.elapsed());
    ensure!(started.elapsed() >= Duration::from_millis(1900), "it came too early");
    consumer.ack(&received[0]).await?;
    Ok(())
}
