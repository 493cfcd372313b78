//! Reads a topic from a position on, without a consumer group in the way, and keeps its place.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example pull [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use kerolox_client::{Message, Position};
use std::pin::pin;

const TOPIC: &str = "example-pull";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    for number in 1..=5 {
        producer.send(Message::builder(TOPIC).body(format!("entry {number}")).build()).await?;
    }

    let consumer = client.pull_consumer("example-pull-auditors").start().await?;
    for queue in consumer.queues(TOPIC).await? {
        let first = consumer.offset(&queue, Position::Earliest).await?;
        let end = consumer.offset(&queue, Position::Latest).await?;
        println!(
            "{queue} keeps offsets {first} to {end}; read up to {:?}",
            consumer.committed(&queue).await?
        );
    }
    // Where this group has come to, or at the beginning.
    let mut messages = pin!(consumer.read(TOPIC, Position::Committed).await?);
    for _ in 0..5 {
        let Some(pulled) = messages.try_next().await? else { break };
        println!("{} {}: {}", pulled.queue(), pulled.offset(), common::text(pulled.message()));
        consumer.commit(pulled.queue(), pulled.offset().unsigned_abs() + 1).await?;
    }
    Ok(())
}
