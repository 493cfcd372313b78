//! The time that scheduled messages go by: the wall clock, guarded against leaps.

use std::sync::Mutex;
use std::time::Instant;

use kerolox_core::clock::{ClockAlarm, ClockGuard, ClockPolicy};
use kerolox_kit::process::now_ms;

/// The guarded wall clock. Whoever looks keeps it up to date; [`crate::timers`] does so at least once a second.
#[derive(Debug)]
pub(crate) struct GuardedClock {
    started: Instant,
    grace_ms: u64,
    guard: Mutex<ClockGuard>,
}

impl GuardedClock {
    pub(crate) fn new(policy: ClockPolicy) -> Self {
        let guard = Mutex::new(ClockGuard::new(policy));
        Self { started: Instant::now(), grace_ms: policy.grace_ms, guard }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        let look = {
            let mut guard = self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Inside the lock, so that nobody shows the guard an older time after a newer one.
            let monotonic_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            guard.look(now_ms(), monotonic_ms)
        };
        let grace_ms = self.grace_ms;
        match look.alarm {
            None => {}
            Some(ClockAlarm::Leapt(by_ms)) => tracing::error!(
                by_ms,
                grace_ms,
                "the wall clock leapt ahead; scheduled messages that are due only by the leap wait for the grace"
            ),
            Some(ClockAlarm::Believed(by_ms)) => {
                tracing::warn!(by_ms, "the leap of the wall clock is believed; what is due is delivered");
            }
            Some(ClockAlarm::Returned) => tracing::info!("the wall clock is back to where it should be"),
            Some(ClockAlarm::SetBack(by_ms)) => {
                tracing::warn!(by_ms, "the wall clock was set back; scheduled messages come later");
            }
        }
        look.now_ms
    }

    /// By how much the wall clock leapt ahead, while that is doubted; milliseconds.
    pub(crate) fn doubted_ms(&self) -> Option<i64> {
        self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).doubted_ms()
    }
}
