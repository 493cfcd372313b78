//! When to try again, and how long to wait before.

use crate::error::Error;
use std::time::Duration;

/// How often a call is tried and how the pauses between the attempts grow.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included; 1 means no retries.
    pub max_attempts: u32,
    /// Pause before the second attempt.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
    /// Factor from one pause to the next.
    pub multiplier: f64,
}

impl Default for RetryPolicy {
    /// Three attempts, pauses from 10 ms doubling up to 1 s: RocketMQ's figures.
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial: Duration::from_millis(10),
            max: Duration::from_secs(1),
            multiplier: 2.0,
        }
    }
}

impl RetryPolicy {
    /// Pause after the failed attempt number `attempt` (from 1).
    pub(crate) fn pause_after(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.max, |pause| pause.min(self.max))
    }

    /// What to do after attempt number `attempt` (from 1) of an idempotent call failed: the pause before the next one, or
    /// `None` to give up.
    pub(crate) fn next(&self, attempt: u32, error: &Error) -> Option<Duration> {
        (error.is_retryable() && attempt < self.max_attempts).then(|| self.pause_after(attempt))
    }

    /// The same for a half message. One that may have been stored already must not be stored again elsewhere: its twin
    /// would be checked back and committed as well, and consumers would get the message twice.
    pub(crate) fn next_for_half_message(&self, attempt: u32, error: &Error) -> Option<Duration> {
        if error.may_have_taken_effect() { None } else { self.next(attempt, error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerolox_proto::v2;

    fn throttled() -> Error {
        Error::Server {
            endpoint: "b:1".into(),
            code: v2::Code::TooManyRequests.into(),
            message: "slow down".into(),
        }
    }

    fn timeout() -> Error {
        Error::Timeout { endpoint: "b:1".into(), after: Duration::from_secs(3) }
    }

    #[test]
    fn pauses_grow_up_to_the_limit() {
        let policy = RetryPolicy { max_attempts: 100, ..RetryPolicy::default() };
        let pauses: Vec<u128> =
            [1, 2, 3, 7, 8, 99].iter().map(|n| policy.next(*n, &throttled()).unwrap().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 640, 1000, 1000]);
    }

    #[test]
    fn attempts_are_limited_and_only_for_retryable_errors() {
        let policy = RetryPolicy::default();
        assert!(policy.next(2, &timeout()).is_some());
        assert_eq!(policy.next(3, &timeout()), None);
        assert_eq!(policy.next(1, &Error::invalid("x")), None);
    }

    #[test]
    fn half_messages_are_repeated_only_when_surely_not_stored() {
        let policy = RetryPolicy::default();
        assert!(policy.next_for_half_message(1, &throttled()).is_some());
        assert_eq!(policy.next_for_half_message(1, &timeout()), None);
    }
}
