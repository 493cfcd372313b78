//! Queues: which message has which offset.

use std::collections::HashMap;

use kerolox_core::record::QueueState;
use kerolox_log::sabotage;

use crate::error::StoreError;
use crate::index::snapshot::queue_state;
use crate::index::{Index, keys};
use crate::kv::{Family, Kv, Op, pairs};

/// Most entries of one key of the store. What a queue got since the last flush becomes a piece, so that a flush costs no
/// more than what is new; pieces end at multiples of this.
pub(super) const BLOCK: u64 = 256;
/// Pieces that are read at a time, at the most.
const PIECES_PAGE: usize = 32;
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
    /// Entries that are not in the store yet; the last one has offset `bounds.next - 1`.
    new: Vec<Entry>,
    dirty: bool,
}

impl Queue {
    /// Offset of the first entry that is not in the store.
    fn first_new(&self) -> u64 {
        self.bounds.next - self.new.len() as u64
    }
}

/// All queues of all topics.
#[derive(Default)]
pub(super) struct Queues {
    queues: HashMap<(u32, u32), Queue>,
    /// Queues that changed since the last flush.
    dirty: Vec<(u32, u32)>,
    /// Entries that are not in the store yet.
    new: usize,
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
            queues.insert((topic_id, queue), Queue { bounds, ..Queue::default() });
        }
        Ok(Self { queues, ..Self::default() })
    }

    /// Gives the next offset of a queue to a message.
    pub(super) fn push(&mut self, topic_id: u32, queue_number: u32, entry: Entry) -> u64 {
        let queue = self.queues.entry((topic_id, queue_number)).or_default();
        let offset = queue.bounds.next;
        queue.new.push(entry);
        queue.bounds.next += 1;
        queue.bounds.newest_ms = entry.visible_ms;
        self.new += 1;
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((topic_id, queue_number));
        }
        offset
    }

    pub(super) fn bounds(&self, topic_id: u32, queue: u32) -> QueueBounds {
        self.queues.get(&(topic_id, queue)).map(|queue| queue.bounds).unwrap_or_default()
    }

    /// Forgets the queues of a topic, and says how to forget them in the store.
    pub(super) fn remove_topic(&mut self, topic_id: u32) -> Vec<Op> {
        self.queues.retain(|(topic, _), _| *topic != topic_id);
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

    /// Next offsets of all queues.
    pub(super) fn nexts(&self) -> HashMap<(u32, u32), u64> {
        self.queues.iter().map(|(name, queue)| (*name, queue.bounds.next)).collect()
    }

    /// Makes a queue end where a snapshot says: entries from offset `from` on move up, and `lost` fills the gap. Returns how
    /// far they moved.
    pub(super) fn spread(
        &mut self,
        kv: &dyn Kv,
        state: &QueueState,
        from: u64,
        lost: Entry,
    ) -> Result<u64, StoreError> {
        let (topic_id, number) = (state.topic_id, state.queue);
        let Some(queue) = self.queues.get(&(topic_id, number)) else {
            self.restore(state);
            return Ok(0);
        };
        let missing = state.next.saturating_sub(queue.bounds.next);
        if missing > 0 {
            let from = from.clamp(queue.bounds.min, queue.bounds.next);
            let moved = self.read(kv, topic_id, number, from, usize::MAX)?;
            self.cut_back(kv, topic_id, number, from)?;
            for entry in std::iter::repeat_n(lost, usize::try_from(missing).expect("fits the memory")) {
                self.push(topic_id, number, entry);
            }
            for (_, entry) in moved {
                self.push(topic_id, number, entry);
            }
        }
        Ok(missing)
    }

    /// Forgets the entries of a queue from offset `next` on, in the store at once.
    fn cut_back(&mut self, kv: &dyn Kv, topic_id: u32, number: u32, next: u64) -> Result<(), StoreError> {
        // Pieces do not go over the beginning of a block.
        let first = (next - next % BLOCK).max(self.bounds(topic_id, number).min);
        let count = usize::try_from(next - first).expect("at most BLOCK");
        let kept = self.read(kv, topic_id, number, first, count)?;
        let key = |offset| keys::block(topic_id, number, offset);
        kv.write(vec![Op::DeleteRange(Family::Entries, key(next - next % BLOCK), key(u64::MAX))])?;
        let queue = self.queues.entry((topic_id, number)).or_default();
        self.new -= queue.new.len();
        let before =
            usize::try_from(first.saturating_sub(queue.first_new())).expect("no more than there are");
        queue.new.truncate(before);
        queue.new.extend(kept.into_iter().map(|(_, entry)| entry));
        queue.bounds.next = next;
        self.new += queue.new.len();
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((topic_id, number));
        }
        Ok(())
    }

    /// Takes a queue up where a snapshot says it stands, without the entries from before.
    pub(super) fn restore(&mut self, state: &QueueState) {
        let bounds = QueueBounds { min: state.next, next: state.next, newest_ms: state.newest_ms };
        let queue = Queue { bounds, new: Vec::new(), dirty: true };
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
        let expired = usize::try_from(min.saturating_sub(queue.first_new())).expect("no more than there are");
        self.new -= queue.new.drain(..expired).len();
        let block = |offset: u64| keys::block(state.topic_id, state.queue, offset - offset % BLOCK);
        if block(old) < block(min) {
            ops.push(Op::DeleteRange(Family::Entries, block(old), block(min)));
        }
    }

    pub(super) fn pending(&self, ops: &mut Vec<Op>) {
        for (topic_id, number) in &self.dirty {
            let queue = &self.queues[&(*topic_id, *number)];
            let bounds = encode_bounds(&queue.bounds);
            ops.push(Op::Put(Family::Queues, keys::queue(*topic_id, *number), bounds));
            let (mut first, mut new) = (queue.first_new(), &queue.new[..]);
            while !new.is_empty() {
                let room = usize::try_from(BLOCK - first % BLOCK).expect("at most BLOCK");
                let (piece, rest) = new.split_at(room.min(new.len()));
                ops.push(Op::Put(
                    Family::Entries,
                    keys::block(*topic_id, *number, first),
                    encode_piece(piece),
                ));
                first += piece.len() as u64;
                new = rest;
            }
        }
    }

    pub(super) fn flushed(&mut self) {
        for name in self.dirty.drain(..) {
            let queue = self.queues.get_mut(&name).expect("queues go together with their names here");
            queue.dirty = false;
            // An idle queue takes no memory for entries.
            queue.new = Vec::new();
        }
        self.new = 0;
    }

    pub(super) fn dirty_len(&self) -> usize {
        2 * self.dirty.len() + self.new / 256
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
        let missing = |offset| {
            StoreError::Index(format!("entries of topic {topic_id}, queue {number}, offset {offset}"))
        };
        let prefix = keys::queue(topic_id, number);
        // Usually one or two will do; idle queues have small ones.
        let mut pieces = 2;
        while found.len() < max && offset < queue.first_new() {
            let before = offset;
            let at = keys::block(topic_id, number, offset);
            for (key, piece) in kv.scan_around(Family::Entries, &prefix, &at, pieces)? {
                let (_, _, first) = keys::parse_block(&key)?;
                let skip = offset.checked_sub(first).and_then(|skip| usize::try_from(skip).ok());
                let wanted =
                    skip.and_then(|skip| piece.get(skip * ENTRY_LEN..)).ok_or_else(|| missing(offset))?;
                for entry in wanted.chunks(ENTRY_LEN).take(max - found.len()) {
                    found.push((offset, decode_entry(entry)?));
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
            let skip = usize::try_from(offset - queue.first_new()).expect("no more than there are");
            let wanted = queue.new[skip..].iter().take(max - found.len());
            found.extend((offset..).zip(wanted.copied()));
        }
        Ok(found)
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

/// The key of the block that the piece with this key belongs to.
pub(super) fn block_key(key: &[u8]) -> Option<Vec<u8>> {
    let (topic_id, queue, first) = keys::parse_block(key).ok()?;
    Some(keys::block(topic_id, queue, first - first % BLOCK))
}

fn encode_piece(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(encode_entry).collect()
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
