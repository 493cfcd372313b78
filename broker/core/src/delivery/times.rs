//! When what is in flight in one queue needs attention.

use std::collections::BTreeSet;

use super::cursor::InFlight;

type ByTime = BTreeSet<(i64, u64)>;

/// `(visible_ms, offset)` of everything in flight, by what happens then.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    /// Handed out again.
    due: ByTime,
    /// Given up: it is on its last attempt.
    last: ByTime,
    /// Renewed, if its client lives.
    renewed: ByTime,
}

impl Times {
    pub(super) fn insert(&mut self, offset: u64, flight: &InFlight, max_attempts: u32) {
        let set = if flight.renew_until_ms.is_some() {
            &mut self.renewed
        } else if flight.attempts >= max_attempts {
            &mut self.last
        } else {
            &mut self.due
        };
        set.insert((flight.visible_ms, offset));
    }

    pub(super) fn remove(&mut self, offset: u64, flight: &InFlight) {
        for set in [&mut self.due, &mut self.last, &mut self.renewed] {
            set.remove(&(flight.visible_ms, offset));
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is visible again and has waited longest.
    pub(super) fn due(&self, now_ms: i64) -> Option<u64> {
        first(&self.due, now_ms)
    }

    /// What failed for the last time.
    pub(super) fn last(&self, now_ms: i64) -> Option<u64> {
        first(&self.last, now_ms)
    }

    /// What has to be renewed or made visible.
    pub(super) fn renewed(&self, now_ms: i64) -> Option<u64> {
        first(&self.renewed, now_ms)
    }

    /// When the first of those that are not visible yet is handed out again.
    pub(super) fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        after(&self.due, now_ms)
    }

    /// When the first is given up or renewed, which nobody has to ask for.
    pub(super) fn first_other_ms(&self) -> Option<i64> {
        [&self.last, &self.renewed].into_iter().filter_map(|set| set.first()).map(|(ms, _)| *ms).min()
    }
}

fn after(set: &ByTime, now_ms: i64) -> Option<i64> {
    set.range((now_ms.saturating_add(1), 0)..).next().map(|(visible_ms, _)| *visible_ms)
}

fn first(set: &ByTime, now_ms: i64) -> Option<u64> {
    set.first().filter(|(visible_ms, _)| *visible_ms <= now_ms).map(|(_, offset)| *offset)
}
