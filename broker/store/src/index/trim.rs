//! Giving up old segments: what they hold that is still needed, and what becomes of the rest.

use kerolox_core::record::{Carried, KeptMessage, QueueState, TrimRecord};
use kerolox_core::transaction::Phase;

use crate::error::StoreError;
use crate::index::entries::{Entry, decode_entry, encode_entry};
use crate::index::{Index, keys, lookup};
use crate::kv::{Family, pairs};

/// A message record that has to be repeated before its segment can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToCarry {
    /// Where the record lies now.
    pub location: u64,
    /// Length of its frame.
    pub len: u32,
    /// Number of the topic in which it is needed; that of the record may be a dead-letter topic.
    pub topic_id: u32,
    /// Its queue there.
    pub queue: u32,
    /// First position, offset and visible time; the store time is to be taken from the record.
    pub carried: Carried,
}

impl ToCarry {
    /// A message that is visible at `offset`.
    fn visible(topic_id: u32, queue: u32, offset: u64, entry: &Entry) -> Self {
        let Entry { position, len, visible_ms, .. } = *entry;
        let carried = Carried { position, offset: Some(offset), store_ms: 0, visible_ms };
        Self { location: position, len, topic_id, queue, carried }
    }
}

/// In the order of the log, and once each: several groups may wait for the same message.
fn in_order(mut needed: Vec<ToCarry>) -> Vec<ToCarry> {
    needed.sort_unstable_by_key(|carry| carry.location);
    needed.dedup();
    needed
}

