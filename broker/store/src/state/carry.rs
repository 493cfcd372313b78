//! The records of old segments that are still needed, and the positions of messages that were carried forward.

use kerolox_core::record::{CarriedOrigin, QueueState};

use crate::error::StoreError;
use crate::state::StateMachine;
use crate::state::held::{HeldKind, HeldTable, entry_of};
use crate::state::progress::ProgressId;
use crate::state::queues::QueueEntry;

/// A message record that has to be repeated before its segment can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToCarry {
    /// Current position of the record.
    pub location: u64,
    /// Length of its frame.
    pub len: u32,
    /// Number of the topic in which it is needed; the record's own topic may be a dead-letter topic.
    pub topic_id: u32,
    /// Queue of that topic.
    pub queue: u32,
    /// First position, offset and visible time; the store time is taken from the record.
    pub carried: CarriedOrigin,
}

impl ToCarry {
    /// A message that is visible at `offset`.
    fn visible(topic_id: u32, queue: u32, offset: u64, entry: &QueueEntry) -> Self {
        let QueueEntry { position, len, visible_ms, .. } = *entry;
        let carried = CarriedOrigin { position, offset: Some(offset), store_ms: 0, visible_ms };
        Self { location: position, len, topic_id, queue, carried }
    }
}

/// Sorts by log position and removes duplicates: several groups may wait for one message.
fn in_order(mut needed: Vec<ToCarry>) -> Vec<ToCarry> {
    needed.sort_unstable_by_key(|carry| carry.location);
    needed.dedup();
    needed
}

impl StateMachine {
    /// The entry of a message at an offset, wherever its record lies now; `None` when it never existed or has expired.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn entry(&self, topic_id: u32, queue: u32, offset: u64) -> Result<Option<QueueEntry>, StoreError> {
        Ok(self.entries_at(topic_id, &[(queue, offset)])?.pop().flatten())
    }

    /// [`Self::entry`] for several messages of a topic, given by queue and offset; in the given order. Consecutive offsets of
    /// a queue cost one look-up.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn entries_at(
        &self,
        topic_id: u32,
        places: &[(u32, u64)],
    ) -> Result<Vec<Option<QueueEntry>>, StoreError> {
        let mut found = Vec::with_capacity(places.len());
        for run in places.chunk_by(|(queue, offset), next| (*queue, offset + 1) == *next) {
            let (queue, first) = run[0];
            let mut entries = self.queues.entries(topic_id, queue, first, run.len())?.into_iter().peekable();
            for (_, offset) in run {
                found.push(match entries.next_if(|(at, _)| at == offset) {
                    Some((_, entry)) => Some(self.carried_entry(topic_id, queue, *offset, entry)?),
                    None => self.carried.get(topic_id, queue, *offset)?,
                });
            }
        }
        assert_eq!(found.len(), places.len(), "each place gets its answer");
        Ok(found)
    }

    /// [`Self::entry`] for a message whose entry in its queue is known: that entry has the first position of the
    /// record.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn carried_entry(
        &self,
        topic_id: u32,
        queue: u32,
        offset: u64,
        entry: QueueEntry,
    ) -> Result<QueueEntry, StoreError> {
        if entry.position >= self.trimmed() {
            return Ok(entry);
        }
        Ok(self.carried.get(topic_id, queue, offset)?.unwrap_or(entry))
    }

    /// The records before `before` that are still needed: undecided half messages, scheduled messages, messages of both kinds
    /// that became visible after it, and failed messages that wait for their next attempt.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn to_carry(&self, before: u64) -> Result<Vec<ToCarry>, StoreError> {
        let mut needed = Vec::new();
        self.held_to_carry(&self.transactions, before, &mut needed)?;
        self.held_to_carry(&self.timers, before, &mut needed)?;
        for (id, acks) in self.progress.all()? {
            let ProgressId { topic_id, queue, .. } = id;
            if !self.topics.has(topic_id) {
                continue;
            }
            for (offset, _, _) in acks.attempted() {
                let offset = offset.get();
                let Some(entry) = self.entry(topic_id, queue, offset)? else { continue };
                if entry.position < before {
                    needed.push(ToCarry::visible(topic_id, queue, offset, &entry));
                }
            }
        }
        Ok(in_order(needed))
    }

    fn held_to_carry<T: HeldKind>(
        &self,
        table: &HeldTable<T>,
        before: u64,
        needed: &mut Vec<ToCarry>,
    ) -> Result<(), StoreError> {
        table.each_before(before, |position, held| {
            let (topic_id, queue) = (held.topic_id, held.queue);
            let first = self.queues.bounds(topic_id, queue).min;
            let is_late = held.is_visible() && held.decided_at >= before && held.offset >= first;
            if held.location(position) >= before || !(held.is_open() || is_late) {
                return;
            }
            let carried = CarriedOrigin {
                position,
                offset: is_late.then_some(held.offset),
                store_ms: held.stored_ms,
                visible_ms: if is_late { held.decided_ms } else { 0 },
            };
            let QueueEntry { position: location, len, .. } = entry_of(&held, position, 0);
            needed.push(ToCarry { location, len, topic_id, queue, carried });
        })
    }

    /// The records that expire when the queues begin at these offsets, but are still needed: failed messages that wait
    /// for their next attempt.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn to_carry_below(&self, queues: &[QueueState]) -> Result<Vec<ToCarry>, StoreError> {
        let mut needed = Vec::new();
        for state in queues {
            let (topic_id, queue) = (state.topic_id, state.queue);
            let expiring = self.queues.bounds(topic_id, queue).min..state.next;
            for group_id in self.groups.ids() {
                let acks =
                    self.progress.logged(ProgressId { group_id, topic_id, queue })?.unwrap_or_default();
                for (offset, _, _) in
                    acks.attempted().filter(|(offset, _, _)| expiring.contains(&offset.get()))
                {
                    let offset = offset.get();
                    // A record that was carried forward before stays in its place.
                    let Some(entry) = self.entry(topic_id, queue, offset)? else { continue };
                    if self.carried.get(topic_id, queue, offset)?.is_none() {
                        needed.push(ToCarry::visible(topic_id, queue, offset, &entry));
                    }
                }
            }
        }
        Ok(in_order(needed))
    }

    /// Applies the repetition of a message at `entry`.
    pub(super) fn apply_carried(
        &mut self,
        topic_id: u32,
        queue: u32,
        carried: &CarriedOrigin,
        entry: QueueEntry,
    ) -> Result<(), StoreError> {
        let half = self.transactions.carry(carried.position, &entry)?;
        let timer = self.timers.carry(carried.position, &entry)?;
        // It may have become visible between the decision to carry it and this record.
        if let Some(offset) = carried.offset.or(half).or(timer) {
            self.carried.put(topic_id, queue, offset, &entry);
        }
        Ok(())
    }
}
