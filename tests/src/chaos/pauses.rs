//! The length of pauses in which no client could write.

use std::time::{Duration, Instant};

/// A fault shows within this time: that is longer than the others trust a master that they do not hear. The last fault of a
/// round begins earlier than this before its end, so the silence behind a round does not count.
const SHOWS_WITHIN: Duration = Duration::from_secs(3);

/// The longest time between two acknowledgements next to each other of which the earlier one came at most so long after the
/// fault, or was the last one before it. `None` without such a pair. The acknowledgements are in their order.
pub(super) fn after(fault: Instant, acknowledgements: &[Instant]) -> Option<Duration> {
    let from = acknowledgements.partition_point(|at| *at < fault).saturating_sub(1);
    let pairs = acknowledgements[from..].windows(2);
    pairs.take_while(|pair| pair[0] <= fault + SHOWS_WITHIN).map(|pair| pair[1] - pair[0]).max()
}

/// The value below which the given percentage of sorted `values` lies; zero without values.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_soon_after_a_fault_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let acknowledgements = [at(0), at(10), at(20), at(1_720), at(2_900), at(4_500), at(9_000)];
        assert_eq!(after(at(15), &acknowledgements), Some(Duration::from_millis(1_700)));
        assert_eq!(after(at(5_000), &acknowledgements), Some(Duration::from_millis(4_500)));
        assert_eq!(after(at(9_500), &acknowledgements), None);
    }

    #[test]
    fn percentiles_of_few_values() {
        let values: Vec<Duration> = (1..=5).map(Duration::from_secs).collect();
        assert_eq!(percentile(&values, 50), Duration::from_secs(3));
        assert_eq!(percentile(&values, 100), Duration::from_secs(5));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
