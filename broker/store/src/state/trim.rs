//! Giving up old segments: what they hold that is still needed, and what becomes of the rest.

use kerolox_core::record::{Carried, KeptMessage, QueueState, TrimRecord};
use kerolox_core::timer::Timer;
use kerolox_core::transaction::Half;

use crate::error::StoreError;
use crate::kv::{Family, pairs};
use crate::state::entries::{Entry, decode_entry, encode_entry};
use crate::state::held::Held;
use crate::state::{StateMachine, keys, lookup};

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

impl StateMachine {
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

    /// What lies before `before` and is still needed: undecided half messages, scheduled messages, messages of both kinds that
    /// became visible after it, and messages whose delivery failed and that wait for their next attempt.
    ///
    /// # Errors
    /// See [`Self::entry`].
    pub fn to_carry(&self, before: u64) -> Result<Vec<ToCarry>, StoreError> {
        let mut needed = Vec::new();
        self.held_to_carry::<Half>(before, &mut needed)?;
        self.held_to_carry::<Timer>(before, &mut needed)?;
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

    fn held_to_carry<T: Held>(&self, before: u64, needed: &mut Vec<ToCarry>) -> Result<(), StoreError> {
        self.each_held_before(before, |position, held: T| {
            let (topic_id, queue) = held.queue();
            let first = self.queue_bounds(topic_id, queue).min;
            let late = held.visible().filter(|shown| held.decided_at() >= before && shown.offset >= first);
            if held.location(position) >= before || !(held.is_open() || late.is_some()) {
                return;
            }
            let carried = Carried {
                position,
                offset: late.as_ref().map(|shown| shown.offset),
                store_ms: held.stored_ms(),
                visible_ms: late.map_or(0, |shown| shown.since_ms),
            };
            let Entry { position: location, len, .. } = held.entry(position, 0);
            needed.push(ToCarry { location, len, topic_id, queue, carried });
        })
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
        let half = self.move_held::<Half>(carried.position, &entry)?;
        let timer = self.move_held::<Timer>(carried.position, &entry)?;
        // It may have become visible between the decision to carry it and this record.
        if let Some(offset) = carried.offset.or(half).or(timer) {
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

    /// The record of a held message lies elsewhere; returns its offset if it is visible.
    fn move_held<T: Held>(&mut self, position: u64, entry: &Entry) -> Result<Option<u64>, StoreError> {
        let Some(held) = self.held::<T>(position)? else { return Ok(None) };
        self.put_held(position, Some(&held), &held.moved(entry.position, entry.len));
        Ok(held.visible().map(|shown| shown.offset))
    }

    /// Gives up what lies before the record's position; `false` if what lies behind it cannot do without.
    pub(super) fn apply_trim(&mut self, trim: &TrimRecord) -> Result<bool, StoreError> {
        if self.hangs_on(trim.before)? {
            return Ok(false);
        }
        self.forget_hanging(trim.before)?;
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
        self.trim_held::<Half>(trim.before)?;
        self.trim_held::<Timer>(trim.before)?;
        let mut gone = Vec::new();
        self.each_kept(|kept| {
            if kept.position < trim.before {
                gone.push(keys::block(kept.topic_id, kept.queue, kept.offset));
            }
        })?;
        for key in gone {
            self.overlay.delete(Family::Kept, key);
        }
        Ok(true)
    }

    /// Forgets what was decided before the log begins, and what is open but could not be read when it was to be carried.
    fn trim_held<T: Held>(&mut self, before: u64) -> Result<(), StoreError> {
        let (mut gone, mut lost) = (Vec::new(), Vec::new());
        self.each_held_before(before, |position, held: T| {
            if !held.is_open() && held.decided_at() < before {
                gone.push(position);
            }
            if held.is_open() && held.location(position) < before {
                lost.push((position, held));
            }
        })?;
        for position in gone {
            self.overlay.delete(T::FAMILY, keys::held(position));
        }
        for (position, held) in lost {
            self.drop_held(position, &held);
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
