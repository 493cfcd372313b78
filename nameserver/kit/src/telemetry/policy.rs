//! What the server decides about its clients' settings.

use std::time::Duration;

use kerolox_proto::v2;

use crate::refusal::Refusal;

/// Delays between the delivery attempts of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// `initial`, then `multiplier` times as long each time, at most `max`.
    Exponential {
        /// Delay before the second attempt.
        initial: Duration,
        /// Longest delay.
        max: Duration,
        /// Growth per attempt, at least 1.
        multiplier: f32,
    },
    /// The delays one by one; the last one is repeated. Never empty.
    Listed(Vec<Duration>),
}

impl Backoff {
    /// The delays of RocketMQ's classic consumer retry: 10 s to 2 h in 16 steps.
    pub fn classic() -> Self {
        const SECONDS: [u64; 16] =
            [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
        Self::Listed(SECONDS.map(Duration::from_secs).to_vec())
    }

    /// Delay before the attempt that follows attempt number `attempt` (counted from 1).
    pub fn delay(&self, attempt: u32) -> Duration {
        let step = attempt.saturating_sub(1);
        match self {
            Self::Exponential { initial, max, multiplier } => {
                let steps = i32::try_from(step).unwrap_or(i32::MAX);
                let seconds = initial.as_secs_f64() * f64::from(*multiplier).powi(steps);
                // Also catches what is too large to be a Duration.
                Duration::try_from_secs_f64(seconds).map_or(*max, |delay| delay.min(*max))
            }
            Self::Listed(delays) => {
                let index = usize::try_from(step).unwrap_or(usize::MAX).min(delays.len().saturating_sub(1));
                delays.get(index).copied().unwrap_or(Duration::from_secs(10))
            }
        }
    }

    /// The same, or the closest, as an exponential strategy of the protocol.
    pub(super) fn to_exponential(&self, attempts: u32) -> v2::ExponentialBackoff {
        let (initial, max, multiplier) = match self {
            Self::Exponential { initial, max, multiplier } => (*initial, *max, *multiplier),
            Self::Listed(_) => (self.delay(1), self.delay(attempts), 2.0),
        };
        v2::ExponentialBackoff {
            initial: Some(to_proto(initial)),
            max: Some(to_proto(max.max(initial))),
            multiplier,
        }
    }

    /// The delays of the first `attempts` attempts as a list of the protocol.
    pub(super) fn to_customized(&self, attempts: u32) -> v2::CustomizedBackoff {
        // No SDK needs more steps than this, and a group may allow thousands of attempts.
        const STEPS_MAX: u32 = 64;
        let steps = 1..=attempts.clamp(1, STEPS_MAX);
        v2::CustomizedBackoff { next: steps.map(|attempt| to_proto(self.delay(attempt))).collect() }
    }
}

/// What a consumer group's members are told.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPolicy {
    /// Deliveries of a message before it is a dead letter, the first one included.
    pub max_attempts: u32,
    /// Whether messages of one message group are delivered in order.
    pub fifo: bool,
    /// Delays between attempts.
    pub backoff: Backoff,
}

impl Default for GroupPolicy {
    /// What RocketMQ gives a group that nobody configured: 16 retries at the classic delays, not ordered.
    fn default() -> Self {
        Self { max_attempts: 17, fifo: false, backoff: Backoff::classic() }
    }
}

/// The server's part of the settings; a broker answers out of its configuration and its groups.
pub trait SettingsPolicy: Send + Sync {
    /// Largest message body that is accepted, in bytes.
    fn max_body_bytes(&self) -> usize;

    /// The policy of a consumer group (stored name, namespace included); the default when the group is not known.
    fn group(&self, stored_group: &str) -> GroupPolicy;

    /// Checks a subscription's filter.
    ///
    /// # Errors
    /// ILLEGAL_FILTER_EXPRESSION when it cannot be used.
    fn check_filter(&self, filter: &v2::FilterExpression) -> Result<(), Refusal> {
        let _ = filter;
        Ok(())
    }
}

/// A policy without knowledge of groups, for servers that keep none.
#[derive(Debug, Clone)]
pub struct DefaultPolicy {
    /// Largest message body that is accepted, in bytes.
    pub max_body_bytes: usize,
}

impl SettingsPolicy for DefaultPolicy {
    fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    fn group(&self, _stored_group: &str) -> GroupPolicy {
        GroupPolicy::default()
    }
}

pub(super) fn to_proto(duration: Duration) -> prost_types::Duration {
    // Centuries do not occur, and the protocol could not carry them.
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}
