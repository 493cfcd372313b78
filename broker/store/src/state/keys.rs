//! Keys and small values of the index. Integers are big-endian, so that byte order is number order.

use prost::Message;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp, pairs};
use crate::state::dedup::Bucket;
use crate::state::progress::ProgressId;

pub(super) const APPLIED: &[u8] = b"applied";
pub(super) const FORMAT: &[u8] = b"format";
pub(super) const BROKER: &[u8] = b"broker";
pub(super) const NEXT_TOPIC: &[u8] = b"next-topic";
pub(super) const NEXT_LITE: &[u8] = b"next-lite";
pub(super) const WITHHELD: &[u8] = b"withheld";
pub(super) const EPOCH: &[u8] = b"epoch";
pub(super) const STORE_MS: &[u8] = b"store-ms";
pub(super) const TRIMMED: &[u8] = b"trimmed";
pub(super) const JOINING: &[u8] = b"joining";
pub(super) const UNSETTLED: &[u8] = b"unsettled";
pub(super) const NEXT_GROUP: &[u8] = b"next-group";

pub(super) fn id(id: u32) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

pub(super) fn queue(topic_id: u32, queue: u32) -> Vec<u8> {
    [topic_id.to_be_bytes(), queue.to_be_bytes()].concat()
}

pub(super) fn lite(topic_id: u32, name: &str) -> Vec<u8> {
    [&topic_id.to_be_bytes()[..], name.as_bytes()].concat()
}

pub(super) fn parse_queue(key: &[u8]) -> Result<(u32, u32), StoreError> {
    match (key.first_chunk::<4>(), key.last_chunk::<4>()) {
        (Some(topic), Some(queue)) if key.len() == 8 => {
            Ok((u32::from_be_bytes(*topic), u32::from_be_bytes(*queue)))
        }
        _ => Err(StoreError::Index("queue key".into())),
    }
}

pub(super) fn block(topic_id: u32, queue_number: u32, first: u64) -> Vec<u8> {
    let mut key = queue(topic_id, queue_number);
    key.extend_from_slice(&first.to_be_bytes());
    key
}

pub(super) fn parse_block(key: &[u8]) -> Result<(u32, u32, u64), StoreError> {
    match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(queue), Some(first)) if key.len() == 16 => {
            let (topic_id, queue) = parse_queue(queue)?;
            Ok((topic_id, queue, u64::from_be_bytes(*first)))
        }
        _ => Err(StoreError::Index("key of a queue and an offset".into())),
    }
}

pub(super) fn lookup_prefix(part: u32, bucket: u16) -> Vec<u8> {
    [&part.to_be_bytes()[..], &bucket.to_be_bytes()].concat()
}

pub(super) fn lookup(part: u32, bucket: u16, first: u64) -> Vec<u8> {
    [&lookup_prefix(part, bucket)[..], &first.to_be_bytes()].concat()
}

pub(super) fn held(position: u64) -> Vec<u8> {
    position.to_be_bytes().to_vec()
}

pub(super) fn due(due_ms: i64, position: u64) -> Vec<u8> {
    [flipped(due_ms).to_be_bytes(), position.to_be_bytes()].concat()
}

const SIGN_BIT: u64 = 1 << 63;

/// A time with its sign bit flipped, so that negative ones sort before positive ones.
fn flipped(time_ms: i64) -> u64 {
    time_ms.cast_unsigned() ^ SIGN_BIT
}

pub(super) fn parse_due(key: &[u8]) -> Result<(i64, u64), StoreError> {
    match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(due), Some(position)) if key.len() == 16 => {
            let due = (u64::from_be_bytes(*due) ^ SIGN_BIT).cast_signed();
            Ok((due, u64::from_be_bytes(*position)))
        }
        _ => Err(StoreError::Index("due key".into())),
    }
}

pub(super) fn progress(id: ProgressId) -> Vec<u8> {
    [id.group_id.to_be_bytes(), id.topic_id.to_be_bytes(), id.queue.to_be_bytes()].concat()
}

pub(super) fn parse_progress(key: &[u8]) -> Result<ProgressId, StoreError> {
    let (group, queue) = key.split_at_checked(4).ok_or_else(|| StoreError::Index("progress key".into()))?;
    let (topic_id, queue) = parse_queue(queue)?;
    Ok(ProgressId { group_id: read_u32(group, "progress key")?, topic_id, queue })
}

