//! Between messages on the wire and messages in the log.

use kerolox_core::publish::Draft;
use kerolox_core::record::{Hold, MessageHeader, MessageRecord};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_proto::v2::{self, Digest, DigestType, Encoding, SystemProperties};
use md5::{Digest as _, Md5};
use prost::Message as _;
use prost_types::{Duration, Timestamp};

/// What the checks look at; `stored_topic` is the topic's name with its namespace.
pub(crate) fn draft<'a>(
    message: &'a v2::Message,
    system: &'a SystemProperties,
    stored_topic: &'a str,
) -> Draft<'a> {
    Draft {
        topic: stored_topic,
        message_id: &system.message_id,
        body_len: message.body.len(),
        declared: MessageType::try_from(system.message_type)
            .ok()
            .filter(|kind| *kind != MessageType::Unspecified),
        tag: system.tag.as_deref(),
        keys: system.keys.iter().map(String::as_str).collect(),
        properties: message.user_properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        message_group: system.message_group.as_deref(),
        has_delivery_time: system.delivery_timestamp.is_some(),
        has_priority: system.priority.is_some(),
        has_lite_topic: system.lite_topic.is_some(),
        recovery_ms: system.orphaned_transaction_recovery_duration.as_ref().map(duration_ms),
    }
}

/// Where a message goes and why it is held back, if it is.
pub(crate) struct Placement<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) queue: u32,
    pub(crate) kind: MessageType,
    pub(crate) hold: Hold,
    /// See [`MessageHeader::hold_ms`].
    pub(crate) hold_ms: i64,
    /// Client id of the producer.
    pub(crate) producer: &'a str,
    /// Address of this broker.
    pub(crate) store_host: &'a str,
}

/// The record of a checked message. What only the broker may say is set or cleared here, whatever the client sent.
pub(crate) fn record(mut message: v2::Message, placement: &Placement<'_>) -> MessageRecord {
    let mut system = message.system_properties.take().unwrap_or_default();
    let header = MessageHeader {
        topic_id: placement.topic.id,
        queue: placement.queue,
        hold: placement.hold.into(),
        hold_ms: placement.hold_ms,
        tag_hash: system.tag.as_deref().map_or(0, |tag| crc32c::crc32c(tag.as_bytes())),
        message_id: system.message_id.clone(),
        producer: placement.producer.to_owned(),
    };
    system.body_digest = Some(digest(&message.body));
    if system.body_encoding() == Encoding::Unspecified {
        system.set_body_encoding(Encoding::Identity);
    }
    system.message_type = placement.kind.into();
    system.store_host = placement.store_host.to_owned();
    // Some SDKs fail on a delivery without it.
    system.born_timestamp.get_or_insert_with(Timestamp::default);
    system.queue_id = placement.queue.cast_signed();
    system.store_timestamp = None;
    system.receipt_handle = None;
    system.queue_offset = None;
    system.invisible_duration = None;
    system.delivery_attempt = None;
    system.dead_letter_queue = None;
    MessageRecord { header, system: system.encode_to_vec().into(), content: message.encode_to_vec().into() }
}

/// What a delivery adds to a stored message.
#[derive(Default)]
pub(crate) struct Delivery {
    pub(crate) store_ms: i64,
    pub(crate) queue: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) attempt: Option<u32>,
    pub(crate) receipt_handle: Option<String>,
    pub(crate) invisible_ms: Option<u64>,
}

/// The message as a client gets it.
///
/// # Errors
/// The protobuf error when the stored bytes are not a message.
pub(crate) fn message(record: &MessageRecord, delivery: Delivery) -> Result<v2::Message, prost::DecodeError> {
    let mut message = v2::Message::decode(record.content.clone())?;
    let mut system = SystemProperties::decode(record.system.clone())?;
    system.store_timestamp = Some(timestamp(delivery.store_ms));
    system.queue_id = delivery.queue.cast_signed();
    system.queue_offset = delivery.offset.map(u64::cast_signed);
    system.delivery_attempt = delivery.attempt.map(u32::cast_signed);
    system.receipt_handle = delivery.receipt_handle;
    system.invisible_duration = delivery.invisible_ms.map(duration);
    message.system_properties = Some(system);
    Ok(message)
}

/// The tag of a stored message.
///
/// # Errors
/// The protobuf error when the stored bytes are not system properties.
pub(crate) fn tag(record: &MessageRecord) -> Result<Option<String>, prost::DecodeError> {
    Ok(SystemProperties::decode(record.system.clone())?.tag)
}

/// MD5 in upper-case hex: the one digest that all SDKs write alike.
fn digest(body: &[u8]) -> Digest {
    let checksum = Md5::digest(body).iter().map(|byte| format!("{byte:02X}")).collect();
    Digest { r#type: DigestType::Md5.into(), checksum }
}

/// Milliseconds of a protobuf duration; a negative one counts as 0.
pub(crate) fn duration_ms(duration: &Duration) -> u64 {
    let ms = duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos) / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

pub(crate) fn duration(ms: u64) -> Duration {
    let nanos = i32::try_from(ms % 1000).expect("below 1000") * 1_000_000;
    Duration { seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX), nanos }
}

pub(crate) fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000)).expect("below 1000") * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_round_trip() {
        for ms in [0, 1, 999, 1000, 123_456_789] {
            assert_eq!(duration_ms(&duration(ms)), ms);
        }
        assert_eq!(duration_ms(&Duration { seconds: -1, nanos: 0 }), 0);
        assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanos: 999_000_000 });
    }

    #[test]
    fn a_delivery_is_the_stored_message_with_the_brokers_fields() {
        let topic = Topic::new("t", 1);
        let sent = v2::Message {
            topic: Some(v2::Resource { resource_namespace: "ns".into(), name: "t".into() }),
            user_properties: [("k".to_owned(), "v".to_owned())].into(),
            system_properties: Some(SystemProperties {
                tag: Some("paid".into()),
                message_id: "01AB".into(),
                delivery_attempt: Some(77),
                receipt_handle: Some("forged".into()),
                ..SystemProperties::default()
            }),
            body: bytes::Bytes::from_static(b"hello"),
        };
        let placement = Placement {
            topic: &topic,
            queue: 3,
            kind: MessageType::Normal,
            hold: Hold::None,
            hold_ms: 0,
            producer: "p",
            store_host: "h:1",
        };
        let record = record(sent.clone(), &placement);
        assert_eq!(tag(&record).expect("own bytes").as_deref(), Some("paid"));
        let checked = message(&record, Delivery { queue: 3, ..Delivery::default() }).expect("own bytes");
        let system = checked.system_properties.expect("always set");
        assert_eq!(
            (system.receipt_handle, system.delivery_attempt),
            (None, None),
            "noise of the client is gone"
        );

        let delivery =
            Delivery { store_ms: 5, queue: 3, offset: Some(9), attempt: Some(2), ..Delivery::default() };
        let received = message(&record, delivery).expect("own bytes");
        assert_eq!(
            (&received.topic, &received.user_properties, &received.body),
            (&sent.topic, &sent.user_properties, &sent.body)
        );
        let system = received.system_properties.expect("always set");
        assert_eq!((system.queue_id, system.queue_offset, system.delivery_attempt), (3, Some(9), Some(2)));
        let digest = system.body_digest.as_ref().expect("always set");
        assert_eq!(
            (digest.r#type(), digest.checksum.as_str()),
            (DigestType::Md5, "5D41402ABC4B2A76B9719D911017C592")
        );
        assert_eq!(system.message_type(), v2::MessageType::Normal);
    }
}
