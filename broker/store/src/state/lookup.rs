//! Positions of messages with a certain id or key, by the hashes of [`kerolox_core::lookup`].
//!
//! A key of the store for each message would cost more than everything else together. So the messages added since the last
//! flush are written as one key for each of their buckets: at high rates a key holds many messages, and a look-up reads
//! one bucket, one 4096th, of each GiB of the log. The log is divided into such parts so that trimmed entries are removed
//! with one range.

use std::ops::Range;
use std::sync::Arc;

use kerolox_core::record::TrimRecord;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::keys;
use crate::state::table::{ComparedKey, ReplayBegin, StateTable};

/// Bytes of the log whose messages share their keys: 2 to the power of this.
const PART_BITS: u32 = 30;
/// Number of first bits that hashes in a bucket share.
const BUCKET_BITS: u32 = 12;
/// Bytes of one message in a value: the last 32 bits of the hash, then the place in its part.
const LOCATED_LEN: usize = 8;
/// Positions are multiples of this, so that a place in a part fits into 32 bits.
const ALIGNMENT: u64 = kerolox_log::frame::ALIGNMENT as u64;

/// Positions of messages by hash; entries that are not in the store yet are in memory.
pub struct LookupTable {
    kv: Arc<dyn Kv>,
    added: Vec<Located>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Located {
    hash: u64,
    position: u64,
}

impl Located {
    fn part(self) -> u32 {
        part(self.position)
    }

    fn bucket(self) -> u16 {
        bucket(self.hash)
    }

    fn encode(self) -> [u8; LOCATED_LEN] {
        assert!(part_start(self.part()) <= self.position, "a part begins before what lies in it");
        let place = (self.position - part_start(self.part())) / ALIGNMENT;
        let place = u32::try_from(place).expect("a part has fewer places than 2 to the power of 32");
        let mut bytes = [0; LOCATED_LEN];
        bytes[..4].copy_from_slice(&short_hash(self.hash).to_be_bytes());
        bytes[4..].copy_from_slice(&place.to_be_bytes());
        bytes
    }
}

fn part(position: u64) -> u32 {
    u32::try_from(position >> PART_BITS).expect("a log is shorter than 4 EiB")
}

fn part_start(part: u32) -> u64 {
    u64::from(part) << PART_BITS
}

fn bucket(hash: u64) -> u16 {
    u16::try_from(hash >> (u64::BITS - BUCKET_BITS)).expect("it has 12 bits")
}

/// The stored bits; they differ from those of the bucket.
fn short_hash(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).expect("it has 32 bits")
}

impl LookupTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { kv: kv.clone(), added: Vec::new() }
    }

    /// Records that the message at `position` can be found by each of `hashes`.
    pub(super) fn add(&mut self, position: u64, hashes: &[u64]) {
        debug_assert!(position.is_multiple_of(ALIGNMENT), "frames begin at multiples of their alignment");
        self.added.extend(hashes.iter().map(|&hash| Located { hash, position }));
    }

    /// Positions of messages with this hash, newest first, as far as they lie before `before` and within `log`, the part of
    /// the log that was applied and not trimmed. Other messages may have an equal hash.
    pub(super) fn positions(&self, hash: u64, before: u64, log: Range<u64>) -> MessagePositions {
        let added = self.added.iter();
        let found = added
            .filter(|located| located.hash == hash && located.position < before)
            .map(|located| located.position);
        MessagePositions {
            kv: self.kv.clone(),
            hash,
            found: found.collect(),
            part: Some(part(before.min(log.end))),
            first: log.start,
            before,
        }
    }
}

impl StateTable for LookupTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Lookups]
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        let mut added = self.added.clone();
        // Stable: within a bucket, positions keep growing.
        added.sort_by_key(|located| (located.part(), located.bucket()));
        for group in added.chunk_by(|a, b| (a.part(), a.bucket()) == (b.part(), b.bucket())) {
            let key = keys::lookup(group[0].part(), group[0].bucket(), group[0].position);
            let value = group.iter().flat_map(|located| located.encode()).collect();
            ops.push(WriteOp::Put(KeyFamily::Lookups, key, value));
        }
    }

    fn flushed(&mut self) {
        self.added.clear();
    }

    fn pending_len(&self) -> usize {
        // About this many share a key.
        self.added.len() / 8
    }

    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        // At once, as in queues: readers skip trimmed positions.
        Ok(self.kv.write(vec![WriteOp::DeleteRange(
            KeyFamily::Lookups,
            first_key(0),
            first_key(trim.before),
        )])?)
    }

    fn trimmed_ranges(&self, trim: &TrimRecord) -> Vec<(KeyFamily, Range<Vec<u8>>)> {
        // The common prefix of a bucket's keys is shorter than any of them.
        vec![(KeyFamily::Lookups, Vec::new()..first_key(trim.before))]
    }

    fn whole_key(&self, _family: KeyFamily, key: Vec<u8>) -> Vec<u8> {
        bucket_key(&key).unwrap_or(key)
    }

    fn differs_before(&self, begin: ReplayBegin, key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        let kept = |bucket: Option<&[u8]>| {
            bucket.map_or_else(Vec::new, |bytes| since(key.key, bytes, begin.position))
        };
        Ok(kept(key.own) == kept(key.found))
    }
}

/// The first key of the part that `position` lies in.
fn first_key(position: u64) -> Vec<u8> {
    keys::lookup(part(position), 0, 0)
}

/// Common prefix of the keys of a bucket.
fn bucket_key(key: &[u8]) -> Option<Vec<u8>> {
    (key.len() == keys::lookup(0, 0, 0).len()).then(|| key[..keys::lookup_prefix(0, 0).len()].to_vec())
}

