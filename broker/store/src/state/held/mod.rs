//! The common table of half messages and scheduled messages: held records, found by position, and by due time while they are
//! open.

mod kinds;

use std::collections::HashMap;
use std::sync::Arc;

use kerolox_core::held::HeldMessage;
use kerolox_core::record::{HeldState, SnapshotRecord, TrimRecord};

use crate::error::StoreError;
use crate::kv::{KeyFamily, KeyValue, Kv, WriteOp};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::queues::QueueEntry;
use crate::state::snapshot::SnapshotLists;
use crate::state::table::{ComparedKey, QueueId, ReplayBegin, StateTable};

pub use kinds::HeldKind;
use kinds::NEVER_MS;

/// Messages of one kind that are held back, by position.
pub struct HeldTable<T> {
    overlay: Overlay,
    /// Number of open messages, by topic.
    open: HashMap<u32, u64>,
    kind: std::marker::PhantomData<T>,
}

impl<T: HeldKind> HeldTable<T> {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        let overlay = Overlay::new(kv.clone());
        Self { overlay, open: HashMap::new(), kind: std::marker::PhantomData }
    }

    /// The message at a position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or the value is malformed.
    pub fn get(&self, position: u64) -> Result<Option<T>, StoreError> {
        let stored = self.overlay.get(T::FAMILY, &keys::held(position))?;
        stored.map(|bytes| decoded(&bytes)).transpose()
    }

    /// Up to `limit` open messages that are due at or before `until_ms`, longest due first, each with its position,
    /// beginning after the `(due time, position)` given.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn due(
        &self,
        until_ms: i64,
        after: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let mut from = Vec::new();
        if let Some((due_ms, position)) = after {
            from = keys::due(due_ms, position);
            from.push(0);
        }
        let mut found = Vec::new();
        for pair in &self.overlay.scan(T::DUE, &from, limit)? {
            let (due_ms, position, held) = decoded_due(pair)?;
            if due_ms > until_ms {
                break;
            }
            found.push((position, held));
        }
        Ok(found)
    }

    /// When the next message is due, if any ever is.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn next_due_ms(&self) -> Result<Option<i64>, StoreError> {
        let first = self.overlay.scan(T::DUE, &[], 1)?;
        let due = first.first().map(|(key, _)| keys::parse_due(key)).transpose()?;
        Ok(due.map(|(due_ms, _)| due_ms).filter(|due_ms| *due_ms != NEVER_MS))
    }

    /// Up to `limit` messages that were stored at or after a log position, decided or not, in log order.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn stored_from(&self, from: u64, limit: usize) -> Result<Vec<(u64, T)>, StoreError> {
        let pairs = self.overlay.scan(T::FAMILY, &keys::held(from), limit)?;
        pairs.into_iter().map(|(key, value)| Ok((keys::parse_held(&key)?, decoded(&value)?))).collect()
    }

    pub(super) fn kv(&self) -> &dyn Kv {
        self.overlay.kv()
    }

    /// Number of open messages of a topic; messages of one transaction count once.
    pub fn open(&self, topic_id: u32) -> u64 {
        self.open.get(&topic_id).copied().unwrap_or(0)
    }

    /// Number of open messages of all topics; messages of one transaction count once.
    pub fn open_total(&self) -> u64 {
        self.open.values().sum()
    }

    /// Replaces the entry at a position; `old` is the previous entry, if any.
    pub(super) fn put(&mut self, position: u64, old: Option<&T>, new: &T) {
        let encoded = new.to_bytes();
        if let Some(old) = old.filter(|old| old.is_open()) {
            self.no_longer_open(position, old);
        }
        if new.is_open() {
            self.overlay.put(T::DUE, keys::due(new.due_ms(), position), encoded.clone());
            if new.is_counted() {
                *self.open.entry(new.topic_id).or_default() += 1;
            }
        }
        self.overlay.put(T::FAMILY, keys::held(position), encoded);
    }

    /// Forgets an open message.
    pub(super) fn remove(&mut self, position: u64, held: &T) {
        debug_assert!(held.is_open(), "decided messages are kept until the log is trimmed");
        self.no_longer_open(position, held);
        self.overlay.delete(T::FAMILY, keys::held(position));
    }

    fn no_longer_open(&mut self, position: u64, held: &T) {
        self.overlay.delete(T::DUE, keys::due(held.due_ms(), position));
        if held.is_counted() {
            let open = self.open.get_mut(&held.topic_id).expect("it was counted when it came");
            *open = open.checked_sub(1).expect("no more are decided than were open");
        }
    }

    /// Moves the record of a message to `to`; returns its offset if it is visible.
    pub(super) fn carry(&mut self, position: u64, to: &QueueEntry) -> Result<Option<u64>, StoreError> {
        let Some(held) = self.get(position)? else { return Ok(None) };
        let mut carried = held.clone();
        carried.message_mut().carried_to = to.position;
        carried.message_mut().frame_len = to.len;
        self.put(position, Some(&held), &carried);
        Ok(held.is_visible().then_some(held.offset))
    }

    /// Visits the open messages, longest due first.
    pub(super) fn each_open(&self, mut visit: impl FnMut(u64, T)) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(T::DUE) {
            let (_, position, held) = decoded_due(&pair?)?;
            visit(position, held);
        }
        Ok(())
    }

    /// Visits the messages that were first stored before a position, open or not.
    pub(super) fn each_before(&self, before: u64, mut visit: impl FnMut(u64, T)) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(T::FAMILY) {
            let (key, value) = pair?;
            let position = keys::parse_held(&key)?;
            if position >= before {
                break;
            }
            visit(position, decoded(&value)?);
        }
        Ok(())
    }

    /// Writes the open messages as a list of a snapshot, except those at positions for which `is_left_out` holds.
    pub(super) fn write_open(
        &self,
        lists: &mut SnapshotLists,
        is_left_out: impl Fn(u64) -> bool,
    ) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(T::DUE) {
            let (key, held) = pair?;
            let (_, position) = keys::parse_due(&key)?;
            if !is_left_out(position) {
                lists.held(T::TAG, position, &held);
            }
        }
        Ok(())
    }
}

