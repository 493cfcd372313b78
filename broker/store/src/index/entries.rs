//! Queues: which message has which offset.

use std::collections::HashMap;

use kerolox_core::record::QueueState;
use kerolox_log::sabotage;

use crate::error::StoreError;
use crate::index::snapshot::queue_state;
use crate::index::{Index, keys};
use crate::kv::{Family, Kv, Op, pairs};

/// Entries of one block: one key of the store for this many messages. A block that is not full yet lies in pieces, one
/// for each flush, so that a flush costs no more than what is new.
const BLOCK: u64 = 256;
pub(super) const ENTRY_LEN: usize = 24;

/// A message in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Position of the message's record in the log.
    pub position: u64,
    /// Length of its frame.
    pub len: u32,
    /// CRC-32C of its tag, 0 without one.
    pub tag_hash: u32,
    /// When it became visible, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// Which offsets a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueBounds {
    /// Smallest offset that can be read.
    pub min: u64,
    /// Offset that the next message gets.
    pub next: u64,
    /// When the newest message became visible; 0 in an empty queue.
    pub newest_ms: i64,
}

#[derive(Default)]
struct Queue {
    bounds: QueueBounds,
    /// Entries of the block that is not full yet; the last one has offset `bounds.next - 1`.
    tail: Vec<Entry>,
    /// Entries of the tail that are in the store.
    stored: usize,
    /// Where in the block the pieces begin that are in the store, but for the first one.
    pieces: Vec<u8>,
    dirty: bool,
}

/// All queues of all topics.
#[derive(Default)]
pub(super) struct Queues {
    queues: HashMap<(u32, u32), Queue>,
    /// Blocks that became full since the last flush.
    full: HashMap<(u32, u32, u64), Vec<u8>>,
    /// Keys of pieces that a full block replaced since the last flush.
    replaced: Vec<Vec<u8>>,
    /// Queues that changed since the last flush.
    dirty: Vec<(u32, u32)>,
}

impl Queues {
    pub(super) fn load(kv: &dyn Kv) -> Result<Self, StoreError> {
        let mut queues = HashMap::new();
        for pair in pairs(|from, limit| kv.scan(Family::Queues, from, limit)) {
            let (key, value) = pair?;
            let (topic_id, queue) = keys::parse_queue(&key)?;
            let mut bounds = decode_bounds(&value)?;
            if sabotage::is("reuse-offsets") {
                bounds.next = bounds.next.saturating_sub(1);
            }
            let queue_found = load_tail(kv, topic_id, queue, bounds)?;
            queues.insert((topic_id, queue), queue_found);
        }
        Ok(Self { queues, ..Self::default() })
    }

