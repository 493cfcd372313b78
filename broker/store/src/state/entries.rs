//! Queues: which message has which offset.

use std::collections::HashMap;

use kerolox_core::record::QueueState;
use kerolox_log::sabotage;
use prost::encoding::{decode_varint, encode_varint};

use crate::error::StoreError;
use crate::kv::{Family, Kv, Op, pairs};
use crate::state::snapshot::queue_state;
use crate::state::{StateMachine, keys};

/// Most entries of one key of the store. What a queue got since the last flush becomes a piece, so that a flush costs no
/// more than what is new; pieces end at multiples of this, and these blocks are given up as wholes.
pub const BLOCK: u64 = 256;
/// Pieces that are read at a time, at the most.
const PIECES_PAGE: usize = 32;
pub(super) const ENTRY_LEN: usize = 24;

/// A message in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

    /// Adds an empty queue; `false` if it is there already.
    pub(super) fn add(&mut self, topic_id: u32, queue: u32) -> bool {
        let is_new = !self.has(topic_id, queue);
        if is_new {
            self.restore(&QueueState { topic_id, queue, next: 0, newest_ms: 0 });
        }
        is_new
    }

    pub(super) fn has(&self, topic_id: u32, queue: u32) -> bool {
        self.queues.contains_key(&(topic_id, queue))
    }

    /// Topic and number of every queue.
    pub(super) fn names(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.queues.keys().copied()
    }

    /// Forgets a queue, and adds to `ops` how to forget it in the store.
    pub(super) fn remove(&mut self, topic_id: u32, number: u32, ops: &mut Vec<Op>) {
        let Some(queue) = self.queues.remove(&(topic_id, number)) else { return };
        self.new -= queue.new.len();
        if queue.dirty {
            self.dirty.retain(|name| *name != (topic_id, number));
        }
        let key = keys::queue(topic_id, number);
        if queue.bounds.min < queue.first_new() {
            ops.push(Op::DeletePrefix(Family::Entries, key.clone()));
        }
        ops.push(Op::Delete(Family::Queues, key));
    }

    /// Forgets the queues of a topic, and says how to forget them in the store.
    pub(super) fn remove_topic(&mut self, topic_id: u32) -> Vec<Op> {
        for (_, queue) in self.queues.extract_if(|(topic, _), _| *topic == topic_id) {
            self.new -= queue.new.len();
        }
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

    /// Moves all entries of a queue up, so that it ends where a snapshot says, and begins with the first of them. Returns how
    /// far they moved.
    pub(super) fn end_at(&mut self, kv: &dyn Kv, state: &QueueState) -> Result<u64, StoreError> {
        let (topic_id, number) = (state.topic_id, state.queue);
        let bounds = self.bounds(topic_id, number);
        let by = state.next.saturating_sub(bounds.next);
        let moved = self.read(kv, topic_id, number, 0, usize::MAX)?;
        kv.write(vec![Op::DeletePrefix(Family::Entries, keys::queue(topic_id, number))])?;
        if let Some(old) = self.queues.remove(&(topic_id, number)) {
            self.new -= old.new.len();
            self.dirty.retain(|name| *name != (topic_id, number));
        }
        self.restore(&QueueState { next: bounds.min + by, ..*state });
        for (_, entry) in moved {
            self.push(topic_id, number, entry);
        }
        Ok(by)
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
        let pieces = self.new / usize::try_from(BLOCK).expect("a small number");
        2 * self.dirty.len() + pieces
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
            let skip = usize::try_from(offset - queue.first_new()).expect("no more than there are");
            let wanted = queue.new[skip..].iter().take(max - found.len());
            found.extend((offset..).zip(wanted.copied()));
        }
        Ok(found)
    }
}

impl StateMachine {
    /// Bounds of a queue; an unused queue is empty.
    pub fn queue_bounds(&self, topic_id: u32, queue: u32) -> QueueBounds {
        self.queues.bounds(topic_id, queue)
    }

