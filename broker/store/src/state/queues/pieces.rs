//! Stored entries of queues: pieces of several, each encoded as the difference to the one before.

use prost::encoding::{decode_varint, encode_varint};

use crate::error::StoreError;
use crate::state::keys;

/// Maximum number of entries of one key of the store. The entries of a queue since the last flush become a piece, so
/// that a flush costs no more than its new entries; pieces end at multiples of this, and these blocks are removed as
/// wholes.
pub const BLOCK: u64 = 256;
/// Bytes of an entry in its plain form.
pub(super) const ENTRY_LEN: usize = 24;

/// A message in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueEntry {
    /// Position of the message's record in the log.
    pub position: u64,
    /// Length of its frame.
    pub len: u32,
    /// CRC-32C of its tag, 0 without one.
    pub tag_hash: u32,
    /// When it became visible, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// The key of the block that the piece with this key belongs to.
pub(super) fn block_key(key: &[u8]) -> Option<Vec<u8>> {
    let (topic_id, queue, first) = keys::parse_block(key).ok()?;
    Some(keys::block(topic_id, queue, first - first % BLOCK))
}

/// Encodes a piece, each entry as the difference to the one before: most fields hardly change within a queue.
pub(super) fn encode_piece(entries: &[QueueEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * entries.len() + 16);
    let mut before = QueueEntry::default();
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
pub(super) fn decode_piece(mut bytes: &[u8]) -> impl Iterator<Item = Result<QueueEntry, StoreError>> + '_ {
    let mut entry = QueueEntry::default();
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

/// Decodes and consumes the entry at the beginning of `bytes`, which follows `before`.
fn decode_next(bytes: &mut &[u8], before: &QueueEntry) -> Option<QueueEntry> {
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
    Some(QueueEntry { position, len: u32::try_from(len >> 1).ok()?, tag_hash, visible_ms })
}

/// Maps numbers near 0, of either sign, to small numbers, as in protobuf's `sint64`.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// The entries of a piece in plain form, one behind the other; malformed bytes stay unchanged.
pub(super) fn plain(piece: Vec<u8>) -> Vec<u8> {
    let entries: Result<Vec<QueueEntry>, StoreError> = decode_piece(&piece).collect();
    entries.map(|entries| entries.iter().flat_map(encode_entry).collect()).unwrap_or(piece)
}

pub(in crate::state) fn encode_entry(entry: &QueueEntry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..8].copy_from_slice(&entry.position.to_be_bytes());
    bytes[8..12].copy_from_slice(&entry.len.to_be_bytes());
    bytes[12..16].copy_from_slice(&entry.tag_hash.to_be_bytes());
    bytes[16..].copy_from_slice(&entry.visible_ms.to_be_bytes());
    bytes
}

pub(in crate::state) fn decode_entry(bytes: &[u8]) -> Result<QueueEntry, StoreError> {
    let bytes: &[u8; ENTRY_LEN] = bytes.try_into().map_err(|_| StoreError::Index("queue entry".into()))?;
    let long = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("8 bytes") };
    let short = |at: usize| -> [u8; 4] { bytes[at..at + 4].try_into().expect("4 bytes") };
    Ok(QueueEntry {
        position: u64::from_be_bytes(long(0)),
        len: u32::from_be_bytes(short(8)),
        tag_hash: u32::from_be_bytes(short(12)),
        visible_ms: i64::from_be_bytes(long(16)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = QueueEntry> {
        (any::<u64>(), any::<u32>(), 0u32..3, any::<i64>()).prop_map(
            |(position, len, tag_hash, visible_ms)| QueueEntry { position, len, tag_hash, visible_ms },
        )
    }

    proptest! {
        #[test]
        fn pieces_survive_the_round_trip(entries in prop::collection::vec(entry(), 0..40)) {
            let piece = encode_piece(&entries);
            let decoded: Result<Vec<QueueEntry>, _> = decode_piece(&piece).collect();
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
        let entry = |position, tag_hash, visible_ms| QueueEntry { position, len: 64, tag_hash, visible_ms };
        let piece = encode_piece(&[entry(128, 7, 1_000), entry(192, 7, 1_000), entry(64, 0, 1_001)]);
        let first = [0x80, 0x02, 0x80, 0x01, 0, 0, 0, 7, 0xd0, 0x0f];
        let others = [0x80, 0x01, 0x81, 0x01, 0, 0xff, 0x01, 0x80, 0x01, 0, 0, 0, 0, 2];
        assert_eq!(piece, [&first[..], &others].concat());
    }
}
