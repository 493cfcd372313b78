//! The leg from producer to consumer at a low, steady rate.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kerolox_client::{Client, FilterExpression, Message, Verdict};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::meter::{Clock, Phase, Tally};
use crate::leg::PACE;
use crate::task::{DriverResult, DriverTask, GROUP, TOPIC};

/// How long the last messages may be under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What the listener got: numbers of messages, and latencies of those of the window.
struct Arrivals {
    seen: HashSet<u64>,
    tally: Tally,
}

/// Sends at a steady rate, whatever the server does; a latency is the time from then to the listener.
pub(super) async fn run(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    let clock = Clock::default();
    let start = Instant::now();
    let arrivals = Arc::new(Mutex::new(Arrivals { seen: HashSet::new(), tally: Tally::new() }));
    let (heard, listened) = (Arc::clone(&arrivals), clock.clone());
    let consumer = client
        .push_consumer(GROUP)
        .subscribe(TOPIC, FilterExpression::all())
        .start(move |delivery| {
            let body: Option<[u8; 16]> =
                delivery.message().body().get(..16).and_then(|body| body.try_into().ok());
            if let Some(body) = body {
                let (number, sent) = body.split_at(8);
                let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
                let late = start.elapsed().saturating_sub(Duration::from_nanos(word(sent)));
                let mut arrivals = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if arrivals.seen.insert(word(number)) && listened.phase() == Phase::Measured {
                    arrivals.tally.messages += 1;
                    arrivals.tally.late(late);
                }
            }
            std::future::ready(Verdict::Done)
        })
        .await?;
    let sending = tokio::spawn(send_all(client.clone(), task.clone(), clock.clone(), start));
    let window = clock.run(task.warm_up(), task.window()).await;
    let acknowledged = sending.await??;
    let drained = Instant::now();
    let count = || arrivals.lock().unwrap_or_else(PoisonError::into_inner).seen.len() as u64;
    while count() < acknowledged && drained.elapsed() < DRAIN_LIMIT {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let got = count();
    let left = consumer.shutdown(DRAIN_LIMIT).await;
    ensure!(left == 0, "{left} messages are not settled");
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(arrivals.tally.result(window, acknowledged, got))
}

/// Returns how many messages were acknowledged.
async fn send_all(client: Client, task: DriverTask, clock: Clock, start: Instant) -> Result<u64> {
    let producer = Arc::new(client.producer().topic(TOPIC).start().await?);
    let mut ticks = paced(clock);
    let mut sends = JoinSet::new();
    let mut number = 0_u64;
    while ticks.recv().await.is_some() {
        let mut body = vec![b'x'; task.bytes];
        body[..8].copy_from_slice(&number.to_le_bytes());
        let now: u64 = start.elapsed().as_nanos().try_into()?;
        body[8..16].copy_from_slice(&now.to_le_bytes());
        number += 1;
        let producer = Arc::clone(&producer);
        sends.spawn(async move { producer.send(Message::builder(TOPIC).body(body).build()).await });
        while let Some(done) = sends.try_join_next() {
            done??;
        }
    }
    while let Some(done) = sends.join_next().await {
        done??;
    }
    Ok(number)
}

/// Ticks from a thread of its own: the runtime's timers are too coarse.
fn paced(clock: Clock) -> mpsc::UnboundedReceiver<()> {
    let (ticks, ticking) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut next = Instant::now();
        while !clock.is_over() && ticks.send(()).is_ok() {
            next += Duration::from_secs(1) / PACE;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    ticking
}
