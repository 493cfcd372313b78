//! Legs that consume a backlog.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kerolox_client::{Client, FilterExpression, MessageQueue, PullConsumer, SimpleConsumer};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::meter::{Clock, Tally};
use super::sending::fill;
use super::{bounds, topic_of};
use crate::task::{DriverResult, DriverTask, GROUP, TOPIC, WARM_GROUP};

/// Messages of a pull that are asked for.
const PULL: usize = 1024;
/// Messages of a receive: the protocol's limit.
const RECEIVE: usize = 32;
/// Longer than a leg.
const INVISIBLE: Duration = Duration::from_secs(600);

/// Reads by offset: a caller for each queue, which begins anew at the end.
pub(super) async fn read(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    fill(client, task).await?;
    let consumer = client.pull_consumer(GROUP).await_duration(Duration::from_secs(1)).start().await?;
    let consumer = Arc::new(consumer);
    let clock = Clock::default();
    let mut callers = JoinSet::new();
    let mut there = 0;
    for (queue, first, end) in bounds(&consumer, topic_of(task.leg)).await? {
        there += end - first;
        if end > first {
            callers.spawn(read_queue(Arc::clone(&consumer), clock.clone(), queue, first..end));
        }
    }
    let window = clock.run(task.warm_up(), task.window()).await;
    Ok(Tally::of(callers).await?.result(window, task.backlog, there))
}

/// Fails unless every offset comes, in its order.
async fn read_queue(
    consumer: Arc<PullConsumer>,
    clock: Clock,
    queue: MessageQueue,
    offsets: std::ops::Range<u64>,
) -> Result<Tally> {
    let mut tally = Tally::new();
    let mut at = offsets.start;
    while !clock.is_over() {
        let began = Instant::now();
        let pulled = consumer.pull(&queue, at, PULL).await?;
        for (message, expected) in pulled.messages.iter().zip(at..) {
            ensure!(
                u64::try_from(message.offset()).is_ok_and(|offset| offset == expected),
                "a gap at {expected}"
            );
        }
        at += pulled.messages.len() as u64;
        ensure!(pulled.next_offset == at, "the next offset is {}, not {at}", pulled.next_offset);
        tally.note(&clock, began, pulled.messages.len() as u64);
        if at >= offsets.end {
            at = offsets.start;
        }
    }
    Ok(tally)
}

/// Receives and acknowledges until the backlog is used up or the window is over. A latency is that of a receive with the
/// acknowledgements of its messages.
pub(super) async fn receive(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    fill(client, task).await?;
    let warm = Clock::default();
    consume_for(client, task, WARM_GROUP, &warm, task.warm_up(), || warm.stop()).await?;
    let clock = Clock::default();
    let begun = clock.begin();
    let mut window = Duration::ZERO;
    let (tally, seen) =
        consume_for(client, task, GROUP, &clock, task.window(), || window = clock.end(begun)).await?;
    Ok(tally.result(window, tally.total, seen))
}

/// Consumes until the backlog is used up, or the time is; `stop` is called then.
async fn consume_for(
    client: &Client,
    task: &DriverTask,
    group: &str,
    clock: &Clock,
    limit: Duration,
    stop: impl FnOnce(),
) -> Result<(Tally, u64)> {
    let mut consuming = pin!(consume(client, task, group, clock));
    let done = tokio::time::timeout(limit, &mut consuming).await;
    stop();
    match done {
        Ok(done) => done,
        Err(_) => consuming.await,
    }
}

/// Consumes as a group; returns how many different messages it got.
async fn consume(client: &Client, task: &DriverTask, group: &str, clock: &Clock) -> Result<(Tally, u64)> {
    let consumer = client.simple_consumer(group).subscribe(TOPIC, FilterExpression::all());
    let consumer = Arc::new(consumer.await_duration(Duration::from_secs(1)).start().await?);
    let seen = Arc::new(Backlog { seen: Mutex::default(), size: task.backlog, used_up: Notify::new() });
    let mut callers = JoinSet::new();
    for _ in 0..task.callers {
        callers.spawn(receive_and_ack(Arc::clone(&consumer), clock.clone(), Arc::clone(&seen)));
    }
    let tally = Tally::of(callers).await?;
    let seen = seen.count();
    Ok((tally, seen))
}

/// Places of messages that a group got.
struct Backlog {
    seen: Mutex<HashSet<(i32, i64)>>,
    size: u64,
    used_up: Notify,
}

impl Backlog {
    fn note(&self, places: impl Iterator<Item = (i32, i64)>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
        if self.is_used_up() {
            self.used_up.notify_waiters();
        }
    }

    fn count(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn is_used_up(&self) -> bool {
        self.count() >= self.size
    }
}

async fn receive_and_ack(
    consumer: Arc<SimpleConsumer>,
    clock: Clock,
    backlog: Arc<Backlog>,
) -> Result<Tally> {
    let mut tally = Tally::new();
    while !clock.is_over() && !backlog.is_used_up() {
        let began = Instant::now();
        let received = tokio::select! {
            received = consumer.receive(RECEIVE, INVISIBLE) => received?,
            () = backlog.used_up.notified() => break,
        };
        try_join_all(received.iter().map(|delivery| consumer.ack(delivery))).await?;
        tally.note(&clock, began, received.len() as u64);
        backlog.note(received.iter().map(|delivery| (delivery.queue_id(), delivery.offset())));
    }
    Ok(tally)
}
