//! Settings of scheduled messages.

use kerolox_core::clock::ClockPolicy;
use kerolox_core::schedule::CLASSIC_LEVELS_MS;
use kerolox_core::timer::TimerPace;
use kerolox_runtime::config::{TimeSpan, span_list};
use serde::{Deserialize, Serialize};

/// Scheduled messages: when and how fast they become visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TimersConfig {
    /// Maximum number of messages that become visible with one record of the log.
    pub batch: usize,
    /// Maximum number of messages that become visible per second, so that a burst (all messages that came due while the
    /// broker was down, or at a full hour) leaves capacity for sends and deliveries; 0 means no limit.
    pub max_per_second: u64,
    /// Delays of the classic levels from 1 on, which a message requests with the user property `DELAY`.
    #[serde(deserialize_with = "span_list")]
    pub delay_levels: Vec<TimeSpan>,
    /// A step of the wall clock ahead of the monotonic clock by more than this is doubted.
    pub clock_leap: TimeSpan,
    /// Grace period: messages that are due or expired only because of the step are held back, and health checks report
    /// it.
    pub clock_grace: TimeSpan,
}

impl Default for TimersConfig {
    fn default() -> Self {
        Self {
            batch: 1_000,
            max_per_second: 50_000,
            delay_levels: CLASSIC_LEVELS_MS.map(TimeSpan::from_millis).to_vec(),
            clock_leap: TimeSpan::from_secs(5),
            clock_grace: TimeSpan::from_secs(10),
        }
    }
}

impl TimersConfig {
    /// Limits of the clock guard in the core's form.
    pub fn clock_policy(&self) -> ClockPolicy {
        ClockPolicy {
            leap_ms: i64::try_from(self.clock_leap.as_millis()).unwrap_or(i64::MAX),
            grace_ms: self.clock_grace.as_millis(),
        }
    }

    /// Rate limits in the core's form.
    pub fn pace(&self) -> TimerPace {
        TimerPace { batch: self.batch, per_second: self.max_per_second }
    }
}
