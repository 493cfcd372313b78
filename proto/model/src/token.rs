//! Tokens: receipt handles, transaction ids and recall handles, opaque to clients and self-contained for us.
//!
//! Each names the broker group that owns it, so that any nameserver or broker that is handed one can pass the call on
//! without a look-up. The text form is `base64url(crc32c ‖ kind ‖ protobuf)`: printable ASCII, safe in headers and logs,
//! and a mangled or foreign token is told apart from a genuine one. Field numbers are part of the wire contract: a
//! token may be older than the software that reads it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

/// Longest token text that is looked at, in bytes; ours stay far below.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// Why a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not one of ours, or damaged on the way.
    #[error("not a valid {kind}; pass on the exact text that the server gave you")]
    Malformed {
        /// What it should have been.
        kind: &'static str,
    },
}

/// Right to acknowledge one delivery of one message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReceiptHandle {
    /// Broker group that delivered the message.
    #[prost(string, tag = "1")]
    pub broker: String,
    /// Topic as the broker stores it (namespace included).
    #[prost(string, tag = "2")]
    pub topic: String,
    /// Consumer group as the broker stores it.
    #[prost(string, tag = "3")]
    pub group: String,
    /// Queue of the topic.
    #[prost(uint32, tag = "4")]
    pub queue: u32,
    /// Offset in the queue.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    /// Delivery attempt that this handle stands for, from 1.
    #[prost(uint32, tag = "6")]
    pub attempt: u32,
    /// Distinguishes deliveries and extensions of one attempt.
    #[prost(uint64, tag = "7")]
    pub lease: u64,
    /// When the message becomes visible again, milliseconds since the Unix epoch on the broker's clock.
    #[prost(int64, tag = "8")]
    pub invisible_until_ms: i64,
    /// Number of the topic's incarnation: a deleted and re-created topic has another one.
    #[prost(uint32, tag = "9")]
    pub topic_id: u32,
    /// Number of the group whose cursor it is: a member of a broadcast group has its own, and a group that was deleted and
    /// made again another one. 0 in handles from before it was kept.
    #[prost(uint32, tag = "10")]
    pub group_id: u32,
}

/// Identity of one half message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TransactionId {
    /// Broker group that stores the half message.
    #[prost(string, tag = "1")]
    pub broker: String,
    /// Position of the half message in that group's log, in bytes.
    #[prost(uint64, tag = "2")]
    pub position: u64,
    /// CRC-32C of the message id: guards against an id from another life of the log.
    #[prost(uint32, tag = "3")]
    pub message_id_crc: u32,
}

/// Right to recall one scheduled message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RecallHandle {
    /// Broker group that stores the message.
    #[prost(string, tag = "1")]
    pub broker: String,
    /// Position of the message in that group's log, in bytes.
    #[prost(uint64, tag = "2")]
    pub position: u64,
    /// CRC-32C of the message id: guards against a handle from another life of the log.
    #[prost(uint32, tag = "3")]
    pub message_id_crc: u32,
}

const RECEIPT_KIND: u8 = 1;
const TRANSACTION_KIND: u8 = 2;
const RECALL_KIND: u8 = 3;

impl ReceiptHandle {
    /// The text that goes to the client.
    pub fn to_text(&self) -> String {
        seal(RECEIPT_KIND, self)
    }

    /// Reads a handle back.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when `text` is not a receipt handle made by [`Self::to_text`].
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        open(RECEIPT_KIND, text).ok_or(TokenError::Malformed { kind: "receipt handle" })
    }
}

impl TransactionId {
    /// The id of the half message with `message_id` at `position` of the log of `broker`.
    pub fn new(broker: &str, position: u64, message_id: &str) -> Self {
        Self::of_half(broker, position, crc32c::crc32c(message_id.as_bytes()))
    }

    /// The id of the half message at `position`, when only the CRC-32C of its message id is at hand.
    pub fn of_half(broker: &str, position: u64, message_id_crc: u32) -> Self {
        Self { broker: broker.to_owned(), position, message_id_crc }
    }

    /// Whether the half message found at this id's position can be the one it was made for.
    pub fn matches(&self, message_id: &str) -> bool {
        self.message_id_crc == crc32c::crc32c(message_id.as_bytes())
    }

    /// The text that goes to the client.
    pub fn to_text(&self) -> String {
        seal(TRANSACTION_KIND, self)
    }

    /// Reads a transaction id back.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when `text` is not a transaction id made by [`Self::to_text`].
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        open(TRANSACTION_KIND, text).ok_or(TokenError::Malformed { kind: "transaction id" })
    }
}

impl RecallHandle {
    /// The handle of the scheduled message with `message_id` at `position` of the log of `broker`.
    pub fn new(broker: &str, position: u64, message_id: &str) -> Self {
        Self { broker: broker.to_owned(), position, message_id_crc: crc32c::crc32c(message_id.as_bytes()) }
    }

    /// The text that goes to the client.
    pub fn to_text(&self) -> String {
        seal(RECALL_KIND, self)
    }

    /// Reads a recall handle back.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when `text` is not a recall handle made by [`Self::to_text`].
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        open(RECALL_KIND, text).ok_or(TokenError::Malformed { kind: "recall handle" })
    }
}

fn seal(kind: u8, fields: &impl Message) -> String {
    let mut bytes = vec![0; 4];
    bytes.push(kind);
    fields.encode(&mut bytes).expect("a Vec grows as needed");
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open<M: Message + Default>(kind: u8, text: &str) -> Option<M> {
    if text.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let (found_kind, fields) = rest.split_first()?;
    if u32::from_be_bytes(*crc) != crc32c::crc32c(rest) || *found_kind != kind {
        return None;
    }
    M::decode(fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn receipt_handles_survive_the_round_trip(
            broker in "[a-z-]{1,20}", topic in "[a-z%]{1,127}", group in "[a-z%]{1,120}",
            queue: u32, offset: u64, attempt: u32, lease: u64, until: i64, topic_id: u32,
            group_id: u32,
        ) {
            let handle = ReceiptHandle {
                broker, topic, group, queue, offset, attempt, lease, invisible_until_ms: until, topic_id,
                group_id,
            };
            let text = handle.to_text();
            prop_assert!(text.is_ascii() && text.len() <= TOKEN_BYTES_MAX);
            prop_assert_eq!(ReceiptHandle::from_text(&text), Ok(handle));
        }

        #[test]
        fn arbitrary_text_is_refused(text in ".{0,200}") {
            prop_assert!(ReceiptHandle::from_text(&text).is_err());
            prop_assert!(TransactionId::from_text(&text).is_err());
            prop_assert!(RecallHandle::from_text(&text).is_err());
        }
    }

    #[test]
    fn one_flipped_character_and_the_wrong_kind_are_refused() {
        let text = TransactionId::new("broker-a", 4711, "01AB").to_text();
        assert!(TransactionId::from_text(&text).is_ok_and(|id| id.matches("01AB") && !id.matches("01AC")));
        assert!(ReceiptHandle::from_text(&text).is_err() && RecallHandle::from_text(&text).is_err());
        let handle = RecallHandle::new("broker-a", 4711, "01AB");
        assert_eq!(RecallHandle::from_text(&handle.to_text()), Ok(handle));
        for i in 0..text.len() {
            let mut mangled = text.clone().into_bytes();
            mangled[i] = if mangled[i] == b'A' { b'B' } else { b'A' };
            let mangled = String::from_utf8(mangled).expect("ASCII stays ASCII");
            if mangled != text {
                assert!(TransactionId::from_text(&mangled).is_err(), "character {i}");
            }
        }
    }
}