impl<T: HeldKind> StateTable for HeldTable<T> {
    fn families(&self) -> &'static [KeyFamily] {
        T::FAMILIES
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let mut open = HashMap::new();
        self.each_open(|_, held| {
            if held.is_counted() {
                *open.entry(held.topic_id).or_default() += 1;
            }
        })?;
        self.open = open;
        Ok(())
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.write_open(lists, |_| false)
    }

    /// Open messages that are not in the snapshot stay open, because the damage may hide their decisions.
    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        for HeldState { position, message } in T::take(part) {
            let old = self.get(position)?;
            self.put(position, old.as_ref(), &decoded(&message)?);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }

    /// Earlier decisions may be known.
    fn differs_before(&self, begin: ReplayBegin, key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        match (key.own, key.found) {
            (None, Some(found)) if key.family == T::FAMILY => {
                let held: T = decoded(found)?;
                Ok(!held.is_open() && held.decided_at < begin.position)
            }
            _ => Ok(false),
        }
    }

    /// Decided messages stay, to answer repeated queries and decisions.
    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        self.each_open(|position, held| {
            if held.topic_id == topic_id {
                gone.push((position, held));
            }
        })?;
        for (position, held) in gone {
            self.remove(position, &held);
        }
        let left = self.open.remove(&topic_id).unwrap_or(0);
        debug_assert_eq!(left, 0, "every open one of the topic went");
        Ok(())
    }

    /// Forgets messages decided before the beginning of the log, and open ones that could not be read when they were to
    /// be carried.
    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        let before = trim.before;
        let (mut gone, mut lost) = (Vec::new(), Vec::new());
        self.each_before(before, |position, held| {
            if !held.is_open() && held.decided_at < before {
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
            self.remove(position, &held);
        }
        Ok(())
    }

    fn shift(&mut self, queue: QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        let mut moved = Vec::new();
        self.each_before(u64::MAX, |position, held| {
            if (held.topic_id, held.queue) == queue && held.is_visible() && held.offset >= from {
                moved.push((position, held));
            }
        })?;
        for (position, held) in moved {
            let mut shifted = held.clone();
            shifted.message_mut().offset += by;
            self.put(position, Some(&held), &shifted);
        }
        Ok(())
    }
}

/// The entry of a message that was first stored at `position`, when it becomes visible.
pub(super) fn entry_of(message: &HeldMessage, position: u64, visible_ms: i64) -> QueueEntry {
    let HeldMessage { frame_len: len, tag_hash, .. } = *message;
    QueueEntry { position: message.location(position), len, tag_hash, visible_ms }
}

fn decoded<T: HeldKind>(bytes: &[u8]) -> Result<T, StoreError> {
    T::from_bytes(bytes).map_err(|_| StoreError::Index(T::NAME.to_owned()))
}

fn decoded_due<T: HeldKind>((key, value): &KeyValue) -> Result<(i64, u64, T), StoreError> {
    let (due_ms, position) = keys::parse_due(key)?;
    Ok((due_ms, position, decoded(value)?))
}
