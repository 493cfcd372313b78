//! The records of the commit log.
//!
//! Few record kinds carry everything that a broker group must remember. A record's frame (length, checksum, kind,
//! position, epoch, store time) belongs to the log; this module defines the record body. Bodies other than
//! [`MessageRecord`] are protobuf messages declared with prost, so that fields can be added without breaking older
//! logs; the field numbers below are part of the on-disk format and never change meaning.

mod lite;
mod message;
mod meta;
mod progress;
mod retention;

pub use lite::{DropLite, DropLites, LiteTopic};
pub use message::{MessageHeader, MessageHold, MessageRecord, MessageRouting};
pub use meta::{DeleteGroup, DeleteTopic, MetaChange, MetaRecord, WithholdChange};
pub use progress::{
    AckRange, CheckedHalf, DeadOrigin, DeadReason, FailedAttempts, FinishedRecord, FiredRecord, ProgressItem,
    ProgressItemBox, ProgressRecord, QueueProgress, RedrivenRecord, TimerDecision, TimerEnded,
};

pub use retention::{
    CarriedOrigin, GroupProgress, HeldState, KeptMessage, MovingTopic, QueueState, SnapshotRecord, TrimRecord,
};

use bytes::Bytes;
use prost::Message;

use crate::transaction::DecisionSource;

/// Kind number of a record, as stored in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A message with its body: visible, half, or held until a due time.
    Message = 1,
    /// A held message becomes visible.
    Release = 2,
    /// A held message never becomes visible.
    Discard = 3,
    /// Acknowledgements, attempts, checks, and scheduled messages that came due.
    Progress = 4,
    /// A change of topics or groups.
    Meta = 5,
    /// A master begins to lead.
    Epoch = 6,
    /// The state, at the beginning of a segment.
    Snapshot = 7,
    /// Old segments are removed.
    Trim = 8,
}

/// Why a record cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A kind number of a newer version, or damage that the checksum did not see.
    #[error("unknown record kind {0}; was this log written by a newer version?")]
    UnknownKind(u8),
    /// The body does not have the form of its kind.
    #[error("malformed {kind} record: {reason}")]
    Malformed {
        /// Name of the kind.
        kind: &'static str,
        /// The error.
        reason: String,
    },
}

/// A held message becomes visible in its queue: the commit of a half message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReleaseRecord {
    /// Position of the held message.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// Who decided, for the story of the transaction: a client id, or `admin`.
    #[prost(string, tag = "2")]
    pub by: String,
    /// Where the decision came from.
    #[prost(enumeration = "DecisionSource", tag = "3")]
    pub source: i32,
    /// Why, if an administrator decided.
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// A held message never becomes visible: the rollback of a half message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiscardRecord {
    /// Position of the held message.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// Who decided: a client id, or `admin`.
    #[prost(string, tag = "2")]
    pub by: String,
    /// Where the decision came from.
    #[prost(enumeration = "DecisionSource", tag = "3")]
    pub source: i32,
    /// Why, if an administrator decided.
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// A master begins to lead. The first record of every log is one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EpochRecord {
    /// Number of the epoch, growing.
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    /// Broker group that the log belongs to: a data folder is never taken over by another group by mistake.
    #[prost(string, tag = "2")]
    pub broker: String,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most records are messages: a box would be one more allocation for each"
)]
pub enum Record {
    /// See [`RecordKind::Message`].
    Message(MessageRecord),
    /// See [`RecordKind::Release`].
    Release(ReleaseRecord),
    /// See [`RecordKind::Discard`].
    Discard(DiscardRecord),
    /// See [`RecordKind::Progress`].
    Progress(ProgressRecord),
    /// See [`RecordKind::Meta`].
    Meta(MetaRecord),
    /// See [`RecordKind::Epoch`].
    Epoch(EpochRecord),
    /// See [`RecordKind::Snapshot`].
    Snapshot(Box<SnapshotRecord>),
    /// See [`RecordKind::Trim`].
    Trim(TrimRecord),
}

impl Record {
    /// The kind that goes into the frame.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Message(_) => RecordKind::Message,
            Self::Release(_) => RecordKind::Release,
            Self::Discard(_) => RecordKind::Discard,
            Self::Progress(_) => RecordKind::Progress,
            Self::Meta(_) => RecordKind::Meta,
            Self::Epoch(_) => RecordKind::Epoch,
            Self::Snapshot(_) => RecordKind::Snapshot,
            Self::Trim(_) => RecordKind::Trim,
        }
    }

    /// The body that goes into the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    /// Appends the body to `out`.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let encoded = match self {
            Self::Message(message) => {
                message.encode_to(out);
                Ok(())
            }
            Self::Release(record) => record.encode(out),
            Self::Discard(record) => record.encode(out),
            Self::Progress(record) => record.encode(out),
            Self::Meta(record) => record.encode(out),
            Self::Epoch(record) => record.encode(out),
            Self::Snapshot(record) => record.encode(out),
            Self::Trim(record) => record.encode(out),
        };
        encoded.expect("a Vec grows as needed");
    }

    /// Estimated length of the body, computed cheaply; exact for no kind.
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Message(message) => message.size_hint(),
            // Small, or rare.
            _ => 64,
        }
    }

    /// Reads the body of a frame of `kind`. Message sections share memory with `body`.
    ///
    /// # Errors
    /// [`RecordError`] when the kind is unknown or the body malformed; never panics.
    pub fn decode(kind: u8, body: Bytes) -> Result<Self, RecordError> {
        fn read<M: Message + Default>(kind: &'static str, body: Bytes) -> Result<M, RecordError> {
            M::decode(body).map_err(|error| RecordError::Malformed { kind, reason: error.to_string() })
        }
        Ok(match kind {
            k if k == RecordKind::Message as u8 => Self::Message(MessageRecord::decode(body)?),
            k if k == RecordKind::Release as u8 => Self::Release(read("release", body)?),
            k if k == RecordKind::Discard as u8 => Self::Discard(read("discard", body)?),
            k if k == RecordKind::Progress as u8 => Self::Progress(read("progress", body)?),
            k if k == RecordKind::Meta as u8 => Self::Meta(read("meta", body)?),
            k if k == RecordKind::Epoch as u8 => Self::Epoch(read("epoch", body)?),
            k if k == RecordKind::Snapshot as u8 => Self::Snapshot(Box::new(read("snapshot", body)?)),
            k if k == RecordKind::Trim as u8 => Self::Trim(read("trim", body)?),
            other => return Err(RecordError::UnknownKind(other)),
        })
    }
}

#[cfg(test)]
mod tests;
