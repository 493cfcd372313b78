//! Counts and times what a client does: the hook for metrics.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example metrics [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Result, ensure};
use kerolox_client::{Client, Event, FilterExpression, Message, Operation};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TOPIC: &str = "example-metrics";

/// Requests, messages and time of one kind of operation. A registry of Prometheus would have these as counters and a histogram.
#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    messages: usize,
    failures: u64,
    took: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let sums: Arc<Mutex<HashMap<Operation, Sum>>> = Arc::default();
    let counted = Arc::clone(&sums);
    let client = Client::builder(common::endpoint())
        .observer(move |event: &Event<'_>| {
            let mut sums = counted.lock().expect("not poisoned");
            let sum = sums.entry(event.operation).or_default();
            sum.requests += 1;
            sum.messages += event.messages;
            sum.failures += u64::from(event.error.is_some());
            sum.took += event.took;
        })
        .build()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    for number in 0..100 {
        producer.send(Message::builder(TOPIC).body(number.to_string()).build()).await?;
    }
    let consumer = client
        .simple_consumer("example-metrics-readers")
        .subscribe(TOPIC, FilterExpression::all())
        .start()
        .await?;
    let mut received = 0;
    while received < 100 {
        for delivery in consumer.receive(32, Duration::from_secs(30)).await? {
            consumer.ack(&delivery).await?;
            received += 1;
        }
    }
    let sums = sums.lock().expect("not poisoned");
    for (operation, sum) in sums.iter() {
        println!("{operation:?}: {sum:?}");
    }
    ensure!(sums[&Operation::Send].messages >= 100 && sums[&Operation::Ack].messages >= 100);
    Ok(())
}
