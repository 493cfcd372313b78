//! Messages as the broker stores them when an SDK sent them.

use bytes::Bytes;
use kerolox_core::dedup::{DedupKey, DedupPolicy, WINDOW_MS_MAX};
use kerolox_core::lookup;
use kerolox_core::record::{MessageHeader, MessageHold, MessageRecord, Record};
use kerolox_log::NewFrame;
use kerolox_proto::v2::{self, Digest, DigestType, Encoding, SystemProperties};
use prost::Message as _;
use prost_types::Timestamp;

/// Version, network address, process and start time; the number of the message follows.
const ID_PREFIX: &str = "01F2E3D4C5B6A1267F0669C4B1";
const TAG: &str = "paid";
/// Length of the key `order-` and eight digits.
const KEY_LEN: usize = 14;

/// What messages look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageShape {
    /// Bytes of the body.
    pub body: usize,
    /// Whether each message has a key of its own.
    pub key: bool,
    /// Leaves out what not every message has (tag, hosts, digest), so that many fit on a disk.
    pub small: bool,
}

impl MessageShape {
    /// A message with a tag and without keys.
    pub fn plain(body: usize) -> Self {
        Self { body, key: false, small: false }
    }

    /// The shape in words.
    pub fn describe(&self) -> String {
        let mut frame = Vec::new();
        let new = MessageMaker::new(*self, 0).next(1, 1).into_frame();
        kerolox_log::frame::encode(&new, 64, 1, 0, crate::engine::SALT, &mut frame);
        let with = match (self.small, self.key) {
            (true, _) => "id of 34 characters, nothing optional",
            (false, true) => "id, digest, tag, key, hosts",
            (false, false) => "id, digest, tag, hosts",
        };
        format!("{} B message: body of {} B, {with}; frame of {} B", self.body, self.body, frame.len())
    }
}

/// Makes messages with ids that count up; everything else is the same in all of them.
pub struct MessageMaker {
    shape: MessageShape,
    number: u32,
    system: Vec<u8>,
    key_at: Option<usize>,
    content: Bytes,
}

/// A message that can be proposed.
pub struct MadeMessage(MessageRecord);

impl MessageMaker {
    /// Messages of a shape, numbered from `first` on.
    pub fn new(shape: MessageShape, first: u32) -> Self {
        let key = key(first);
        let system = system_properties(shape, &key).encode_to_vec();
        let find = |text: &str| system.windows(text.len()).position(|window| window == text.as_bytes());
        let key_at = find(&key);
        let message = v2::Message {
            topic: Some(v2::Resource { resource_namespace: String::new(), name: "orders-eu-west".into() }),
            user_properties: [].into(),
            system_properties: None,
            body: body(shape.body).into(),
        };
        Self { shape, number: first, key_at, content: message.encode_to_vec().into(), system }
    }

    /// The next message, for a queue of a topic.
    pub fn next(&mut self, topic_id: u32, queue: u32) -> MadeMessage {
        let message_id = id(self.number);
        let mut lookups = vec![lookup::id_hash(&message_id)];
        if let Some(at) = self.key_at {
            let key = key(self.number);
            self.system[at..at + KEY_LEN].copy_from_slice(key.as_bytes());
            lookups.push(lookup::key_hash(topic_id, &key));
        }
        self.number = self.number.wrapping_add(1);
        let header = MessageHeader {
            topic_id,
            queue,
            hold: MessageHold::None.into(),
            hold_ms: 0,
            tag_hash: if self.shape.small { 0 } else { crc32c::crc32c(TAG.as_bytes()) },
            message_id,
            producer: String::new(),
            carried: None,
            lookups,
            dead: None,
            deliver_at_ms: 0,
            dedup_high: None,
            dedup_low: None,
            slot: None,
            joins: false,
        };
        let system = Bytes::copy_from_slice(&self.system);
        MadeMessage(MessageRecord { header, system, content: self.content.clone() })
    }

    /// The number of the next message.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl MadeMessage {
    /// Says what it is known by in a topic with deduplication by id.
    pub fn known_by_id(mut self) -> (Self, u128) {
        let hash =
            DedupPolicy { by: DedupKey::Id, window_ms: WINDOW_MS_MAX }.hash(&self.0.header.message_id, &[]);
        self.0.header.set_dedup(Some(hash));
        (self, hash)
    }

    /// The record to propose.
    pub fn into_record(self) -> Record {
        Record::Message(self.0)
    }

    /// The encoded record.
    pub fn into_frame(self) -> NewFrame {
        let record = self.into_record();
        NewFrame { kind: record.kind() as u8, body: record.encode().into() }
    }
}

/// The id of the message of a number.
pub fn id(number: u32) -> String {
    let digit = |nibble: u32| char::from(b"0123456789ABCDEF"[nibble as usize & 15]);
    let mut id = String::with_capacity(ID_PREFIX.len() + 8);
    id.push_str(ID_PREFIX);
    id.extend((0..8).map(|place| digit(number >> (28 - 4 * place))));
    id
}

/// The key of the message of a number.
pub fn key(number: u32) -> String {
    format!("order-{number:08}")
}

/// What the SDK sends, and what the broker adds to it before it stores the message.
fn system_properties(shape: MessageShape, key: &str) -> SystemProperties {
    let sent = SystemProperties {
        body_encoding: Encoding::Identity.into(),
        message_type: v2::MessageType::Normal.into(),
        born_timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 }),
        keys: if shape.key { vec![key.to_owned()] } else { Vec::new() },
        ..SystemProperties::default()
    };
    if shape.small {
        return sent;
    }
    let checksum = "9E107D9D372BB6826BD81D3542A419D6".to_owned();
    SystemProperties {
        tag: Some(TAG.to_owned()),
        born_host: "orders-service-7".to_owned(),
        body_digest: Some(Digest { r#type: DigestType::Md5.into(), checksum }),
        store_host: "broker-a.example:8081".to_owned(),
        ..sent
    }
}

/// Bytes that do not repeat, as compressed or encrypted bodies look.
fn body(len: usize) -> Vec<u8> {
    let mut chooser = kerolox_log::fs::SeededChoices::new(7);
    (0..len).map(|_| chooser.next_u64() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_decode_to_what_was_asked_for_and_ids_count_up() {
        let shape = MessageShape { body: 100, key: true, small: false };
        let mut maker = MessageMaker::new(shape, 9);
        for number in [9u32, 10, 11] {
            let Record::Message(made) = maker.next(3, 5).into_record() else { panic!("no message") };
            let made = MessageRecord::decode(Record::Message(made).encode().into()).expect("decodes");
            let id = format!("{ID_PREFIX}{number:08X}");
            assert_eq!((made.header.topic_id, made.header.queue, made.header.message_id.len()), (3, 5, 34));
            assert_eq!((&made.header.message_id, made.header.lookups.len()), (&id, 2));
            let system = SystemProperties::decode(made.system).expect("decodes");
            assert_eq!(system.keys, [format!("order-{number:08}")]);
            assert_eq!(v2::Message::decode(made.content).expect("decodes").body.len(), 100);
        }
    }
}