/// Entries of a bucket for messages at `begin` and behind; `key` is one of its keys or their common prefix.
fn since(key: &[u8], located: &[u8], begin: u64) -> Vec<u8> {
    let part = key.first_chunk::<4>().map_or(0, |part| u32::from_be_bytes(*part));
    let position = |place: &[u8; LOCATED_LEN]| {
        let place = u32::from_be_bytes(*place.last_chunk().expect("longer than 4 bytes"));
        part_start(part) + u64::from(place) * ALIGNMENT
    };
    located.as_chunks().0.iter().filter(|place| position(place) >= begin).flatten().copied().collect()
}

/// Positions of messages with a certain hash, newest first. Reads the store in steps and without locking the index.
pub struct MessagePositions {
    kv: Arc<dyn Kv>,
    hash: u64,
    /// Positions that were found but not returned yet; the newest last.
    found: Vec<u64>,
    /// Part to read next, if any.
    part: Option<u32>,
    /// Everything before it was trimmed.
    first: u64,
    /// Everything from here on was returned or excluded.
    before: u64,
}

impl MessagePositions {
    /// Reads the bucket of the next part.
    fn read_part(&mut self, number: u32) -> Result<(), StoreError> {
        self.part = number.checked_sub(1).filter(|next| *next >= part(self.first));
        let prefix = keys::lookup_prefix(number, bucket(self.hash));
        for (_, value) in self.kv.scan_prefix(KeyFamily::Lookups, &prefix)? {
            let (located, []) = value.as_chunks::<LOCATED_LEN>() else {
                return Err(StoreError::Index("look-up block".into()));
            };
            for bytes in located {
                let [h0, h1, h2, h3, p0, p1, p2, p3] = *bytes;
                let position =
                    part_start(number) + u64::from(u32::from_be_bytes([p0, p1, p2, p3])) * ALIGNMENT;
                if u32::from_be_bytes([h0, h1, h2, h3]) == short_hash(self.hash) && position < self.before {
                    self.found.push(position);
                }
            }
        }
        Ok(())
    }
}

impl Iterator for MessagePositions {
    type Item = Result<u64, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(position) = self.found.pop() {
                if position < self.first {
                    self.part = None;
                    return None;
                }
                // Entries that were added in memory may have been written in between.
                if position < self.before {
                    self.before = position;
                    return Some(Ok(position));
                }
                continue;
            }
            let part = self.part?;
            if let Err(error) = self.read_part(part) {
                self.part = None;
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemKv;
    use crate::state::StateMachine;
    use bytes::Bytes;
    use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, Record, TrimRecord};
    use kerolox_core::topic::Topic;
    use kerolox_log::Frame;
    use proptest::prelude::*;

    fn apply(index: &mut StateMachine, position: u64, record: &Record) {
        let body = Bytes::from(record.encode());
        let frame = Frame { position, len: 64, kind: record.kind() as u8, epoch: 1, store_ms: 1, body };
        index.apply(&frame, &mut Vec::new()).expect("applies");
    }

    fn flush(index: &mut StateMachine) {
        index.kv.write(index.changes()).expect("memory");
        index.flushed();
    }

    fn found(index: &StateMachine, hash: u64, before: u64) -> Vec<u64> {
        index.positions_of(hash, before).collect::<Result<_, _>>().expect("memory")
    }

    /// Few values, so that hashes collide in buckets and as a whole.
    fn hash() -> impl Strategy<Value = u64> {
        (0u64..3, 0u64..3).prop_map(|(first, last)| first << (u64::BITS - BUCKET_BITS) | last)
    }

    proptest! {
        /// Whatever was flushed when, in however many parts of the log: all positions, newest first, as a list would
        /// have them.
        #[test]
        fn all_places_are_found(
            messages in prop::collection::vec((1u64..1 << 27, prop::collection::vec(hash(), 0..4), prop::bool::weighted(0.2)), 1..60),
            trim in 0u64..1 << 33,
        ) {
            let mut index = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
            apply(&mut index, 64, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) }));
            let mut stored: Vec<(u64, Vec<u64>)> = Vec::new();
            let mut position = 128;
            for (gap, mut lookups, flushes) in messages {
                // Two equal keys of a message count as one.
                lookups.sort_unstable();
                lookups.dedup();
                position += gap * ALIGNMENT;
                let header = MessageHeader { topic_id: 1, lookups: lookups.clone(), ..MessageHeader::default() };
                let message = MessageRecord { header, system: Bytes::new(), content: Bytes::new() };
                apply(&mut index, position, &Record::Message(message));
                stored.push((position, lookups));
                if flushes {
                    flush(&mut index);
                }
            }
            let check = |index: &StateMachine, trimmed: u64| {
                for (first, last) in [(0u64, 0u64), (1, 2), (2, 1)] {
                    let hash = first << (u64::BITS - BUCKET_BITS) | last;
                    for before in [u64::MAX, position, position / 2, 0] {
                        let has = |(at, hashes): &&(u64, Vec<u64>)| {
                            *at < before && *at >= trimmed && hashes.contains(&hash)
                        };
                        let wanted: Vec<u64> = stored.iter().rev().filter(has).map(|(at, _)| *at).collect();
                        prop_assert_eq!(found(index, hash, before), wanted);
                    }
                }
                Ok(())
            };
            check(&index, 0)?;
            let trim = trim.min(position);
            apply(&mut index, position + 64, &Record::Trim(TrimRecord { before: trim, queues: Vec::new() }));
            check(&index, trim)?;
            flush(&mut index);
            check(&index, trim)?;
        }
    }
}
