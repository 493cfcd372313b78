//! How many messages per second one producer gets stored, and how long each takes.
//!
//! ```text
//! cargo run --release -p kerolox-client --example throughput -- 127.0.0.1:9876 greetings [SECONDS] [IN_FLIGHT] [BATCH] [BYTES]
//! ```
//!
//! IN_FLIGHT requests are under way at any time, each with BATCH messages of BYTES bytes. Defaults: 10 s, 64, 1, 100.

use kerolox_client::{Client, Message, Producer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, topic, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: throughput ENDPOINT TOPIC [SECONDS] [IN_FLIGHT] [BATCH] [BYTES]".into());
    };
    let number = |index: usize, default: u32| numbers.get(index).map_or(Ok(default), |text| text.parse());
    let (seconds, in_flight, batch, bytes) = (number(0, 10)?, number(1, 64)?, number(2, 1)?, number(3, 100)?);

    let producer = Arc::new(Client::builder(endpoint).build()?.producer().topic(topic).start().await?);
    let message = Message::builder(topic).body(vec![b'x'; usize::try_from(bytes)?]).build();
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds.into());
    let mut senders = JoinSet::new();
    for _ in 0..in_flight {
        let messages = vec![message.clone(); usize::try_from(batch)?];
        senders.spawn(send_until(Arc::clone(&producer), messages, until));
    }
    let mut total = Tally::default();
    while let Some(tally) = senders.join_next().await {
        total.add(tally?);
    }
    total.latencies.sort_unstable();
    let elapsed = started.elapsed().as_secs_f64();
    println!(
        "{} messages stored, {} failed in {elapsed:.1} s: {:.0} messages/s, p50 {:?}, p99 {:?}, max {:?}",
        total.stored,
        total.failed,
        f64::from(total.stored) / elapsed,
        total.percentile(50),
        total.percentile(99),
        total.percentile(100),
    );
    if let Some(error) = total.error {
        return Err(format!("the last failure: {error}").into());
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    stored: u32,
    failed: u32,
    latencies: Vec<Duration>,
    error: Option<kerolox_client::Error>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.stored += other.stored;
        self.failed += other.failed;
        self.latencies.extend(other.latencies);
        self.error = other.error.or(self.error.take());
    }

    fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }
}

async fn send_until(producer: Arc<Producer>, messages: Vec<Message>, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let started = Instant::now();
        for result in producer.send_batch(messages.clone()).await {
            match result {
                Ok(_) => tally.stored += 1,
                Err(error) => {
                    tally.failed += 1;
                    tally.error = Some(error);
                }
            }
        }
        tally.latencies.push(started.elapsed());
    }
    tally
}
