//! Sends many messages in batches that form by themselves.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example batching [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use kerolox_client::{Batcher, Batching, Message};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

const TOPIC: &str = "example-batching";
const COUNT: u32 = 20_000;

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    let batcher = Batcher::new(Arc::new(producer), Batching::default())?;

    let started = Instant::now();
    let mut answers = JoinSet::new();
    for number in 1..=COUNT {
        let message = Message::builder(TOPIC).body(number.to_string()).build();
        // Waits only while the buffer is full: the back-pressure.
        answers.spawn(batcher.send(message).await?);
    }
    let mut stored = 0;
    while let Some(answer) = answers.join_next().await {
        answer??;
        stored += 1;
    }
    println!("{stored} messages stored in {:?}", started.elapsed());
    Ok(())
}