    /// For each topic, how many of its queues hold messages, lite topics included, and how many messages they hold. Looks at
    /// every queue.
    pub fn visible(&self) -> HashMap<u32, (u64, u64)> {
        let mut topics: HashMap<u32, (u64, u64)> = HashMap::new();
        for ((topic_id, _), queue) in &self.queues.queues {
            let len = queue.bounds.next - queue.bounds.min;
            if len > 0 {
                let (queues, messages) = topics.entry(*topic_id).or_default();
                *queues += 1;
                *messages += len;
            }
        }
        topics
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

/// The entries of a piece, each as what differs from the one before: most fields hardly change within a queue.
fn encode_piece(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * entries.len() + 16);
    let mut before = Entry::default();
    for entry in entries {
        let same_tag = entry.tag_hash == before.tag_hash;
        encode_varint(zigzag(entry.position.wrapping_sub(before.position).cast_signed()), &mut bytes);
        encode_varint(u64::from(entry.len) << 1 | u64::from(same_tag), &mut bytes);
        if !same_tag {
            bytes.extend_from_slice(&entry.tag_hash.to_be_bytes());
        }
        encode_varint(zigzag(entry.visible_ms.wrapping_sub(before.visible_ms)), &mut bytes);
        before = *entry;
    }
    bytes
}

/// The entries of a piece, one by one; ends behind the first error.
fn decode_piece(mut bytes: &[u8]) -> impl Iterator<Item = Result<Entry, StoreError>> + '_ {
    let mut entry = Entry::default();
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let next = decode_next(&mut bytes, &entry);
        match &next {
            Some(next) => entry = *next,
            None => bytes = &[],
        }
        Some(next.ok_or_else(|| StoreError::Index("queue entry".into())))
    })
}

/// The entry at the beginning of `bytes`, which follows `before`; takes it off.
fn decode_next(bytes: &mut &[u8], before: &Entry) -> Option<Entry> {
    let position = before.position.wrapping_add_signed(unzigzag(decode_varint(bytes).ok()?));
    let len = decode_varint(bytes).ok()?;
    let tag_hash = if len & 1 == 1 {
        before.tag_hash
    } else {
        let (tag_hash, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        u32::from_be_bytes(*tag_hash)
    };
    let visible_ms = before.visible_ms.wrapping_add(unzigzag(decode_varint(bytes).ok()?));
    Some(Entry { position, len: u32::try_from(len >> 1).ok()?, tag_hash, visible_ms })
}

/// Small numbers for numbers near 0, of either sign, as in protobuf's `sint64`.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// The entries of a piece in their plain form, one behind the other; what is malformed stays as it is.
pub(super) fn plain(piece: Vec<u8>) -> Vec<u8> {
    let entries: Result<Vec<Entry>, StoreError> = decode_piece(&piece).collect();
    entries.map(|entries| entries.iter().flat_map(encode_entry).collect()).unwrap_or(piece)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<u32>(), 0u32..3, any::<i64>())
            .prop_map(|(position, len, tag_hash, visible_ms)| Entry { position, len, tag_hash, visible_ms })
    }

    proptest! {
        #[test]
        fn pieces_survive_the_round_trip(entries in prop::collection::vec(entry(), 0..40)) {
            let piece = encode_piece(&entries);
            let decoded: Result<Vec<Entry>, _> = decode_piece(&piece).collect();
            prop_assert_eq!(decoded.expect("own bytes"), entries.clone());
            prop_assert_eq!(plain(piece), entries.iter().flat_map(encode_entry).collect::<Vec<u8>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let entries = decode_piece(&bytes).collect::<Vec<_>>();
            prop_assert!(entries.iter().rev().skip(1).all(Result::is_ok), "nothing follows an error");
        }
    }

    /// The bytes of version 2 of the index.
    #[test]
    fn a_piece_as_it_lies_in_the_store() {
        let entry = |position, tag_hash, visible_ms| Entry { position, len: 64, tag_hash, visible_ms };
        let piece = encode_piece(&[entry(128, 7, 1_000), entry(192, 7, 1_000), entry(64, 0, 1_001)]);
        let first = [0x80, 0x02, 0x80, 0x01, 0, 0, 0, 7, 0xd0, 0x0f];
        let others = [0x80, 0x01, 0x81, 0x01, 0, 0xff, 0x01, 0x80, 0x01, 0, 0, 0, 0, 2];
        assert_eq!(piece, [&first[..], &others].concat());
    }
}
