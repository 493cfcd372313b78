//! The message record: the broker's metadata, beside the bytes for the consumer.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;

use super::{CarriedOrigin, DeadOrigin, RecordError};

/// Why a stored message is not visible yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum MessageHold {
    /// Visible at once.
    None = 0,
    /// A half message, until its transaction ends.
    Half = 1,
    /// Until its due time.
    Until = 2,
}

/// The state machine's part of a message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MessageHeader {
    /// Number of the topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Queue in which the message is or will be visible.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Whether and why it is held back.
    #[prost(enumeration = "MessageHold", tag = "3")]
    pub hold: i32,
    /// For [`MessageHold::Half`]: milliseconds from store time to the first check-back. For [`MessageHold::Until`]: the due time in
    /// milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub hold_ms: i64,
    /// CRC-32C of the tag, so that most non-matching messages are skipped without reading them; 0 without a tag.
    #[prost(uint32, tag = "5")]
    pub tag_hash: u32,
    /// The producer's id for the message.
    #[prost(string, tag = "6")]
    pub message_id: String,
    /// Client id of the producer of a half message, for the story of its transaction.
    #[prost(string, tag = "7")]
    pub producer: String,
    /// Present in the copy of a message that is still needed when its segment goes.
    #[prost(message, optional, tag = "8")]
    pub carried: Option<CarriedOrigin>,
    /// Lookup hashes: [`crate::lookup::id_hash`] of its id, then [`crate::lookup::key_hash`] of each key.
    #[prost(fixed64, repeated, tag = "9")]
    pub lookups: Vec<u64>,
    /// Present in a dead letter.
    #[prost(message, optional, tag = "10")]
    pub dead: Option<DeadOrigin>,
    /// For a half message: when it becomes visible once it is committed, milliseconds since the Unix epoch; 0 for at once.
    #[prost(int64, tag = "11")]
    pub deliver_at_ms: i64,
    /// Upper half of its identity in a topic with deduplication, see [`crate::dedup::DedupPolicy::hash`]; absent elsewhere.
    #[prost(fixed64, optional, tag = "14")]
    pub dedup_high: Option<u64>,
    /// Lower half of that identity.
    #[prost(fixed64, optional, tag = "15")]
    pub dedup_low: Option<u64>,
    /// [`crate::slots::slot_of`] its message group, if it has one: the state machine finds the queue by the slot, and `queue` is the one
    /// that its proposer expected.
    #[prost(uint32, optional, tag = "16")]
    pub slot: Option<u32>,
    /// For a half message: it belongs to the transaction of the next half message that does not set this. They lie next to
    /// each other; if a crash took the last one, none of them counts.
    #[prost(bool, tag = "17")]
    pub joins: bool,
}

impl MessageHeader {
    /// Sets the identity for deduplication.
    pub fn set_dedup(&mut self, hash: Option<u128>) {
        let half = |hash: u128| u64::try_from(hash & u128::from(u64::MAX)).expect("it has 64 bits");
        (self.dedup_high, self.dedup_low) = (hash.map(|hash| half(hash >> 64)), hash.map(half));
    }

    /// The identity of the message in a topic with deduplication.
    pub fn dedup(&self) -> Option<u128> {
        joined(self.dedup_high, self.dedup_low)
    }
}

fn joined(high: Option<u64>, low: Option<u64>) -> Option<u128> {
    Some(u128::from(high?) << 64 | u128::from(low?))
}

