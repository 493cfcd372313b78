//! Progress of a consumer group in one queue.

use std::collections::BTreeMap;

use prost::Message;

use crate::queue_offset::QueueOffset;
use crate::record::{AckRange, FailedAttempts, QueueProgress};

/// Progress of one group in one queue: everything below `committed` is done, and so are the ranges above it.
/// Both the state machine (durable) and the delivery engine (eager) hold one and apply the same changes to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueAcks {
    committed: QueueOffset,
    /// Done ranges above `committed`, `start -> end`; disjoint and not adjacent.
    ranges: BTreeMap<QueueOffset, QueueOffset>,
    /// Failed attempts of offsets that are not done: `offset -> (attempts, visible_ms)`.
    attempted: BTreeMap<QueueOffset, (u32, i64)>,
    /// Receipt handles with lease numbers up to this one are void, because the offset was reset after they were issued.
    void_leases: u64,
}

/// Stored form of [`QueueAcks`]; field numbers are part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Message)]
struct StoredAcks {
    #[prost(uint64, tag = "1")]
    committed: u64,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<AckRange>,
    #[prost(message, repeated, tag = "3")]
    attempted: Vec<FailedAttempts>,
    #[prost(uint64, tag = "4")]
    void_leases: u64,
}

impl QueueAcks {
    /// Nothing done yet, starting at `offset`.
    pub fn starting_at(offset: QueueOffset) -> Self {
        Self { committed: offset, ..Self::default() }
    }

    /// Reopens everything from `offset` on, marks everything before it done, and voids receipt handles with lease
    /// numbers up to `void_leases`.
    pub fn reset_to(offset: QueueOffset, void_leases: u64) -> Self {
        Self { void_leases, ..Self::starting_at(offset) }
    }

    /// Receipt handles with lease numbers up to this one are void.
    pub fn void_leases(&self) -> u64 {
        self.void_leases
    }

    /// Every offset below this is done.
    pub fn committed(&self) -> QueueOffset {
        self.committed
    }

    /// Whether `offset` is done.
    pub fn is_done(&self, offset: QueueOffset) -> bool {
        offset < self.committed || self.range_end(offset).is_some()
    }

    /// The first offset at or after `offset` that is not done.
    pub fn next_open(&self, offset: QueueOffset) -> QueueOffset {
        let offset = offset.max(self.committed);
        self.range_end(offset).unwrap_or(offset)
    }

    /// Number of offsets below `end` that are not done.
    pub fn open_below(&self, end: QueueOffset) -> u64 {
        let done: u64 = self.ranges.range(..end).map(|(start, stop)| (*stop).min(end).since(*start)).sum();
        let open = end.since(self.committed).checked_sub(done);
        open.expect("no more is done than there is, for ranges do not overlap")
    }