pub(super) fn parse_held(key: &[u8]) -> Result<u64, StoreError> {
    read_u64(key, "key of a held message")
}

/// Common prefix of the keys of a bucket.
pub(super) fn dedup_bucket(bucket: Bucket) -> Vec<u8> {
    let mut key = id(bucket.topic_id);
    key.extend_from_slice(&flipped(bucket.start_ms).to_be_bytes());
    key.push(bucket.bits);
    key
}

pub(super) fn dedup(bucket: Bucket, hash: u128) -> Vec<u8> {
    let mut key = dedup_bucket(bucket);
    key.extend_from_slice(&hash.to_be_bytes());
    key
}

pub(super) fn parse_dedup(key: &[u8]) -> Result<(Bucket, u128), StoreError> {
    let fields = key.split_first_chunk::<4>().and_then(|(topic, rest)| {
        let (start, rest) = rest.split_first_chunk::<8>()?;
        let (bits, hash) = rest.split_first()?;
        Some((topic, start, bits, u128::from_be_bytes(hash.try_into().ok()?)))
    });
    let Some((topic, start, bits, hash)) = fields else { return Err(StoreError::Index("dedup key".into())) };
    let start_ms = (u64::from_be_bytes(*start) ^ SIGN_BIT).cast_signed();
    Ok((Bucket { topic_id: u32::from_be_bytes(*topic), start_ms, bits: *bits }, hash))
}

/// The key for the first record that the record at a position duplicates; there is no topic 0.
pub(super) fn hanging(repeat: u64) -> Vec<u8> {
    [&id(0)[..], &repeat.to_be_bytes()].concat()
}

pub(super) fn parse_hanging(key: &[u8]) -> Option<u64> {
    let repeat = key.strip_prefix(&[0; 4])?;
    repeat.try_into().ok().map(u64::from_be_bytes)
}

pub(super) fn read_u32(bytes: &[u8], what: &str) -> Result<u32, StoreError> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Index(what.to_owned()))
}

pub(super) fn read_u64(bytes: &[u8], what: &str) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Index(what.to_owned()))
}

/// Sets a key of the family of single values.
pub(super) fn put_state(key: &[u8], value: &[u8]) -> WriteOp {
    WriteOp::Put(KeyFamily::State, key.to_vec(), value.to_vec())
}

/// A `u32` of the family of single values, if it exists.
pub(super) fn state_u32(kv: &dyn Kv, key: &[u8]) -> Result<Option<u32>, StoreError> {
    let stored = kv.get(KeyFamily::State, key)?;
    stored.map(|bytes| read_u32(&bytes, &String::from_utf8_lossy(key))).transpose()
}

/// A `u64` of the family of single values, if it exists.
pub(super) fn state_u64(kv: &dyn Kv, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let stored = kv.get(KeyFamily::State, key)?;
    stored.map(|bytes| read_u64(&bytes, &String::from_utf8_lossy(key))).transpose()
}

/// All values of a family, decoded; `what` names one of them.
pub(super) fn messages<M: Message + Default>(
    kv: &dyn Kv,
    family: KeyFamily,
    what: &str,
) -> Result<Vec<M>, StoreError> {
    pairs(|from, limit| kv.scan(family, from, limit))
        .map(|pair| M::decode(&*pair?.1).map_err(|_| StoreError::Index(what.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_sort_by_time_then_position() {
        let keys: Vec<Vec<u8>> =
            [(-5, 9), (0, 1), (0, 2), (i64::MAX, 0)].map(|(due_ms, at)| due(due_ms, at)).to_vec();
        assert!(keys.is_sorted());
        assert_eq!(parse_due(&keys[0]).ok(), Some((-5, 9)));
        assert_eq!(parse_queue(&queue(7, 8)).ok(), Some((7, 8)));
    }

    #[test]
    fn dedup_keys_sort_by_topic_then_time() {
        let at = |topic_id, start_ms| dedup(Bucket { topic_id, start_ms, bits: 10 }, 7);
        assert!([hanging(u64::MAX), at(1, -1024), at(1, 0), at(1, 1024), at(2, 0)].is_sorted());
        assert_eq!(
            parse_dedup(&at(3, -1024)).ok(),
            Some((Bucket { topic_id: 3, start_ms: -1024, bits: 10 }, 7))
        );
        assert_eq!((parse_hanging(&hanging(5)), parse_hanging(&at(1, 0))), (Some(5), None));
    }
}
