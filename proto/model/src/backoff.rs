//! Delays between delivery attempts.

use std::str::FromStr;
use std::time::Duration;

use crate::units::TimeSpan;

/// Most delays of a list; RocketMQ's classic list has 16.
pub const BACKOFF_STEPS_MAX: usize = 64;
/// Longest delay: a message can be put off for no longer ([`crate::limits::INVISIBLE_MS_MAX`]).
const DELAY_MAX: Duration = Duration::from_millis(crate::limits::INVISIBLE_MS_MAX);

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

    /// The delays of RocketMQ's ordered consumers: 1 s and 5 s before the classic ones. The messages behind a
    /// failed one wait for it, so the first delays are short.
    pub fn ordered() -> Self {
        let Self::Listed(classic) = Self::classic() else { return Self::classic() };
        Self::Listed([1, 5].map(Duration::from_secs).into_iter().chain(classic).collect())
    }

    /// What a group gets that sets no delays, by whether it consumes in order.
    pub fn by_default(is_ordered: bool) -> Self {
        if is_ordered { Self::ordered() } else { Self::classic() }
    }

    /// Delay before the attempt that follows attempt number `attempt` (counted from 1).
    pub fn delay(&self, attempt: u32) -> Duration {
        let step = attempt.saturating_sub(1);
        match self {
            Self::Exponential { initial, max, multiplier } => {
                let steps = i32::try_from(step).unwrap_or(i32::MAX);
                let seconds = initial.as_secs_f64() * f64::from(*multiplier).powi(steps);
                // Also catches delays that are too large for a Duration.
                Duration::try_from_secs_f64(seconds).map_or(*max, |delay| delay.min(*max))
            }
            Self::Listed(delays) => {
                let index = usize::try_from(step).unwrap_or(usize::MAX).min(delays.len().saturating_sub(1));
                delays.get(index).copied().unwrap_or(Duration::from_secs(10))
            }
        }
    }
}

/// A text that is no [`Backoff`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no back-off ({reason}); write a list of delays such as 1s/10s/5m, or exponential/FIRST/LONGEST/FACTOR such as exponential/1s/2h/2"
)]
pub struct BackoffError {
    text: String,
    reason: &'static str,
}

impl FromStr for Backoff {
    type Err = BackoffError;

    fn from_str(text: &str) -> Result<Self, BackoffError> {
        let wrong = |reason| BackoffError { text: text.to_owned(), reason };
        let delay = |part: &str| {
            let span: TimeSpan =
                part.parse().map_err(|_| wrong("a delay is not of the form 500ms, 6s, 5m or 2h"))?;
            let delay = span.duration();
            if delay > DELAY_MAX { Err(wrong("a delay is longer than 12h")) } else { Ok(delay) }
        };
        let parts: Vec<&str> = text.split('/').map(str::trim).collect();
        if let [kind, parts @ ..] = parts.as_slice()
            && kind.eq_ignore_ascii_case("exponential")
        {
            let [initial, max, multiplier] = parts else { return Err(wrong("it has not three parts")) };
            let multiplier: f32 = multiplier.parse().map_err(|_| wrong("the factor is no number"))?;
            let (initial, max) = (delay(initial)?, delay(max)?);
            if !(1.0..=100.0).contains(&multiplier) {
                return Err(wrong("the factor is not between 1 and 100"));
            }
            if max < initial || initial.is_zero() {
                return Err(wrong("the first delay is zero or longer than the longest"));
            }
            return Ok(Self::Exponential { initial, max, multiplier });
        }
        if parts.len() > BACKOFF_STEPS_MAX {
            return Err(wrong("it has more than 64 delays"));
        }
        parts.iter().map(|part| delay(part)).collect::<Result<_, _>>().map(Self::Listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_exponential_growth_are_understood() {
        let seconds = |list: &[u64]| Backoff::Listed(list.iter().map(|s| Duration::from_secs(*s)).collect());
        assert_eq!("1s/10s/5m".parse(), Ok(seconds(&[1, 10, 300])));
        assert_eq!("0s".parse(), Ok(seconds(&[0])));
        let growing: Backoff = "exponential/1s/2h/1.5".parse().expect("legal");
        assert_eq!(growing.delay(1), Duration::from_secs(1));
        assert_eq!(growing.delay(3), Duration::from_millis(2250));
        assert_eq!(growing.delay(1000), Duration::from_secs(7200));
    }

    #[test]
    fn ordered_consumers_try_again_sooner() {
        let seconds = |backoff: Backoff| [1, 2, 3, 4, 99].map(|attempt| backoff.delay(attempt).as_secs());
        assert_eq!(seconds(Backoff::by_default(true)), [1, 5, 10, 30, 7200]);
        assert_eq!(seconds(Backoff::by_default(false)), [10, 30, 60, 120, 7200]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (bad, reason) in [
            ("", "not of the form"),
            ("1s/x", "not of the form"),
            ("13h", "longer than 12h"),
            ("exponential/1s/2h", "three parts"),
            ("exponential/1s/2h/0.5", "between 1 and 100"),
            ("exponential/3h/2h/2", "longer than the longest"),
            ("exponential/1s/2h/two", "no number"),
        ] {
            let refused = bad.parse::<Backoff>().expect_err("must be refused").to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