impl Index {
    /// The entry of a message at an offset, wherever its record lies now; `None` when it was never there or expired.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn entry(&self, topic_id: u32, queue: u32, offset: u64) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries_at(topic_id, &[(queue, offset)])?.pop().flatten())
    }

    /// [`Self::entry`] for several messages of a topic, given by queue and offset; in the same order. Offsets that follow each
    /// other in a queue cost one look-up.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn entries_at(&self, topic_id: u32, places: &[(u32, u64)]) -> Result<Vec<Option<Entry>>, StoreError> {
        let mut found = Vec::with_capacity(places.len());
        for run in places.chunk_by(|(queue, offset), next| (*queue, offset + 1) == *next) {
            let (queue, first) = run[0];
            let mut entries = self.entries(topic_id, queue, first, run.len())?.into_iter().peekable();
            for (_, offset) in run {
                found.push(match entries.next_if(|(at, _)| at == offset) {
                    Some((_, entry)) => Some(self.carried_entry(topic_id, queue, *offset, entry)?),
                    None => self.kept(topic_id, queue, *offset)?,
                });
            }
        }
        Ok(found)
    }

    /// The same for a message whose entry in its queue is known: it says where the record lay first.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn carried_entry(
        &self,
        topic_id: u32,
        queue: u32,
        offset: u64,
        entry: Entry,
    ) -> Result<Entry, StoreError> {
        if entry.position >= self.trimmed {
            return Ok(entry);
        }
        Ok(self.kept(topic_id, queue, offset)?.unwrap_or(entry))
    }

    /// Everything before this position was given up.
    pub fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// What lies before `before` and is still needed: undecided half messages, messages that were committed after it, and
    /// messages whose delivery failed and that wait for their next attempt.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn to_carry(&self, before: u64) -> Result<Vec<ToCarry>, StoreError> {
        let mut needed = Vec::new();
        self.each_half_before(before, |position, half| {
            let late = half.phase() == Phase::Committed
                && half.decided_at >= before
                && half.offset >= self.queue_bounds(half.topic_id, half.queue).min;
            if half.location(position) >= before || !(half.is_undecided() || late) {
                return;
            }
            let offset = late.then_some(half.offset);
            let visible_ms = if late { half.decided_ms } else { 0 };
            let carried = Carried { position, offset, store_ms: half.stored_ms, visible_ms };
            let (location, len) = (half.location(position), half.frame_len);
            needed.push(ToCarry { location, len, topic_id: half.topic_id, queue: half.queue, carried });
        })?;
        for ((_, topic_id, queue), acks) in self.all_progress()? {
            if self.topic_by_id(topic_id).is_none() {
                continue;
            }
            for (offset, _, _) in acks.attempted() {
                let Some(entry) = self.entry(topic_id, queue, offset)? else { continue };
                if entry.position < before {
                    needed.push(ToCarry::visible(topic_id, queue, offset, &entry));
                }
            }
        }
        Ok(in_order(needed))
    }

    /// What expires when the queues begin at these offsets and is still needed: messages whose delivery failed and that
    /// wait for their next attempt.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn to_carry_below(&self, queues: &[QueueState]) -> Result<Vec<ToCarry>, StoreError> {
        let mut needed = Vec::new();
        for state in queues {
            let (topic_id, queue) = (state.topic_id, state.queue);
            let expiring = self.queue_bounds(topic_id, queue).min..state.next;
            for group_id in &self.meta.group_ids {
                let acks = self.logged_acks(*group_id, topic_id, queue)?.unwrap_or_default();
                for (offset, _, _) in acks.attempted().filter(|(offset, _, _)| expiring.contains(offset)) {
                    // One that was carried forward already stays where it is.
                    let Some(entry) = self.entry(topic_id, queue, offset)? else { continue };
                    if self.kept(topic_id, queue, offset)?.is_none() {
                        needed.push(ToCarry::visible(topic_id, queue, offset, &entry));
                    }
                }
            }
        }
        Ok(in_order(needed))
    }

    /// A message was repeated at `entry`.
    pub(super) fn apply_carried(
        &mut self,
        topic_id: u32,
        queue: u32,
        carried: &Carried,
        entry: Entry,
    ) -> Result<(), StoreError> {
        let mut offset = carried.offset;
        if let Some(half) = self.half(carried.position)? {
            let mut moved = half.clone();
            moved.carried_to = entry.position;
            moved.frame_len = entry.len;
            self.put_half(carried.position, Some(&half), &moved);
            // It may have been committed between the decision to carry it and this record.
            offset = offset.or((half.phase() == Phase::Committed).then_some(half.offset));
        }
        if let Some(offset) = offset {
            self.put_kept(&KeptMessage {
                topic_id,
                queue,
                offset,
                position: entry.position,
                len: entry.len,
                tag_hash: entry.tag_hash,
                visible_ms: entry.visible_ms,
            });
        }
        Ok(())
    }

    /// Gives up what lies before the record's position.
    pub(super) fn apply_trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        self.trimmed = self.trimmed.max(trim.before);
        let mut ops = vec![lookup::expire_before(self.trimmed)];
        for state in &trim.queues {
            let state =
                QueueState { next: self.certain_end(state.topic_id, state.queue).min(state.next), ..*state };
            self.queues.expire_before(&state, &mut ops);
        }
        // Ranges cannot be hidden by the overlay, so they go at once. That is safe: nobody looks below the smallest
        // offset any more, and after a crash the fold comes to this record again before anybody looks at all.
        self.kv.write(ops)?;
        let mut gone = Vec::new();
        let mut lost = Vec::new();
        self.each_half_before(trim.before, |position, half| {
            if !half.is_undecided() && half.decided_at < trim.before {
                gone.push((Family::Halves, keys::half(position)));
            }
            // It could not be read when it was to be carried.
            if half.is_undecided() && half.location(position) < trim.before {
                lost.push((position, half.clone()));
            }
        })?;
        for (position, half) in lost {
            self.drop_half(position, &half);
        }
        self.each_kept(|kept| {
            if kept.position < trim.before {
                gone.push((Family::Kept, keys::block(kept.topic_id, kept.queue, kept.offset)));
            }
        })?;
        for (family, key) in gone {
            self.overlay.delete(family, key);
        }
        Ok(())
    }

    pub(super) fn put_kept(&mut self, kept: &KeptMessage) {
        let entry = Entry {
            position: kept.position,
            len: kept.len,
            tag_hash: kept.tag_hash,
            visible_ms: kept.visible_ms,
        };
        let key = keys::block(kept.topic_id, kept.queue, kept.offset);
        self.overlay.put(Family::Kept, key, encode_entry(&entry).to_vec());
    }

    fn kept(&self, topic_id: u32, queue: u32, offset: u64) -> Result<Option<Entry>, StoreError> {
        let stored = self.overlay.get(Family::Kept, &keys::block(topic_id, queue, offset))?;
        stored.map(|bytes| decode_entry(&bytes)).transpose()
    }

    pub(super) fn each_kept(&self, mut visit: impl FnMut(KeptMessage)) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(Family::Kept, from, limit)) {
            let (key, value) = pair?;
            let (topic_id, queue, offset) = keys::parse_block(&key)?;
            let Entry { position, len, tag_hash, visible_ms } = decode_entry(&value)?;
            visit(KeptMessage { topic_id, queue, offset, position, len, tag_hash, visible_ms });
        }
        Ok(())
    }
}
