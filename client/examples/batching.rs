//! Sends each line of the standard input as a message, in batches of what comes at the same time.
//!
//! ```text
//! seq 100000 | cargo run --release -p kerolox-client --example batching -- 127.0.0.1:9876 greetings
//! ```

use kerolox_client::{Batcher, Batching, Client, Message};
use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, topic] = arguments.as_slice() else {
        return Err("usage: batching ENDPOINT TOPIC".into());
    };
    let producer = Client::builder(endpoint).build()?.producer().topic(topic).start().await?;
    let batcher = Batcher::new(Arc::new(producer), Batching::default())?;
    let started = Instant::now();
    let mut answers = JoinSet::new();
    let (mut stored, mut failed) = (0, 0);
    for line in std::io::stdin().lock().lines() {
        let message = Message::builder(topic).body(line?).build();
        answers.spawn(batcher.send(message).await?);
        while let Some(answer) = answers.try_join_next() {
            count(&answer?, &mut stored, &mut failed);
        }
    }
    while let Some(answer) = answers.join_next().await {
        count(&answer?, &mut stored, &mut failed);
    }
    println!("{stored} stored, {failed} failed in {:?}", started.elapsed());
    Ok(())
}

fn count(answer: &kerolox_client::Result<kerolox_client::SendReceipt>, stored: &mut u64, failed: &mut u64) {
    match answer {
        Ok(_) => *stored += 1,
        Err(error) => {
            *failed += 1;
            eprintln!("not stored: {error}");
        }
    }
}
