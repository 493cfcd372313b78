//! Delivers scheduled messages when their time comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kerolox_core::record::{Fired, ProgressItem, ProgressRecord, Record};
use kerolox_store::{Event, StoreError};
use tokio::sync::Notify;

use crate::clock::GuardedClock;
use crate::engine::Engine;

/// Longest sleep: so often the clock is watched, and so late at the most a message comes after the clock was set ahead.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// Nothing is waited for.
const NEVER_MS: i64 = i64::MAX;

/// How fast scheduled messages become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Messages that one record delivers at the most.
    pub(crate) batch: usize,
    /// Messages a second at the most; 0 for as many as there are.
    pub(crate) per_second: u64,
}

impl Pace {
    /// How long `messages` keep the next ones waiting.
    fn pause(self, messages: usize) -> Duration {
        let nanos = (messages as u64).saturating_mul(1_000_000_000).checked_div(self.per_second);
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

/// Wakes the task when a message is scheduled before what it waits for. It exists before the store does.
#[derive(Clone)]
pub struct TimerArrivals {
    shared: Arc<Shared>,
}

struct Shared {
    wake: Notify,
    /// Earliest delivery time that came since the task looked last.
    earliest_ms: AtomicI64,
    /// What the task waits for.
    awaited_ms: AtomicI64,
}

impl Default for TimerArrivals {
    fn default() -> Self {
        let (earliest_ms, awaited_ms) = (AtomicI64::new(NEVER_MS), AtomicI64::new(NEVER_MS));
        Self { shared: Arc::new(Shared { wake: Notify::new(), earliest_ms, awaited_ms }) }
    }
}

impl TimerArrivals {
    /// Called on a thread of the store, once the message is in the index.
    pub fn notice(&self, event: &Event) {
        if let Event::TimerDue { due_ms } = event {
            let shared = &self.shared;
            shared.earliest_ms.fetch_min(*due_ms, Ordering::SeqCst);
            if *due_ms < shared.awaited_ms.load(Ordering::SeqCst) {
                shared.wake.notify_one();
            }
        }
    }
}

/// The task that delivers.
pub(crate) struct Timers {
    engine: Engine,
    clock: Arc<GuardedClock>,
    pace: Pace,
    arrivals: TimerArrivals,
    /// Delivery time and position of a message: nothing up to it is pending. Looking there again would mean going over all
    /// that was delivered since RocksDB compacted last.
    passed: Option<(i64, u64)>,
}

impl Timers {
    pub(crate) fn new(engine: Engine, clock: Arc<GuardedClock>, pace: Pace, arrivals: TimerArrivals) -> Self {
        Self { engine, clock, pace, arrivals, passed: None }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(%error, "scheduled messages cannot be delivered; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.arrivals.shared.wake.notified() => {}
            }
        }
    }

    /// Delivers everything that is due, and returns how long there is nothing to do.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        loop {
            self.look_back();
            let now_ms = self.clock.now_ms();
            let began = Instant::now();
            let page = self.engine.store().index().due_timers(now_ms, self.passed, self.pace.batch)?;
            let Some((position, last)) = page.last() else { break };
            let passed = (last.due_ms, *position);
            let messages = page.len();
            let fired = Fired { held: page.into_iter().map(|(position, _)| position).collect() };
            let record = Record::Progress(ProgressRecord::new([ProgressItem::Fired(fired)]));
            if let Err(error) = self.engine.propose(&record).await {
                tracing::warn!(%error, "scheduled messages are due and cannot be delivered; trying again");
                return Ok(RETRY);
            }
            self.passed = Some(passed);
            tokio::time::sleep(self.pace.pause(messages).saturating_sub(began.elapsed())).await;
        }
        self.until_next()
    }

    /// Looks again at what was passed over if a message was scheduled there meanwhile.
    fn look_back(&mut self) {
        let earliest_ms = self.arrivals.shared.earliest_ms.swap(NEVER_MS, Ordering::SeqCst);
        if self.passed.is_some_and(|(due_ms, _)| earliest_ms <= due_ms) {
            // Positions begin with 0, so nothing of the millisecond before can stand behind this.
            self.passed = Some((earliest_ms.saturating_sub(1), u64::MAX));
        }
    }

    /// How long until the next message is due. Whatever is scheduled before that from now on wakes the task.
    fn until_next(&self) -> Result<Duration, StoreError> {
        let shared = &self.arrivals.shared;
        // Whoever comes while it is looked up wakes the task for nothing at the worst.
        shared.awaited_ms.store(NEVER_MS, Ordering::SeqCst);
        let next = self.engine.store().index().due_timers(NEVER_MS, self.passed, 1)?;
        let Some((_, timer)) = next.first() else { return Ok(SLEEP_MAX) };
        shared.awaited_ms.store(timer.due_ms, Ordering::SeqCst);
        if shared.earliest_ms.load(Ordering::SeqCst) < timer.due_ms {
            return Ok(Duration::ZERO);
        }
        let ms = u64::try_from(timer.due_ms.saturating_sub(self.clock.now_ms())).unwrap_or(0);
        Ok(Duration::from_millis(ms).min(SLEEP_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_the_next_ones_waiting() {
        let pace = |per_second| Pace { batch: 1_000, per_second };
        assert_eq!(pace(0).pause(1_000), Duration::ZERO);
        assert_eq!(pace(50_000).pause(1_000), Duration::from_millis(20));
        assert_eq!(pace(1).pause(3), Duration::from_secs(3));
    }

    #[test]
    fn only_what_comes_before_the_awaited_wakes() {
        let arrivals = TimerArrivals::default();
        arrivals.shared.awaited_ms.store(100, Ordering::SeqCst);
        let is_woken = || {
            let woken = arrivals.shared.wake.notified();
            tokio::pin!(woken);
            woken.enable()
        };
        arrivals.notice(&Event::TimerDue { due_ms: 100 });
        assert!(!is_woken());
        arrivals.notice(&Event::TimerDue { due_ms: 99 });
        assert!(is_woken());
        assert_eq!(arrivals.shared.earliest_ms.load(Ordering::SeqCst), 99);
    }
}