    /// Gives the next offset of a queue to a message.
    pub(super) fn push(&mut self, topic_id: u32, queue_number: u32, entry: Entry) -> u64 {
        let queue = self.queues.entry((topic_id, queue_number)).or_default();
        let offset = queue.bounds.next;
        queue.tail.push(entry);
        queue.bounds.next += 1;
        queue.bounds.newest_ms = entry.visible_ms;
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((topic_id, queue_number));
        }
        if queue.bounds.next.is_multiple_of(BLOCK) {
            let first = queue.bounds.next - BLOCK;
            self.full.insert((topic_id, queue_number, first), encode_block(&queue.tail));
            let key = |piece: u8| keys::block(topic_id, queue_number, first + u64::from(piece));
            self.replaced.extend(queue.pieces.drain(..).map(key));
            queue.tail.clear();
            queue.stored = 0;
        }
        offset
    }

    pub(super) fn bounds(&self, topic_id: u32, queue: u32) -> QueueBounds {
        self.queues.get(&(topic_id, queue)).map(|queue| queue.bounds).unwrap_or_default()
    }

    /// Forgets the queues of a topic, and says how to forget them in the store.
    pub(super) fn remove_topic(&mut self, topic_id: u32) -> Vec<Op> {
        self.queues.retain(|(topic, _), _| *topic != topic_id);
        self.full.retain(|(topic, _, _), _| *topic != topic_id);
        self.dirty.retain(|(topic, _)| *topic != topic_id);
        [Family::Queues, Family::Entries].map(|family| Op::DeletePrefix(family, keys::id(topic_id))).to_vec()
    }

    /// How far every queue is.
    pub(super) fn states(&self) -> Vec<QueueState> {
        let state = |((topic_id, queue), q): (&(u32, u32), &Queue)| {
            queue_state(*topic_id, *queue, q.bounds.next, q.bounds.newest_ms)
        };
        let mut states: Vec<QueueState> = self.queues.iter().map(state).collect();
        states.sort_unstable_by_key(|state| (state.topic_id, state.queue));
        states
    }

    /// Takes a queue up where a snapshot says it stands, without the entries from before.
    pub(super) fn restore(&mut self, state: &QueueState) {
        let bounds = QueueBounds { min: state.next, next: state.next, newest_ms: state.newest_ms };
        // The block that the next entry falls into is filled up, so that it keeps its place; nobody reads below `min`.
        let filler = Entry { position: 0, len: 0, tag_hash: 0, visible_ms: 0 };
        let missing = usize::try_from(state.next % BLOCK).expect("below BLOCK");
        let queue = Queue { bounds, tail: vec![filler; missing], dirty: true, ..Queue::default() };
        self.queues.insert((state.topic_id, state.queue), queue);
        self.dirty.push((state.topic_id, state.queue));
    }

    /// Gives up the entries of a queue before the offset that a trim names.
    pub(super) fn expire_before(&mut self, state: &QueueState, ops: &mut Vec<Op>) {
        let Some(queue) = self.queues.get_mut(&(state.topic_id, state.queue)) else { return };
        let (old, min) = (queue.bounds.min, state.next.clamp(queue.bounds.min, queue.bounds.next));
        queue.bounds.min = min;
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((state.topic_id, state.queue));
        }
        let block = |offset: u64| offset - offset % BLOCK;
        if block(old) < block(min) {
            let key = |first| keys::block(state.topic_id, state.queue, first);
            ops.push(Op::DeleteRange(Family::Entries, key(block(old)), key(block(min))));
            self.full.retain(|(topic_id, number, first), _| {
                (*topic_id, *number) != (state.topic_id, state.queue) || *first >= block(min)
            });
        }
    }

    pub(super) fn pending(&self, ops: &mut Vec<Op>) {
        for ((topic_id, queue, first), block) in &self.full {
            ops.push(Op::Put(Family::Entries, keys::block(*topic_id, *queue, *first), block.clone()));
        }
        ops.extend(self.replaced.iter().map(|key| Op::Delete(Family::Entries, key.clone())));
        for (topic_id, number) in &self.dirty {
            let queue = &self.queues[&(*topic_id, *number)];
            let bounds = &queue.bounds;
            ops.push(Op::Put(Family::Queues, keys::queue(*topic_id, *number), encode_bounds(bounds)));
            let new = &queue.tail[queue.stored..];
            if !new.is_empty() {
                let key = keys::block(*topic_id, *number, bounds.next - new.len() as u64);
                ops.push(Op::Put(Family::Entries, key, encode_block(new)));
            }
        }
    }

    pub(super) fn flushed(&mut self) {
        self.full.clear();
        self.replaced.clear();
        for name in self.dirty.drain(..) {
            let queue = self.queues.get_mut(&name).expect("queues go together with their names here");
            queue.dirty = false;
            if (1..queue.tail.len()).contains(&queue.stored) {
                queue.pieces.push(u8::try_from(queue.stored).expect("below BLOCK"));
            }
            queue.stored = queue.tail.len();
        }
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.full.len() + self.replaced.len() + 2 * self.dirty.len()
    }

    fn read(
        &self,
        kv: &dyn Kv,
        topic_id: u32,
        number: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<(u64, Entry)>, StoreError> {
        let Some(queue) = self.queues.get(&(topic_id, number)) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut offset = from.max(queue.bounds.min);
        while found.len() < max && offset < queue.bounds.next {
            let first = offset - offset % BLOCK;
            let block = self.block(kv, queue, topic_id, number, first)?;
            let skip = usize::try_from(offset - first).expect("below BLOCK");
            if skip >= block.len() {
                return Err(StoreError::Index(format!(
                    "block of topic {topic_id}, queue {number}, offset {offset}"
                )));
            }
            for entry in block.into_iter().skip(skip).take(max - found.len()) {
                found.push((offset, entry));
                offset += 1;
            }
        }
        Ok(found)
    }

    fn block(
        &self,
        kv: &dyn Kv,
        queue: &Queue,
        topic_id: u32,
        number: u32,
        first: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        if first + queue.tail.len() as u64 == queue.bounds.next && !queue.tail.is_empty() {
            return Ok(queue.tail.clone());
        }
        if let Some(block) = self.full.get(&(topic_id, number, first)) {
            return decode_block(block);
        }
        let stored = kv.get(Family::Entries, &keys::block(topic_id, number, first))?;
        stored.map_or_else(|| Ok(Vec::new()), |bytes| decode_block(&bytes))
    }
}

