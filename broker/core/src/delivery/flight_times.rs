//! Due times of the messages in flight in one queue.

use std::collections::BTreeSet;

use super::flight::Flight;
use crate::queue_offset::QueueOffset;

type OffsetsByTime = BTreeSet<(i64, QueueOffset)>;

/// `(visible_ms, offset)` of everything in flight, by the action that is due then. A blocked message has no time.
#[derive(Debug, Clone, Default)]
pub(super) struct FlightTimes {
    /// Due to be handed out again.
    due: OffsetsByTime,
    /// Due to be given up: on the last attempt.
    last_attempt: OffsetsByTime,
    /// Due to be renewed, if the client lives.
    renewed: OffsetsByTime,
}

impl FlightTimes {
    pub(super) fn insert(&mut self, offset: QueueOffset, flight: &Flight, max_attempts: u32) {
        let set = if flight.is_blocked() {
            return;
        } else if flight.renewal().is_some() {
            &mut self.renewed
        } else if flight.attempts >= max_attempts {
            &mut self.last_attempt
        } else {
            &mut self.due
        };
        set.insert((flight.visible_ms, offset));
    }

    pub(super) fn remove(&mut self, offset: QueueOffset, flight: &Flight) {
        for set in [&mut self.due, &mut self.last_attempt, &mut self.renewed] {
            set.remove(&(flight.visible_ms, offset));
        }
    }

    /// The visible message that has waited longest.
    pub(super) fn first_due(&self, now_ms: i64) -> Option<QueueOffset> {
        first(&self.due, now_ms)
    }

    /// A message whose last attempt failed.
    pub(super) fn first_exhausted(&self, now_ms: i64) -> Option<QueueOffset> {
        first(&self.last_attempt, now_ms)
    }

    /// A message whose lease is to be renewed or ended.
    pub(super) fn first_to_renew(&self, now_ms: i64) -> Option<QueueOffset> {
        first(&self.renewed, now_ms)
    }

    /// When the first message that is not visible yet becomes due.
    pub(super) fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        after(&self.due, now_ms)
    }

    /// When the first message is given up or renewed, which no receive has to ask for.
    pub(super) fn first_sweep_ms(&self) -> Option<i64> {
        [&self.last_attempt, &self.renewed].into_iter().filter_map(|set| set.first()).map(|(ms, _)| *ms).min()
    }
}

fn after(set: &OffsetsByTime, now_ms: i64) -> Option<i64> {
    set.range((now_ms.saturating_add(1), QueueOffset::FIRST)..).next().map(|(visible_ms, _)| *visible_ms)
}

fn first(set: &OffsetsByTime, now_ms: i64) -> Option<QueueOffset> {
    set.first().filter(|(visible_ms, _)| *visible_ms <= now_ms).map(|(_, offset)| *offset)
}
