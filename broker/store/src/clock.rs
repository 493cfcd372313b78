//! The time that records are stamped with, and that everything goes by which delivers or destroys by time: the wall clock,
//! guarded against leaps.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use kerolox_core::clock::{ClockAlarm, ClockGuard, ClockPolicy, ClockReading};
use kerolox_log::sabotage;

use crate::gate::mono_ms;

type Wall = Box<dyn Fn() -> i64 + Send + Sync>;
type Monotonic = Box<dyn Fn() -> u64 + Send + Sync>;

/// The guarded wall clock. Whoever looks keeps it up to date; a broker does so at least once a second.
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
    /// Guards `wall`, milliseconds since the Unix epoch, with the machine's clock that no one sets.
    pub fn new(policy: ClockPolicy, wall: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self::against(policy, wall, mono_ms)
    }

    /// The same with another clock that never runs backwards, in milliseconds.
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
        // Inside the lock, so that nobody shows the guard an older time after a newer one.
        guard.look((self.wall)(), (self.monotonic)())
    }

    fn tell(&self, alarm: ClockAlarm) {
        let grace_ms = self.grace_ms;
        match alarm {
            ClockAlarm::Leapt(by_ms) => tracing::error!(
                by_ms,
                grace_ms,
                "the wall clock leapt ahead; what is due or too old only by the leap waits for the grace, and stays"
            ),
            ClockAlarm::Believed(by_ms) => {
                tracing::warn!(
                    by_ms,
                    "the leap of the wall clock is believed; what is due is delivered, what is too old goes"
                );
            }
            ClockAlarm::Returned => tracing::info!("the wall clock is back to where it should be"),
            ClockAlarm::SetBack(by_ms) => {
                tracing::warn!(by_ms, "the wall clock was set back; scheduled messages come later");
            }
        }
    }

    /// By how much the wall clock leapt ahead, while that is doubted; milliseconds.
    pub fn doubted_ms(&self) -> Option<i64> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).doubted_ms()
    }
}
