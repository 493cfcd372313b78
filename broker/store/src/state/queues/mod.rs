//! Queues: the messages and their offsets.

mod moved;
mod pieces;

use std::collections::{HashMap, hash_map};
use std::ops::Range;
use std::sync::Arc;

use kerolox_core::lite::is_lite;
use kerolox_core::record::{QueueState, SnapshotRecord, TrimRecord};
use kerolox_log::sabotage;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp, pairs};
use crate::state::keys;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::{ComparedKey, QueueId, ReplayBegin, StateTable};

pub use pieces::{BLOCK, QueueEntry};
use pieces::{ENTRY_LEN, block_key, decode_piece, encode_piece, plain};
pub(super) use pieces::{decode_entry, encode_entry};

/// Maximum number of pieces that are read at a time.
const PIECES_PAGE: usize = 32;

/// The offsets that a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueBounds {
    /// Smallest offset that can be read.
    pub min: u64,
    /// Offset for the next message.
    pub next: u64,
    /// When the newest message became visible; 0 in an empty queue.
    pub newest_ms: i64,
}

#[derive(Default)]
struct Queue {
    bounds: QueueBounds,
    /// Entries that are not in the store yet; the last one has offset `bounds.next - 1`.
    new: Vec<QueueEntry>,
    dirty: bool,
}

impl Queue {
    /// Offset of the first entry that is not in the store.
    fn first_new(&self) -> u64 {
        self.bounds.next - self.new.len() as u64
    }

    /// A queue with the bounds of a snapshot.
    fn standing_at(state: &QueueState) -> Self {
        let bounds = QueueBounds { min: state.next, next: state.next, newest_ms: state.newest_ms };
        Self { bounds, new: Vec::new(), dirty: true }
    }
}

/// All queues of all topics, lite topics included.
pub struct QueueTable {
    kv: Arc<dyn Kv>,
    queues: HashMap<QueueId, Queue>,
    /// Queues that changed since the last flush.
    dirty: Vec<QueueId>,
    /// Entries that are not in the store yet.
    new: usize,
    /// Number of lite topics, by parent.
    lites: HashMap<u32, u64>,
    /// Changes that remove deleted queues from the store, with the next flush and not before: the deleting record may not be
    /// durable yet. No reader looks there in the meantime, because numbers of topics and lite topics are never reused.
    gone: Vec<WriteOp>,
}

