//! Conversion between messages on the wire and messages in the log.

mod dead;
mod fields;
mod labels;
mod numbers;
mod sent;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use kerolox_core::filter::Filter;
use kerolox_core::lookup;
use kerolox_core::record::{MessageHeader, MessageHold, MessageRecord};
use kerolox_core::slots;
use kerolox_core::topic::{MessageType, Topic};
use kerolox_proto::v2::{Digest, DigestType, Encoding, FilterExpression, FilterType};
use md5::{Digest as _, Md5};
use prost::Message as _;
use prost_types::{Duration, Timestamp};

use fields::{put_bytes, put_int32, put_len, put_varint};
use numbers::{message as field, system};

pub(crate) use dead::dead_letter;
pub(crate) use fields::Irregular;
pub(crate) use labels::{has_key, is_wanted, labels, message_group};
pub(crate) use sent::{Sent, normalize, scan};

/// The destination of a message, and why it is held back, if it is.
pub(crate) struct Placement<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) queue: u32,
    pub(crate) kind: MessageType,
    pub(crate) hold: MessageHold,
    /// See [`MessageHeader::hold_ms`].
    pub(crate) hold_ms: i64,
    /// See [`MessageHeader::deliver_at_ms`]; `None` also for immediate delivery.
    pub(crate) deliver_at_ms: Option<i64>,
    /// Client id of the producer.
    pub(crate) producer: &'a str,
    /// Address of this broker.
    pub(crate) store_host: &'a str,
}

/// Parses a filter expression.
///
/// # Errors
/// A sentence that describes the error.
pub(crate) fn filter(expression: &FilterExpression) -> Result<Filter, String> {
    match expression.r#type() {
        FilterType::Sql => Filter::sql(&expression.expression).map_err(|error| error.to_string()),
        FilterType::Tag | FilterType::Unspecified => Filter::tags(&expression.expression),
    }
}

/// The record of a checked message: its bytes as they arrived, followed by the broker's fields. In one encoded message
/// the later of two equal fields counts, unless it is a message itself.
pub(crate) fn record(sent: &Sent<'_>, placement: &Placement<'_>) -> MessageRecord {
    let header = MessageHeader {
        topic_id: placement.topic.id,
        queue: placement.queue,
        hold: placement.hold.into(),
        hold_ms: placement.hold_ms,
        tag_hash: sent.draft.tag.map_or(0, |tag| crc32c::crc32c(tag.as_bytes())),
        message_id: sent.draft.message_id.to_owned(),
        producer: match placement.hold {
            MessageHold::Half => placement.producer.to_owned(),
            _ => String::new(),
        },
        carried: None,
        lookups: lookups(sent.draft.message_id, sent.draft.keys.iter().copied(), placement.topic.id),
        dead: None,
        deliver_at_ms: match placement.hold {
            MessageHold::Half => placement.deliver_at_ms.unwrap_or(0),
            _ => 0,
        },
        dedup_high: None,
        dedup_low: None,
        slot: sent.draft.message_group.map(slots::slot_of),
        joins: false,
    };
    let [before_id, after_id] = sent.system;
    let sent_len = before_id.len() + after_id.len();
    let mut system = Vec::with_capacity(sent_len + placement.store_host.len() + ADDED_WHEN_STORED);
    system.extend_from_slice(before_id);
    system.extend_from_slice(after_id);
    put_bytes(&mut system, system::BODY_DIGEST, &digest(sent.body).encode_to_vec());
    put_bytes(&mut system, system::STORE_HOST, placement.store_host.as_bytes());
    let kind = i32::from(placement.kind);
    if sent.message_type != kind {
        put_int32(&mut system, system::MESSAGE_TYPE, kind);
    }
    if !sent.has_encoding {
        put_int32(&mut system, system::BODY_ENCODING, Encoding::Identity.into());
    }
    if !sent.has_born_timestamp {
        // Some SDKs fail on a delivery without it.
        put_bytes(&mut system, system::BORN_TIMESTAMP, &[]);
    }
    if let Some(deliver_at_ms) = placement.deliver_at_ms.filter(|_| !sent.has_delivery_timestamp) {
        // It was given as a delay level.
        put_bytes(&mut system, system::DELIVERY_TIMESTAMP, &timestamp(deliver_at_ms).encode_to_vec());
    }
    MessageRecord { header, system: system.into(), content: sent.content.concat().into() }
}