/// The part of [`MessageHeader`] that the state machine needs for most messages, read without touching its texts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MessageRouting {
    /// See [`MessageHeader::topic_id`].
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// See [`MessageHeader::queue`].
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// See [`MessageHeader::hold`].
    #[prost(enumeration = "MessageHold", tag = "3")]
    pub hold: i32,
    /// See [`MessageHeader::tag_hash`].
    #[prost(uint32, tag = "5")]
    pub tag_hash: u32,
    /// See [`MessageHeader::carried`].
    #[prost(message, optional, tag = "8")]
    pub carried: Option<CarriedOrigin>,
    /// See [`MessageHeader::lookups`].
    #[prost(fixed64, repeated, tag = "9")]
    pub lookups: Vec<u64>,
    /// See [`MessageHeader::dead`].
    #[prost(message, optional, tag = "10")]
    pub dead: Option<DeadOrigin>,
    /// See [`MessageHeader::dedup_high`].
    #[prost(fixed64, optional, tag = "14")]
    pub dedup_high: Option<u64>,
    /// See [`MessageHeader::dedup_low`].
    #[prost(fixed64, optional, tag = "15")]
    pub dedup_low: Option<u64>,
    /// See [`MessageHeader::slot`].
    #[prost(uint32, optional, tag = "16")]
    pub slot: Option<u32>,
}

impl MessageRouting {
    /// See [`MessageHeader::dedup`].
    pub fn dedup(&self) -> Option<u128> {
        joined(self.dedup_high, self.dedup_low)
    }

    /// Reads the routing fields from the body of a message record.
    ///
    /// # Errors
    /// See [`MessageRecord::decode`].
    pub fn decode_from(mut body: Bytes) -> Result<Self, RecordError> {
        Self::decode(section(&mut body, "header")?).map_err(|error| malformed(error.to_string()))
    }
}

/// A message as stored: header, then the consumer's bytes in two sections.
///
/// Body layout: `u32 header length ‖ header (protobuf) ‖ u32 system length ‖ system ‖ content`, integers little-endian.
/// `system` is an encoded `apache.rocketmq.v2.SystemProperties` without the message id; `content` holds the other fields of
/// `apache.rocketmq.v2.Message` (topic, user properties, body) in wire form. A delivered message is `content`, then
/// field 3 made of `system`, the id and the few fields that the broker adds: later scalar fields win, so nothing is re-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// Metadata of the broker.
    pub header: MessageHeader,
    /// Encoded `SystemProperties`, without the message id.
    pub system: Bytes,
    /// Wire fields 1, 2 and 4 of `Message`.
    pub content: Bytes,
}

impl MessageRecord {
    /// Estimated length of the record body, hardly ever too small.
    pub fn size_hint(&self) -> usize {
        let header = &self.header;
        let texts = header.message_id.len() + header.producer.len() + 8 * header.lookups.len();
        HEADER_NUMBERS + texts + self.system.len() + self.content.len()
    }

    /// Appends the record body to `out`.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let header_len = self.header.encoded_len();
        let before = out.len();
        out.reserve(8 + header_len + self.system.len() + self.content.len());
        out.put_u32_le(u32::try_from(header_len).expect("a header is a few hundred bytes"));
        self.header.encode(out).expect("a Vec grows as needed");
        out.put_u32_le(u32::try_from(self.system.len()).expect("bounded by the request limit"));
        out.put_slice(&self.system);
        out.put_slice(&self.content);
        assert_eq!(
            out.len() - before,
            8 + header_len + self.system.len() + self.content.len(),
            "as reserved"
        );
    }

    /// Reads a record body; the sections share memory with it.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when a length points outside the body or the header is not protobuf.
    pub fn decode(mut body: Bytes) -> Result<Self, RecordError> {
        let header = section(&mut body, "header")?;
        let header = MessageHeader::decode(header).map_err(|error| malformed(error.to_string()))?;
        let system = section(&mut body, "system properties")?;
        Ok(Self { header, system, content: body })
    }
}

/// Space for the numbers of a header, with their keys and lengths.
const HEADER_NUMBERS: usize = 66;

fn section(body: &mut Bytes, name: &str) -> Result<Bytes, RecordError> {
    if body.len() < 4 {
        return Err(malformed(format!("cut off before the length of its {name}")));
    }
    let len = body.get_u32_le() as usize;
    if len > body.len() {
        return Err(malformed(format!("{name} of {len} bytes, but {} are left", body.len())));
    }
    Ok(body.split_to(len))
}

fn malformed(reason: String) -> RecordError {
    RecordError::Malformed { kind: "message", reason }
}
