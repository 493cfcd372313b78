//! When to try again, and how long to wait before.

use crate::error::{Error, Result};
use crate::member::Member;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// How often a call is tried, for how long, and how the pauses between the attempts grow.
///
/// The default goes on for 15 s, with pauses from 10 ms doubling up to 1 s: longer than a broker group takes to elect a master.
///
/// ```
/// use kerolox_client::RetryPolicy;
/// use std::time::Duration;
///
/// // As RocketMQ's SDKs do it.
/// let policy = RetryPolicy::default().attempts(3);
/// assert_ne!(policy, RetryPolicy::default().within(Duration::from_secs(60)));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    attempts: u32,
    first_pause: Duration,
    longest_pause: Duration,
    within: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: u32::MAX,
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_secs(1),
            within: Duration::from_secs(15),
        }
    }
}

impl RetryPolicy {
    /// One attempt only.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// Attempts in all, the first one included; as many as there is time for by default. Zero is as good as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The pause before the second attempt, and the longest one; each is twice as long as the one before it.
    #[must_use]
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// How long after the first attempt began the last one may begin. The last attempt then still has a request's full time limit.
    #[must_use]
    pub fn within(mut self, duration: Duration) -> Self {
        self.within = duration;
        self
    }

    /// Pause after the failed attempt number `attempt` (from 1).
    pub(crate) fn pause_after(&self, attempt: u32) -> Duration {
        let factor = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_pause.saturating_mul(factor).min(self.longest_pause)
    }

    /// What to do after attempt number `attempt` (from 1) of an idempotent call failed, `elapsed` after the first one began: the
    /// pause before the next one, or `None` to give up.
    pub(crate) fn next(&self, attempt: u32, elapsed: Duration, error: &Error) -> Option<Duration> {
        let pause = self.pause_after(attempt);
        let has_time = elapsed.saturating_add(pause) <= self.within;
        (error.is_retryable() && attempt < self.attempts && has_time).then_some(pause)
    }

    /// Like [`Self::next`], for a half message. One that may have been stored already must not be stored again
    /// elsewhere: its twin would be checked back and committed as well, and consumers would get the message twice.
    pub(crate) fn next_for_half_message(
        &self,
        attempt: u32,
        elapsed: Duration,
        error: &Error,
    ) -> Option<Duration> {
        if error.may_have_taken_effect() { None } else { self.next(attempt, elapsed, error) }
    }

    /// Makes an idempotent call until it succeeds or is not worth another attempt. Failures that a newer route may cure have
    /// `member` look for one.
    pub(crate) async fn persist<T, F>(&self, member: &Member, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            member.learn_from(&error);
            match self.next(attempt, started.elapsed(), &error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
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
        let policy = RetryPolicy::default();
        let pause = |attempt| policy.next(attempt, Duration::ZERO, &throttled()).unwrap().as_millis();
        assert_eq!([1, 2, 3, 7, 8, 99, u32::MAX - 1].map(pause), [10, 20, 40, 640, 1000, 1000, 1000]);
    }

    #[test]
    fn attempts_and_time_are_limited_and_only_for_retryable_errors() {
        let policy = RetryPolicy::default().attempts(3);
        assert!(policy.next(2, Duration::ZERO, &timeout()).is_some());
        assert_eq!(policy.next(3, Duration::ZERO, &timeout()), None);
        assert_eq!(policy.next(1, Duration::ZERO, &Error::invalid("x")), None);
        let brief = RetryPolicy::default().within(Duration::from_millis(100));
        assert!(brief.next(1, Duration::from_millis(90), &timeout()).is_some());
        assert_eq!(brief.next(1, Duration::from_millis(91), &timeout()), None);
        assert_eq!(RetryPolicy::never().next(1, Duration::ZERO, &timeout()), None);
    }

    #[test]
    fn half_messages_are_repeated_only_when_surely_not_stored() {
        let policy = RetryPolicy::default();
        assert!(policy.next_for_half_message(1, Duration::ZERO, &throttled()).is_some());
        assert_eq!(policy.next_for_half_message(1, Duration::ZERO, &timeout()), None);
    }
}
