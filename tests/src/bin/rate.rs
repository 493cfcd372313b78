//! Sends messages with the Rust client as fast as a given number of concurrent senders goes, and prints the rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use kerolox_client::{Client, Message};
use tokio::task::JoinSet;

/// Measures how many single messages a second one Rust producer sends.
#[derive(Parser)]
struct Arguments {
    /// Access point.
    #[arg(long)]
    address: String,
    /// An existing topic.
    #[arg(long)]
    topic: String,
    /// Number of messages.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Sends that wait for their answer at the same time.
    #[arg(long, default_value_t = 64)]
    concurrent: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let client = Client::builder(&arguments.address).build()?;
    let producer = Arc::new(client.producer().topic(&arguments.topic).start().await?);
    let message = Message::builder(&arguments.topic).body(vec![b'.'; arguments.bytes]).build();
    let sent = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..arguments.concurrent {
        let (producer, message, sent) = (Arc::clone(&producer), message.clone(), Arc::clone(&sent));
        senders.spawn(async move {
            while sent.fetch_add(1, Ordering::Relaxed) < arguments.messages {
                producer.send(message.clone()).await?;
            }
            Ok::<_, kerolox_client::Error>(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{:.0} messages/s ({} messages of {} bytes, {} concurrent sends)",
        arguments.messages as f64 / seconds,
        arguments.messages,
        arguments.bytes,
        arguments.concurrent,
    );
    Ok(())
}