impl Index {
    /// Bounds of a queue; an unused queue is empty.
    pub fn queue_bounds(&self, topic_id: u32, queue: u32) -> QueueBounds {
        self.queues.bounds(topic_id, queue)
    }

    /// Up to `max` entries of a queue from offset `from` on, with their offsets.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or a block is malformed.
    pub fn entries(
        &self,
        topic_id: u32,
        queue: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<(u64, Entry)>, StoreError> {
        self.queues.read(&*self.kv, topic_id, queue, from, max)
    }
}

/// A queue with the entries of the block that is not full yet.
fn load_tail(
    kv: &dyn Kv,
    topic_id: u32,
    queue_number: u32,
    bounds: QueueBounds,
) -> Result<Queue, StoreError> {
    let mut queue = Queue { bounds, ..Queue::default() };
    let len = bounds.next % BLOCK;
    let first = bounds.next - len;
    while (queue.tail.len() as u64) < len {
        let key = keys::block(topic_id, queue_number, first + queue.tail.len() as u64);
        let Some(piece) = kv.get(Family::Entries, &key)?.filter(|piece| !piece.is_empty()) else { break };
        if !queue.tail.is_empty() {
            queue.pieces.push(u8::try_from(queue.tail.len()).expect("below BLOCK"));
        }
        queue.tail.extend(decode_block(&piece)?);
    }
    queue.stored = queue.tail.len();
    if queue.stored as u64 != len {
        return Err(StoreError::Index(format!("last block of topic {topic_id}, queue {queue_number}")));
    }
    Ok(queue)
}

/// The key of the block that the piece with this key belongs to.
pub(super) fn block_key(key: &[u8]) -> Option<Vec<u8>> {
    let (topic_id, queue, first) = keys::parse_block(key).ok()?;
    Some(keys::block(topic_id, queue, first - first % BLOCK))
}

fn encode_block(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(encode_entry).collect()
}

fn decode_block(bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
    bytes.chunks(ENTRY_LEN).map(decode_entry).collect()
}

pub(super) fn encode_entry(entry: &Entry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..8].copy_from_slice(&entry.position.to_be_bytes());
    bytes[8..12].copy_from_slice(&entry.len.to_be_bytes());
    bytes[12..16].copy_from_slice(&entry.tag_hash.to_be_bytes());
    bytes[16..].copy_from_slice(&entry.visible_ms.to_be_bytes());
    bytes
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, StoreError> {
    let bytes: &[u8; ENTRY_LEN] = bytes.try_into().map_err(|_| StoreError::Index("queue entry".into()))?;
    let long = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("8 bytes") };
    let short = |at: usize| -> [u8; 4] { bytes[at..at + 4].try_into().expect("4 bytes") };
    Ok(Entry {
        position: u64::from_be_bytes(long(0)),
        len: u32::from_be_bytes(short(8)),
        tag_hash: u32::from_be_bytes(short(12)),
        visible_ms: i64::from_be_bytes(long(16)),
    })
}

fn encode_bounds(bounds: &QueueBounds) -> Vec<u8> {
    [bounds.min.to_be_bytes(), bounds.next.to_be_bytes(), bounds.newest_ms.to_be_bytes()].concat()
}

pub(super) fn decode_bounds(bytes: &[u8]) -> Result<QueueBounds, StoreError> {
    let (parts, []) = bytes.as_chunks::<8>() else { return Err(StoreError::Index("queue bounds".into())) };
    let [min, next, newest] = parts else { return Err(StoreError::Index("queue bounds".into())) };
    Ok(QueueBounds {
        min: u64::from_be_bytes(*min),
        next: u64::from_be_bytes(*next),
        newest_ms: i64::from_be_bytes(*newest),
    })
}