impl QueueTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self {
            kv: kv.clone(),
            queues: HashMap::new(),
            dirty: Vec::new(),
            new: 0,
            lites: HashMap::new(),
            gone: Vec::new(),
        }
    }

    /// Bounds of a queue; an unused queue is empty.
    pub fn bounds(&self, topic_id: u32, queue: u32) -> QueueBounds {
        self.queues.get(&(topic_id, queue)).map(|queue| queue.bounds).unwrap_or_default()
    }

    /// For each topic, the number of its queues with messages, lite topics included, and the number of these messages. Reads
    /// every queue.
    pub fn visible(&self) -> HashMap<u32, (u64, u64)> {
        let mut topics: HashMap<u32, (u64, u64)> = HashMap::new();
        for ((topic_id, _), queue) in &self.queues {
            let len = queue.bounds.next - queue.bounds.min;
            if len > 0 {
                let (queues, messages) = topics.entry(*topic_id).or_default();
                *queues += 1;
                *messages += len;
            }
        }
        topics
    }

    /// Number of lite topics of a parent.
    pub fn lite_len(&self, topic_id: u32) -> u64 {
        self.lites.get(&topic_id).copied().unwrap_or(0)
    }

    /// Whether a lite topic has this queue.
    pub fn has_lite(&self, topic_id: u32, queue: u32) -> bool {
        is_lite(queue) && self.has(topic_id, queue)
    }

    pub(super) fn has(&self, topic_id: u32, queue: u32) -> bool {
        self.queues.contains_key(&(topic_id, queue))
    }

    /// Topic and number of every queue.
    pub(super) fn names(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.queues.keys().copied()
    }

    /// Up to `max` entries of a queue from offset `from` on, with their offsets.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or a block is malformed.
    pub fn entries(
        &self,
        topic_id: u32,
        number: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<(u64, QueueEntry)>, StoreError> {
        let Some(queue) = self.queues.get(&(topic_id, number)) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut offset = from.max(queue.bounds.min);
        let missing = |offset| {
            StoreError::Index(format!("entries of topic {topic_id}, queue {number}, offset {offset}"))
        };
        let prefix = keys::queue(topic_id, number);
        // Usually one or two suffice; idle queues have small ones.
        let mut pieces = 2;
        while found.len() < max && offset < queue.first_new() {
            let before = offset;
            let at = keys::block(topic_id, number, offset);
            for (key, piece) in self.kv.scan_around(KeyFamily::Entries, &prefix, &at, pieces)? {
                let (_, _, first) = keys::parse_block(&key)?;
                let skip = offset.checked_sub(first).and_then(|skip| usize::try_from(skip).ok());
                let skip = skip.ok_or_else(|| missing(offset))?;
                for entry in decode_piece(&piece).skip(skip).take(max - found.len()) {
                    found.push((offset, entry?));
                    offset += 1;
                }
                if found.len() == max {
                    break;
                }
            }
            if offset == before {
                return Err(missing(offset));
            }
            pieces = PIECES_PAGE.min(2 * pieces);
        }
        if offset >= queue.first_new() && offset < queue.bounds.next {
            let skip = usize::try_from(offset - queue.first_new()).expect("at most the entries");
            let wanted = queue.new[skip..].iter().take(max - found.len());
            found.extend((offset..).zip(wanted.copied()));
        }
        Ok(found)
    }

    /// Gives a message the next offset of a queue.
    pub(super) fn push(&mut self, topic_id: u32, number: u32, entry: QueueEntry) -> u64 {
        let queue = match self.queues.entry((topic_id, number)) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(unknown) => {
                if is_lite(number) {
                    *self.lites.entry(topic_id).or_default() += 1;
                }
                unknown.insert(Queue::default())
            }
        };
        let offset = queue.bounds.next;
        queue.new.push(entry);
        queue.bounds.next += 1;
        queue.bounds.newest_ms = entry.visible_ms;
        self.new += 1;
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((topic_id, number));
        }
        assert!(queue.bounds.min <= queue.first_new(), "new entries lie behind expired ones");
        offset
    }

    /// Adds an empty queue, unless it exists.
    pub(super) fn add(&mut self, topic_id: u32, queue: u32) {
        if !self.has(topic_id, queue) {
            self.restore(&QueueState { topic_id, queue, next: 0, newest_ms: 0 });
        }
    }

    /// Restores a queue from a snapshot, without its earlier entries.
    fn restore(&mut self, state: &QueueState) {
        let name = (state.topic_id, state.queue);
        let old = self.queues.insert(name, Queue::standing_at(state));
        if old.is_none() && is_lite(state.queue) {
            *self.lites.entry(state.topic_id).or_default() += 1;
        }
        match old {
            Some(old) => {
                self.new -= old.new.len();
                if !old.dirty {
                    self.dirty.push(name);
                }
            }
            None => self.dirty.push(name),
        }
    }

    /// Forgets a queue, and schedules its removal from the store.
    fn remove(&mut self, topic_id: u32, number: u32) {
        let Some(queue) = self.queues.remove(&(topic_id, number)) else { return };
        self.new -= queue.new.len();
        if queue.dirty {
            self.dirty.retain(|name| *name != (topic_id, number));
        }
        if is_lite(number) {
            let count = self.lites.get_mut(&topic_id).expect("its queue was counted when it came");
            *count = count.checked_sub(1).expect("every lite topic is counted once");
        }
        let key = keys::queue(topic_id, number);
        if queue.bounds.min < queue.first_new() {
            self.gone.push(WriteOp::DeletePrefix(KeyFamily::Entries, key.clone()));
        }
        self.gone.push(WriteOp::Delete(KeyFamily::Queues, key));
    }

    /// The position of every queue.
    pub(super) fn states(&self) -> Vec<QueueState> {
        let state = |((topic_id, queue), q): (&QueueId, &Queue)| QueueState {
            topic_id: *topic_id,
            queue: *queue,
            next: q.bounds.next,
            newest_ms: q.bounds.newest_ms,
        };
        let mut states: Vec<QueueState> = self.queues.iter().map(state).collect();
        states.sort_unstable_by_key(|state| (state.topic_id, state.queue));
        states
    }

    /// Next offsets of all queues.
    pub(super) fn nexts(&self) -> HashMap<QueueId, u64> {
        self.queues.iter().map(|(name, queue)| (*name, queue.bounds.next)).collect()
    }

    /// Drops the entries of a queue before the offset that a trim names.
    fn expire_before(&mut self, state: &QueueState, ops: &mut Vec<WriteOp>) {
        let name = (state.topic_id, state.queue);
        let Some(queue) = self.queues.get_mut(&name) else { return };
        let (old, min) = (queue.bounds.min, state.next.clamp(queue.bounds.min, queue.bounds.next));
        assert!(
            old <= min && min <= queue.bounds.next,
            "expired entries stay expired, and only existing ones expire"
        );
        queue.bounds.min = min;
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push(name);
        }
        let expired = usize::try_from(min.saturating_sub(queue.first_new())).expect("at most the entries");
        self.new -= queue.new.drain(..expired).len();
        let block = |offset: u64| keys::block(state.topic_id, state.queue, offset - offset % BLOCK);
        if block(old) < block(min) {
            ops.push(WriteOp::DeleteRange(KeyFamily::Entries, block(old), block(min)));
        }
    }
}

