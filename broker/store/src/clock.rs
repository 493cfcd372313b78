//! The clock for record timestamps and for all deliveries and removals by time: the wall clock, guarded against leaps.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use kerolox_core::clock::{ClockAlarm, ClockGuard, ClockPolicy, ClockReading};
use kerolox_log::sabotage;

use crate::gate::mono_ms;

type Wall = Box<dyn Fn() -> i64 + Send + Sync>;
type Monotonic = Box<dyn Fn() -> u64 + Send + Sync>;

/// The guarded wall clock. Every reading keeps it up to date; a broker reads it at least once a second.
pub struct GuardedClock {
    wall: Wall,
    monotonic: Monotonic,
    grace_ms: u64,
    guard: Mutex<ClockGuard>,
}

impl fmt::Debug for GuardedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedClock").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl GuardedClock {
    /// Guards `wall`, milliseconds since the Unix epoch, with the machine's monotonic clock.
    pub fn new(policy: ClockPolicy, wall: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self::against(policy, wall, mono_ms)
    }

    /// Guards `wall` with another clock that never runs backwards, in milliseconds.
    pub fn against(
        policy: ClockPolicy,
        wall: impl Fn() -> i64 + Send + Sync + 'static,
        monotonic: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            wall: Box::new(wall),
            monotonic: Box::new(monotonic),
            grace_ms: policy.grace_ms,
            guard: Mutex::new(ClockGuard::new(policy)),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        if sabotage::is("believe-clock-leaps") {
            return (self.wall)();
        }
        let look = self.look();
        if let Some(alarm) = look.alarm {
            self.tell(alarm);
        }
        look.now_ms
    }

    fn look(&self) -> ClockReading {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        // Inside the lock, so that no thread passes the guard an older time after a newer one.
        guard.look((self.wall)(), (self.monotonic)())
    }

    fn tell(&self, alarm: ClockAlarm) {
        let grace_ms = self.grace_ms;
        match alarm {
            ClockAlarm::Leapt(by_ms) => tracing::error!(
                by_ms,
                grace_ms,
                "the wall clock leapt ahead; messages due or expired only because of the leap are held back for a grace period"
            ),
            ClockAlarm::Believed(by_ms) => {
                tracing::warn!(by_ms, "clock leap accepted; delivering due messages, removing expired ones");
            }
            ClockAlarm::Returned => tracing::info!("the wall clock is back at its expected time"),
            ClockAlarm::SetBack(by_ms) => {
                tracing::warn!(by_ms, "the wall clock was set back; scheduled messages are delivered later");
            }
        }
    }

    /// How far ahead the wall clock leapt, in milliseconds, while the leap is doubted.
    pub fn doubted_ms(&self) -> Option<i64> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).doubted_ms()
    }
}
