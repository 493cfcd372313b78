//! Unordered delivery: every message may be handed out beside every other one.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::QueueLedger;
use super::members::FilterId;
use super::policy::DeliveryPolicy;
use crate::queue_offset::QueueOffset;

/// Messages of a queue that may wait until all members are known before the engine stops looking further.
pub(super) const HELD_BACK_MAX: usize = 10_000;

/// The messages of an unordered queue that the engine has looked at, and those kept for certain filters.
#[derive(Debug, Clone, Default)]
pub(super) struct UnorderedQueue {
    /// Next offset for the engine to look at.
    next: QueueOffset,
    /// Messages that the engine has looked at and keeps for consumers with a filter.
    kept: BTreeMap<FilterId, BTreeSet<QueueOffset>>,
}

impl UnorderedQueue {
    /// Looks at a queue from an offset on.
    pub(super) fn from(next: QueueOffset) -> Self {
        Self { next, kept: BTreeMap::new() }
    }

    /// The next offset that was never handed out; messages kept for this filter come first.
    pub(super) fn take_fresh(
        &mut self,
        ledger: &QueueLedger,
        policy: &DeliveryPolicy,
        filter: FilterId,
    ) -> Option<QueueOffset> {
        if ledger.flights_len() >= policy.in_flight_max {
            return None;
        }
        if self.kept.get(&FilterId::UNKNOWN).is_some_and(|kept| kept.len() >= HELD_BACK_MAX) {
            return None;
        }
        if let Some(offset) = self.kept.get_mut(&filter).and_then(BTreeSet::pop_first) {
            return Some(offset);
        }
        self.next = self.next_unseen(ledger);
        let offset = self.next;
        (offset < ledger.end()).then(|| {
            self.next = offset.next();
            offset
        })
    }

    fn next_unseen(&self, ledger: &QueueLedger) -> QueueOffset {
        let was_seen = |offset| ledger.flight(offset).is_some() || self.is_kept(offset);
        let mut offset = ledger.acks().next_open(self.next);
        while offset < ledger.end() && was_seen(offset) {
            offset = ledger.acks().next_open(offset.next());
        }
        offset
    }

    fn is_kept(&self, offset: QueueOffset) -> bool {
        self.kept.values().any(|kept| kept.contains(&offset))
    }

    /// Keeps a message for consumers with one of these filters. It is no longer in flight, and its attempts count when one of
    /// them takes it.
    pub(super) fn keep_for(&mut self, ledger: &mut QueueLedger, offset: QueueOffset, filters: &[FilterId]) {
        // It may have expired since it was picked.
        if ledger.acks().is_done(offset) {
            return;
        }
        if let Some(flight) = ledger.take_out(offset)
            && flight.attempts != ledger.acks().attempts_of(offset)
        {
            ledger.note_attempts(offset, flight.attempts, flight.visible_ms);
        }
        for filter in filters {
            self.kept.entry(*filter).or_default().insert(offset);
        }
    }

    /// Releases the messages that were kept for this filter alone, and returns them: no member has it any longer.
    pub(super) fn forget_filter(&mut self, filter: FilterId) -> Vec<QueueOffset> {
        let kept = self.kept.remove(&filter).unwrap_or_default();
        kept.into_iter().filter(|offset| !self.is_kept(*offset)).collect()
    }

    /// Stops keeping a message that is in flight or done.
    pub(super) fn forget(&mut self, offset: QueueOffset) {
        for kept in self.kept.values_mut() {
            kept.remove(&offset);
        }
    }

    /// Forgets what expired.
    pub(super) fn expire_below(&mut self, ledger: &QueueLedger, min: QueueOffset) {
        for kept in self.kept.values_mut() {
            kept.retain(|offset| *offset >= min || !ledger.acks().is_done(*offset));
        }
    }
}
