//! Keys and small values of the index. Integers are big-endian, so that byte order is number order.

use crate::error::StoreError;

pub(super) const APPLIED: &[u8] = b"applied";
pub(super) const FORMAT: &[u8] = b"format";
pub(super) const BROKER: &[u8] = b"broker";
pub(super) const NEXT_TOPIC: &[u8] = b"next-topic";
pub(super) const NEXT_LITE: &[u8] = b"next-lite";
pub(super) const STORE_MS: &[u8] = b"store-ms";
pub(super) const TRIMMED: &[u8] = b"trimmed";
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
    // Flipping the sign bit makes negative times sort before positive ones.
    let due = due_ms.cast_unsigned() ^ (1 << 63);
    [due.to_be_bytes(), position.to_be_bytes()].concat()
}

pub(super) fn parse_due(key: &[u8]) -> Result<(i64, u64), StoreError> {
    match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(due), Some(position)) if key.len() == 16 => {
            let due = (u64::from_be_bytes(*due) ^ (1 << 63)).cast_signed();
            Ok((due, u64::from_be_bytes(*position)))
        }
        _ => Err(StoreError::Index("due key".into())),
    }
}

pub(super) fn progress(group_id: u32, topic_id: u32, queue: u32) -> Vec<u8> {
    [group_id.to_be_bytes(), topic_id.to_be_bytes(), queue.to_be_bytes()].concat()
}

pub(super) fn parse_progress(key: &[u8]) -> Result<(u32, u32, u32), StoreError> {
    let (group, queue) = key.split_at_checked(4).ok_or_else(|| StoreError::Index("progress key".into()))?;
    let (topic_id, queue) = parse_queue(queue)?;
    Ok((read_u32(group, "progress key")?, topic_id, queue))
}

pub(super) fn parse_held(key: &[u8]) -> Result<u64, StoreError> {
    read_u64(key, "key of a held message")
}

pub(super) fn read_u32(bytes: &[u8], what: &str) -> Result<u32, StoreError> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Index(what.to_owned()))
}

pub(super) fn read_u64(bytes: &[u8], what: &str) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Index(what.to_owned()))
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
}