/// The lookup hashes of a message.
fn lookups<'a>(message_id: &str, keys: impl Iterator<Item = &'a str>, topic_id: u32) -> Vec<u64> {
    let keys = keys.map(|key| lookup::key_hash(topic_id, key));
    std::iter::once(lookup::id_hash(message_id)).chain(keys).collect()
}

/// Space for the fields that [`record`] adds, beside the store host: digest 38 bytes, the others 8.
const ADDED_WHEN_STORED: usize = 48;
/// Space for the fields that [`message`] adds, beside the message id and the receipt handle.
const ADDED_ON_DELIVERY: usize = 64;
/// Longest encoding of a length below 4 GiB.
const LEN_BYTES_MAX: usize = 5;

/// The fields that a delivery adds to a stored message.
#[derive(Default)]
pub(crate) struct Delivery {
    pub(crate) store_ms: i64,
    pub(crate) queue: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) attempt: Option<u32>,
    pub(crate) receipt_handle: Option<String>,
    pub(crate) invisible_ms: Option<u64>,
}

/// The message in the client's form, encoded: the stored bytes and the fields of the delivery.
pub(crate) fn message(record: &MessageRecord, delivery: &Delivery) -> Bytes {
    let handle = delivery.receipt_handle.as_deref();
    let id = &record.header.message_id;
    let mut added = Vec::with_capacity(id.len() + handle.map_or(0, str::len) + ADDED_ON_DELIVERY);
    put_bytes(&mut added, system::MESSAGE_ID, id.as_bytes());
    put_bytes(&mut added, system::STORE_TIMESTAMP, &timestamp(delivery.store_ms).encode_to_vec());
    put_int32(&mut added, system::QUEUE_ID, delivery.queue.cast_signed());
    if let Some(offset) = delivery.offset {
        put_varint(&mut added, system::QUEUE_OFFSET, offset);
    }
    if let Some(attempt) = delivery.attempt {
        put_int32(&mut added, system::DELIVERY_ATTEMPT, attempt.cast_signed());
    }
    if let Some(handle) = handle {
        put_bytes(&mut added, system::RECEIPT_HANDLE, handle.as_bytes());
    }
    if let Some(ms) = delivery.invisible_ms {
        put_bytes(&mut added, system::INVISIBLE_DURATION, &duration(ms).encode_to_vec());
    }
    let system_len = record.system.len() + added.len();
    let mut message = Vec::with_capacity(record.content.len() + system_len + 1 + LEN_BYTES_MAX);
    message.extend_from_slice(&record.content);
    put_len(&mut message, field::SYSTEM_PROPERTIES, system_len);
    message.extend_from_slice(&record.system);
    message.extend_from_slice(&added);
    message.into()
}

/// MD5 in upper-case hex: the one digest that all SDKs write alike.
fn digest(body: &[u8]) -> Digest {
    let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
    let checksum = Md5::digest(body).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    Digest { r#type: DigestType::Md5.into(), checksum }
}

/// Milliseconds of a protobuf duration; a negative one counts as 0.
pub(crate) fn duration_ms(duration: &Duration) -> u64 {
    u64::try_from(signed_ms(duration)).unwrap_or(0)
}

/// Whole milliseconds of a protobuf duration; negative ones are rounded down.
pub(crate) fn signed_ms(duration: &Duration) -> i64 {
    let nanos = i64::from(duration.nanos);
    duration.seconds.saturating_mul(1000).saturating_add(nanos.div_euclid(1_000_000))
}

/// Milliseconds since the Unix epoch of a timestamp, which has the form of a duration. Never too early.
pub(crate) fn timestamp_ms(time: &Duration) -> i64 {
    let nanos = i64::from(time.nanos);
    let ms = nanos.div_euclid(1_000_000) + i64::from(nanos.rem_euclid(1_000_000) > 0);
    time.seconds.saturating_mul(1000).saturating_add(ms)
}

pub(crate) fn duration(ms: u64) -> Duration {
    let nanos = i32::try_from(ms % 1000).expect("below 1000") * 1_000_000;
    Duration { seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX), nanos }
}

pub(crate) fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000)).expect("below 1000") * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}