impl StateTable for QueueTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Queues, KeyFamily::Entries]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.kv.scan(KeyFamily::Queues, from, limit)) {
            let (key, value) = pair?;
            let (topic_id, number) = keys::parse_queue(&key)?;
            let mut bounds = decode_bounds(&value)?;
            if sabotage::is("reuse-offsets") {
                bounds.next = bounds.next.saturating_sub(1);
            }
            if is_lite(number) {
                *self.lites.entry(topic_id).or_default() += 1;
            }
            self.queues.insert((topic_id, number), Queue { bounds, ..Queue::default() });
        }
        Ok(())
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.states().iter().for_each(|state| lists.message(tag::QUEUES, state));
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        part.queues.drain(..).for_each(|state| self.restore(&state));
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        ops.extend(self.gone.iter().cloned());
        for (topic_id, number) in &self.dirty {
            let queue = &self.queues[&(*topic_id, *number)];
            let bounds = encode_bounds(&queue.bounds);
            ops.push(WriteOp::Put(KeyFamily::Queues, keys::queue(*topic_id, *number), bounds));
            let (mut first, mut new) = (queue.first_new(), &queue.new[..]);
            while !new.is_empty() {
                let room = usize::try_from(BLOCK - first % BLOCK).expect("at most BLOCK");
                let (piece, rest) = new.split_at(room.min(new.len()));
                let key = keys::block(*topic_id, *number, first);
                ops.push(WriteOp::Put(KeyFamily::Entries, key, encode_piece(piece)));
                first += piece.len() as u64;
                new = rest;
            }
            assert_eq!(first, queue.bounds.next, "written entries reach the end of the queue");
        }
    }

    fn flushed(&mut self) {
        self.gone.clear();
        for name in self.dirty.drain(..) {
            let queue = self.queues.get_mut(&name).expect("queues go together with their names here");
            queue.dirty = false;
            // An idle queue takes no memory for entries.
            self.new -= std::mem::take(&mut queue.new).len();
        }
        assert_eq!(self.new, 0, "every queue with new entries is dirty");
    }

    fn pending_len(&self) -> usize {
        let pieces = self.new / usize::try_from(BLOCK).expect("a small number");
        self.gone.len() + 2 * self.dirty.len() + pieces
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        for (_, queue) in self.queues.extract_if(|(topic, _), _| *topic == topic_id) {
            self.new -= queue.new.len();
        }
        self.dirty.retain(|(topic, _)| *topic != topic_id);
        self.lites.remove(&topic_id);
        let families = [KeyFamily::Queues, KeyFamily::Entries];
        self.gone.extend(families.map(|family| WriteOp::DeletePrefix(family, keys::id(topic_id))));
        Ok(())
    }

    fn drop_queues(&mut self, topic_id: u32, queues: &[u32], _group_ids: &[u32]) -> Result<(), StoreError> {
        queues.iter().for_each(|queue| self.remove(topic_id, *queue));
        Ok(())
    }

    /// Ranges cannot be hidden by entries in memory, so they are removed at once. That is safe: readers skip offsets below
    /// the smallest one, and after a crash the same record is applied again before any reader looks.
    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        let mut ops = Vec::new();
        trim.queues.iter().for_each(|state| self.expire_before(state, &mut ops));
        Ok(self.kv.write(ops)?)
    }

    fn trimmed_ranges(&self, trim: &TrimRecord) -> Vec<(KeyFamily, Range<Vec<u8>>)> {
        let key = |state: &QueueState, offset| keys::block(state.topic_id, state.queue, offset);
        trim.queues.iter().map(|state| (KeyFamily::Entries, key(state, 0)..key(state, state.next))).collect()
    }

    fn whole_key(&self, family: KeyFamily, key: Vec<u8>) -> Vec<u8> {
        if family == KeyFamily::Entries { block_key(&key).unwrap_or(key) } else { key }
    }

    fn plain_value(&self, family: KeyFamily, value: Vec<u8>) -> Vec<u8> {
        if family == KeyFamily::Entries { plain(value) } else { value }
    }

    fn differs_before(&self, begin: ReplayBegin, key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        if key.family == KeyFamily::Entries {
            let (topic_id, queue, first) = keys::parse_block(key.key)?;
            let bounds = self.bounds(topic_id, queue);
            let readable = (first + BLOCK).min(bounds.next).saturating_sub(bounds.min.max(first));
            let len = usize::try_from(readable).expect("at most a block") * ENTRY_LEN;
            // A block ends with its newest entry; its beginning depends on the entries that existed when it was stored.
            let kept = |block: Option<&[u8]>| {
                let bytes = block.unwrap_or_default();
                bytes.len().checked_sub(len).map(|at| bytes[at..].to_vec())
            };
            return Ok(kept(key.own).is_some_and(|own| kept(key.found) == Some(own)));
        }
        // The first whole snapshot is not the one that the log begins with: its queues begin too late.
        let (Some(own), Some(found), false) = (key.own, key.found, begin.is_log_begin) else {
            return Ok(false);
        };
        let (own, found) = (decode_bounds(own)?, decode_bounds(found)?);
        Ok(found.min <= own.min && QueueBounds { min: own.min, ..found } == own)
    }
}

fn encode_bounds(bounds: &QueueBounds) -> Vec<u8> {
    [bounds.min.to_be_bytes(), bounds.next.to_be_bytes(), bounds.newest_ms.to_be_bytes()].concat()
}

fn decode_bounds(bytes: &[u8]) -> Result<QueueBounds, StoreError> {
    let (parts, []) = bytes.as_chunks::<8>() else { return Err(StoreError::Index("queue bounds".into())) };
    let [min, next, newest] = parts else { return Err(StoreError::Index("queue bounds".into())) };
    Ok(QueueBounds {
        min: u64::from_be_bytes(*min),
        next: u64::from_be_bytes(*next),
        newest_ms: i64::from_be_bytes(*newest),
    })
}
