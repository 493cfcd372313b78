//! A half message and its stored form.

use std::ops::Deref;

use prost::{DecodeError, Message};

use super::{CheckNote, DecisionSource, TransactionPhase};
use crate::held::HeldMessage;

/// A half message as the state machine knows it; dereferences to the held message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HalfMessage {
    /// The message.
    pub message: HeldMessage,
    /// Phase of its transaction.
    pub phase: TransactionPhase,
    /// Checks that reached a producer.
    pub checks: u32,
    /// When the next check is due, milliseconds since the Unix epoch; meaningful while prepared.
    pub next_check_ms: i64,
    /// When it becomes visible once it is committed, milliseconds since the Unix epoch; 0 for at once.
    pub deliver_at_ms: i64,
    /// Positions of the half messages that are decided with this one, in their order.
    pub members: Vec<u64>,
    /// See `MessageHeader::joins`: another half message decides about it, and it is never checked back itself.
    pub joins: bool,
    /// Position of that half message; 0 before that one is stored, and for a message with its own decision.
    pub leader: u64,
    /// Check-backs, oldest first; at most [`super::STORY_MAX`].
    pub story: Vec<CheckNote>,
    /// Where the decision came from; meaningful once it is decided.
    pub decided_source: DecisionSource,
    /// Why an administrator decided.
    pub decided_reason: String,
}

impl Deref for HalfMessage {
    type Target = HeldMessage;

    fn deref(&self) -> &HeldMessage {
        &self.message
    }
}

impl HalfMessage {
    /// Whether it still waits for a decision.
    pub fn is_undecided(&self) -> bool {
        matches!(self.phase, TransactionPhase::Prepared | TransactionPhase::Parked)
    }

    /// Stored form.
    pub fn encode(&self) -> Vec<u8> {
        let message = self.message.clone();
        StoredHalf {
            topic_id: message.topic_id,
            queue: message.queue,
            frame_len: message.frame_len,
            tag_hash: message.tag_hash,
            message_id_crc: message.message_id_crc,
            stored_ms: message.stored_ms,
            phase: self.phase.into(),
            checks: self.checks,
            next_check_ms: self.next_check_ms,
            offset: message.offset,
            decided_by: message.decided_by,
            decided_ms: message.decided_ms,
            carried_to: message.carried_to,
            decided_at: message.decided_at,
            deliver_at_ms: self.deliver_at_ms,
            slot: message.slot,
            members: self.members.clone(),
            joins: self.joins,
            leader: self.leader,
            story: self.story.clone(),
            decided_source: self.decided_source.into(),
            decided_reason: self.decided_reason.clone(),
        }
        .encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] when `bytes` are not a stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored = StoredHalf::decode(bytes)?;
        let (phase, decided_source) = (stored.phase(), stored.decided_source());
        let message = HeldMessage {
            topic_id: stored.topic_id,
            queue: stored.queue,
            frame_len: stored.frame_len,
            tag_hash: stored.tag_hash,
            message_id_crc: stored.message_id_crc,
            stored_ms: stored.stored_ms,
            slot: stored.slot,
            carried_to: stored.carried_to,
            offset: stored.offset,
            decided_by: stored.decided_by,
            decided_ms: stored.decided_ms,
            decided_at: stored.decided_at,
        };
        Ok(Self {
            message,
            phase,
            checks: stored.checks,
            next_check_ms: stored.next_check_ms,
            deliver_at_ms: stored.deliver_at_ms,
            members: stored.members,
            joins: stored.joins,
            leader: stored.leader,
            story: stored.story,
            decided_source,
            decided_reason: stored.decided_reason,
        })
    }
}

/// Stored form of [`HalfMessage`]; field numbers are part of the index format and of snapshots.
#[derive(Clone, PartialEq, Eq, Message)]
struct StoredHalf {
    #[prost(uint32, tag = "1")]
    topic_id: u32,
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint32, tag = "3")]
    frame_len: u32,
    #[prost(uint32, tag = "4")]
    tag_hash: u32,
    #[prost(uint32, tag = "5")]
    message_id_crc: u32,
    #[prost(int64, tag = "6")]
    stored_ms: i64,
    #[prost(enumeration = "TransactionPhase", tag = "7")]
    phase: i32,
    #[prost(uint32, tag = "8")]
    checks: u32,
    #[prost(int64, tag = "9")]
    next_check_ms: i64,
    #[prost(uint64, tag = "10")]
    offset: u64,
    #[prost(string, tag = "11")]
    decided_by: String,
    #[prost(int64, tag = "12")]
    decided_ms: i64,
    #[prost(uint64, tag = "13")]
    carried_to: u64,
    #[prost(uint64, tag = "14")]
    decided_at: u64,
    #[prost(int64, tag = "15")]
    deliver_at_ms: i64,
    #[prost(uint32, optional, tag = "16")]
    slot: Option<u32>,
    #[prost(uint64, repeated, tag = "17")]
    members: Vec<u64>,
    #[prost(bool, tag = "18")]
    joins: bool,
    #[prost(uint64, tag = "19")]
    leader: u64,
    #[prost(message, repeated, tag = "20")]
    story: Vec<CheckNote>,
    #[prost(enumeration = "DecisionSource", tag = "21")]
    decided_source: i32,
    #[prost(string, tag = "22")]
    decided_reason: String,
}
