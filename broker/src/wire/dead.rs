//! Dead letters: the original message under another topic, with the reason and its history.

use kerolox_core::record::{DeadOrigin, MessageHeader, MessageRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_model::names::split_namespace;
use kerolox_proto::v2::{DeadLetterQueue, Resource};
use prost::Message as _;

use super::fields::{Fields, Irregular, put_bytes};
use super::numbers::{message, system};
use super::{labels, lookups};

/// User properties of a dead letter. The first two have RocketMQ's names.
mod property {
    pub(super) const TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub(super) const MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    /// `EXHAUSTED`, `FORWARDED` or `OPERATOR`.
    pub(super) const REASON: &str = "DLQ_REASON";
    /// Number of deliveries of the message.
    pub(super) const ATTEMPTS: &str = "DLQ_ATTEMPTS";
    /// When the message was given up, milliseconds since the Unix epoch.
    pub(super) const TIME: &str = "DLQ_TIME";
}

/// The record of a dead letter of the topic `dead_topic`.
pub(crate) fn dead_letter(
    original: &MessageRecord,
    origin: DeadOrigin,
    dead_topic: &Topic,
    now_ms: i64,
) -> Record {
    let id = original.header.message_id.as_str();
    let resource = |stored: &str| {
        let (namespace, name) = split_namespace(stored);
        Resource { resource_namespace: namespace.to_owned(), name: name.to_owned() }
    };
    let topic = resource(&dead_topic.name).encode_to_vec();
    let mut content = Vec::with_capacity(original.content.len() + 256);
    put_bytes(&mut content, message::TOPIC, &topic);
    content.extend(without(&original.content, message::TOPIC).unwrap_or_else(|_| original.content.to_vec()));
    for (name, value) in [
        (property::TOPIC, origin.topic.as_str()),
        (property::MESSAGE_ID, id),
        (property::REASON, origin.reason().word()),
        (property::ATTEMPTS, &origin.attempts.to_string()),
        (property::TIME, &now_ms.to_string()),
    ] {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, value.as_bytes());
        put_bytes(&mut content, message::USER_PROPERTIES, &pair);
    }
    let queue = DeadLetterQueue { topic: resource(&origin.topic).name, message_id: id.to_owned() };
    let mut labels =
        without(&original.system, system::DEAD_LETTER_QUEUE).unwrap_or_else(|_| original.system.to_vec());
    put_bytes(&mut labels, system::DEAD_LETTER_QUEUE, &queue.encode_to_vec());
    let keys = labels::keys(original).unwrap_or_default();
    let header = MessageHeader {
        topic_id: dead_topic.id,
        tag_hash: original.header.tag_hash,
        message_id: id.to_owned(),
        lookups: lookups(id, keys.into_iter(), dead_topic.id),
        dead: Some(origin),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: labels.into(), content: content.into() })
}

/// The bytes of an encoded message without one of its fields.
fn without(bytes: &[u8], number: u32) -> Result<Vec<u8>, Irregular> {
    let mut rest = Vec::with_capacity(bytes.len());
    let mut fields = Fields::of(bytes);
    while let Some(field) = fields.next()? {
        if field.number != number {
            rest.extend_from_slice(&bytes[field.at.clone()]);
        }
    }
    Ok(rest)
}