    /// Failed attempts of offsets that are not done, in offset order: `(offset, attempts, visible_ms)`.
    pub fn attempted(&self) -> impl Iterator<Item = (QueueOffset, u32, i64)> + '_ {
        self.attempted.iter().map(|(offset, (attempts, visible_ms))| (*offset, *attempts, *visible_ms))
    }

    /// Whether anything is recorded for `offset`, even a delivery without a failed attempt.
    pub fn is_attempted(&self, offset: QueueOffset) -> bool {
        self.attempted.contains_key(&offset)
    }

    /// Failed attempts of `offset` so far.
    pub fn attempts_of(&self, offset: QueueOffset) -> u32 {
        self.attempted.get(&offset).map_or(0, |(attempts, _)| *attempts)
    }

    /// Marks `start .. end` done.
    pub fn ack(&mut self, start: QueueOffset, end: QueueOffset) {
        let start = start.max(self.committed);
        if start >= end {
            return;
        }
        self.attempted.retain(|offset, _| !(start..end).contains(offset));
        let (mut from, mut to) = (start, end);
        // Swallow every range that overlaps or touches; they lie at or before `to`, nearest first.
        while let Some((&s, &e)) = self.ranges.range(..=to).next_back() {
            if e < from {
                break;
            }
            self.ranges.remove(&s);
            from = from.min(s);
            to = to.max(e);
        }
        if from <= self.committed {
            self.committed = to;
        } else {
            self.ranges.insert(from, to);
        }
        let is_above = |(start, end): (&QueueOffset, &QueueOffset)| self.committed < *start && start < end;
        assert!(self.ranges.first_key_value().is_none_or(is_above), "done ranges lie above committed");
    }

    /// Reopens `start .. end`, as if these messages had never been finished.
    pub fn reopen(&mut self, start: QueueOffset, end: QueueOffset) {
        if start >= end {
            return;
        }
        let done = std::mem::take(&mut self.ranges)
            .into_iter()
            .chain([(QueueOffset::FIRST, std::mem::take(&mut self.committed))]);
        for (from, to) in done {
            self.ack(from, to.min(start));
            self.ack(from.max(end), to);
        }
        self.attempted.retain(|offset, _| !(start..end).contains(offset));
    }

    /// Records that `offset` failed; an offset that is done stays done.
    pub fn attempt(&mut self, offset: QueueOffset, attempts: u32, visible_ms: i64) {
        if !self.is_done(offset) {
            self.attempted.insert(offset, (attempts, visible_ms));
        }
    }

    /// Everything before `min` expired: it becomes done, except failed messages that wait for their next attempt.
    pub fn expire_below(&mut self, min: QueueOffset) {
        let waiting: Vec<QueueOffset> = self.attempted.range(..min).map(|(offset, _)| *offset).collect();
        let mut from = self.committed;
        for offset in waiting {
            self.ack(from, offset);
            from = offset.next();
        }
        self.ack(from, min);
    }

    /// Applies one logged change.
    pub fn apply(&mut self, progress: &QueueProgress) {
        if let Some(offset) = progress.reset_to {
            *self = Self::reset_to(QueueOffset::new(offset), progress.void_leases.max(self.void_leases));
        }
        for range in &progress.acked {
            self.ack(QueueOffset::new(range.start), QueueOffset::new(range.end));
        }
        for attempted in &progress.attempted {
            self.attempt(QueueOffset::new(attempted.offset), attempted.attempts, attempted.visible_ms);
        }
        assert!(self.void_leases >= progress.void_leases || progress.reset_to.is_none(), "void stays void");
    }

    /// Stored form.
    pub fn encode(&self) -> Vec<u8> {
        StoredAcks {
            committed: self.committed.get(),
            ranges: self
                .ranges
                .iter()
                .map(|(start, end)| AckRange { start: start.get(), end: end.get() })
                .collect(),
            attempted: self
                .attempted()
                .map(|(offset, attempts, visible_ms)| FailedAttempts {
                    offset: offset.get(),
                    attempts,
                    visible_ms,
                })
                .collect(),
            void_leases: self.void_leases,
        }
        .encode_to_vec()
    }

    /// Reads the stored form. The result always keeps the invariants of this type; contradicting parts of the input are
    /// dropped.
    ///
    /// # Errors
    /// The text of the protobuf error when `bytes` are not a stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored = StoredAcks::decode(bytes).map_err(|error| error.to_string())?;
        let mut acks = Self::reset_to(QueueOffset::new(stored.committed), stored.void_leases);
        for range in &stored.ranges {
            acks.ack(QueueOffset::new(range.start), QueueOffset::new(range.end));
        }
        for failed in &stored.attempted {
            acks.attempt(QueueOffset::new(failed.offset), failed.attempts, failed.visible_ms);
        }
        Ok(acks)
    }

    fn range_end(&self, offset: QueueOffset) -> Option<QueueOffset> {
        self.ranges.range(..=offset).next_back().map(|(_, end)| *end).filter(|end| *end > offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(offset: u64) -> QueueOffset {
        QueueOffset::new(offset)
    }

    proptest! {
        /// Against a plain set of offsets.
        #[test]
        fn ranges_agree_with_a_set(acks in prop::collection::vec((0u64..60, 1u64..6), 0..60)) {
            let mut acks_state = QueueAcks::starting_at(at(5));
            let mut done: BTreeSet<u64> = (0..5).collect();
            for (start, len) in acks {
                acks_state.ack(at(start), at(start + len));
                done.extend(start..start + len);
            }
            for offset in 0..80 {
                prop_assert_eq!(acks_state.is_done(at(offset)), done.contains(&offset), "offset {}", offset);
                let open = (offset..).find(|o| !done.contains(o));
                prop_assert_eq!(Some(acks_state.next_open(at(offset)).get()), open);
                let open_below = (0..offset).filter(|o| !done.contains(o)).count() as u64;
                prop_assert_eq!(acks_state.open_below(at(offset)), open_below);
            }
            prop_assert_eq!(Some(acks_state.committed().get()), (0..).find(|o| !done.contains(o)));
            prop_assert_eq!(QueueAcks::decode(&acks_state.encode()), Ok(acks_state));
        }

        #[test]
        fn what_is_reopened_is_open_and_nothing_else(
            acks in prop::collection::vec((0u64..60, 1u64..6), 0..40), start in 0u64..70, len in 0u64..30,
        ) {
            let mut before = QueueAcks::starting_at(at(5));
            acks.iter().for_each(|(start, len)| before.ack(at(*start), at(start + len)));
            let mut after = before.clone();
            after.reopen(at(start), at(start + len));
            for offset in 0..110 {
                let expected = before.is_done(at(offset)) && !(start..start + len).contains(&offset);
                prop_assert_eq!(after.is_done(at(offset)), expected, "offset {}", offset);
            }
            prop_assert_eq!(QueueAcks::decode(&after.encode()), Ok(after));
        }
    }

    #[test]
    fn what_waits_for_another_attempt_does_not_expire() {
        let mut acks = QueueAcks::starting_at(at(2));
        acks.attempt(at(4), 1, 0);
        acks.ack(at(7), at(8));
        acks.expire_below(at(6));
        assert_eq!((acks.committed(), acks.next_open(at(5))), (at(4), at(6)));
        acks.ack(at(4), at(5));
        acks.expire_below(at(9));
        assert_eq!(acks, QueueAcks::starting_at(at(9)));
    }

    #[test]
    fn attempts_are_kept_until_done() {
        let mut acks = QueueAcks::default();
        acks.attempt(at(3), 2, 1000);
        acks.attempt(at(4), 1, 2000);
        assert_eq!(acks.attempts_of(at(3)), 2);
        acks.ack(at(3), at(4));
        acks.attempt(at(3), 9, 9);
        assert_eq!(acks.attempted().collect::<Vec<_>>(), [(at(4), 1, 2000)]);
        assert_eq!(QueueAcks::decode(&acks.encode()), Ok(acks.clone()));
        acks.apply(&QueueProgress { reset_to: Some(2), void_leases: 7, ..QueueProgress::default() });
        assert_eq!(acks, QueueAcks::reset_to(at(2), 7));
        assert_eq!(QueueAcks::decode(&acks.encode()), Ok(acks.clone()));
        acks.apply(&QueueProgress { reset_to: Some(0), ..QueueProgress::default() });
        assert_eq!(acks, QueueAcks::reset_to(at(0), 7), "void handles stay void");
    }
}
