//! How many messages a second come and go.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often totals are noted.
pub(super) const SAMPLED: Duration = Duration::from_secs(1);
/// Over how many of these a rate is taken.
const SAMPLES: usize = 10;

/// Totals of the last seconds: messages that came, and that went.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<VecDeque<(Instant, (u64, u64))>>);

impl Rates {
    /// Notes totals.
    pub(super) fn note(&self, now: Instant, totals: (u64, u64)) {
        let mut noted = self.0.lock();
        noted.push_back((now, totals));
        while noted.len() > SAMPLES {
            noted.pop_front();
        }
    }

    /// What was added a second since the oldest totals that are known; nothing before the first ones are.
    pub(super) fn now(&self, now: Instant, totals: (u64, u64)) -> (f64, f64) {
        let noted = self.0.lock();
        let Some((since, (came, went))) = noted.front() else { return (0.0, 0.0) };
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        if seconds == 0.0 {
            return (0.0, 0.0);
        }
        #[allow(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
        let rate = |total: u64, before: u64| total.saturating_sub(before) as f64 / seconds;
        (rate(totals.0, *came), rate(totals.1, *went))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_over_the_last_seconds() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.now(start, (5, 5)), (0.0, 0.0));
        for second in 0..30 {
            rates.note(start + SAMPLED * second, (u64::from(second) * 100, 7));
        }
        // The oldest of ten is that of second 20.
        assert_eq!(rates.now(start + SAMPLED * 30, (3_000, 7)), (100.0, 0.0));
    }
}
