//! Delivers scheduled messages when their time comes.
//!
//! # Schedule
//!
//! A message with a delivery time is one record with a hold; the state machine keeps a timer by position and one by due
//! time (`state/timers.rs`), with the code of half messages (`state/held/`). The state machine has no clock:
//! `broker/src/tasks/timers.rs` sleeps until the earliest due time and logs due messages, one small record for many, in
//! that order. It uses a guarded clock (`core::clock`), so a leap of the wall clock is doubted first. A half message
//! with a delivery time becomes a timer by its commit. `rpc/messaging/recall.rs` proposes a client's decision against
//! delivery, `rpc/admin/timers.rs` an administrator's; the first decision wins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_core::record::{FiredRecord, ProgressItem, ProgressRecord, Record};
use kerolox_core::timer::TimerPace;
use kerolox_store::{GuardedClock, StoreError};

use crate::log_client::LogClient;
use crate::tasks::due::{self, DueArrivals, NEVER_MS, Passed};

/// Longest sleep: the interval at which the clock is watched, and the maximum delay of a message after the clock was
/// set ahead.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Pause after a failed proposal.
const RETRY: Duration = Duration::from_secs(1);

/// The task that delivers.
pub(crate) struct Timers {
    log: LogClient,
    clock: Arc<GuardedClock>,
    pace: TimerPace,
    arrivals: DueArrivals,
    passed: Passed,
}

impl Timers {
    pub(crate) fn new(
        log: LogClient,
        clock: Arc<GuardedClock>,
        pace: TimerPace,
        arrivals: DueArrivals,
    ) -> Self {
        Self { log, clock, pace, arrivals, passed: None }
    }

    /// Runs for ever.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn run(mut self) -> Result<(), StoreError> {
        loop {
            let pause = self.round().await?;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.arrivals.woken() => {}
            }
        }
    }

    /// Delivers all due messages, and returns how long there is nothing to do.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        loop {
            due::look_back(&mut self.passed, self.arrivals.take_earliest());
            let now_ms = self.clock.now_ms();
            let began = Instant::now();
            let page = self.log.store().state().timers.due(now_ms, self.passed, self.pace.batch)?;
            let Some((position, last)) = page.last() else { break };
            let passed = (last.due_ms, *position);
            let messages = page.len();
            let fired = FiredRecord { held: page.into_iter().map(|(position, _)| position).collect() };
            let record = Record::Progress(ProgressRecord::new([ProgressItem::Fired(fired)]));
            if let Err(error) = self.log.propose(&record).await {
                tracing::warn!(%error, "due scheduled messages cannot be delivered; retrying");
                return Ok(RETRY);
            }
            self.passed = Some(passed);
            tokio::time::sleep(self.pace.pause(messages).saturating_sub(began.elapsed())).await;
        }
        self.until_next()
    }

    /// How long until the next message is due. An earlier message that is scheduled from now on wakes the task.
    fn until_next(&self) -> Result<Duration, StoreError> {
        // A message that arrives during the look-up at worst wakes the task for nothing.
        self.arrivals.wait_for(NEVER_MS);
        let next = self.log.store().state().timers.due(NEVER_MS, self.passed, 1)?;
        let Some((_, timer)) = next.first() else { return Ok(SLEEP_MAX) };
        if self.arrivals.wait_for(timer.due_ms) {
            return Ok(Duration::ZERO);
        }
        let ms = u64::try_from(timer.due_ms.saturating_sub(self.clock.now_ms())).unwrap_or(0);
        Ok(Duration::from_millis(ms).min(SLEEP_MAX))
    }
}
