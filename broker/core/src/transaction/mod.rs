//! What becomes of a half message: decided once, checked back until then, parked after the last check.

mod checks;
mod story;

pub use checks::{
    AGE_MAX_ATTRIBUTE, CHECK_INTERVAL_ATTRIBUTE, CHECK_MAX_ATTRIBUTE, CheckPolicy, Due,
    FIRST_CHECK_ATTRIBUTE, WEBHOOK_ATTRIBUTE, check_attribute,
};
pub use story::{Answer, CheckNote, STORY_MAX, Source, Undecided};

use prost::Message;

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Waits for a decision; checked back from time to time.
    Prepared = 0,
    /// Decided: visible.
    Committed = 1,
    /// Decided: never visible.
    RolledBack = 2,
    /// Undecided after its last check; waits for somebody to settle it.
    Parked = 3,
    /// Decided: committed, and visible from its delivery time on; see [`crate::timer`].
    Scheduled = 4,
}

/// A half message as the index holds it; field numbers are part of the index format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Half {
    /// Topic of the message.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Queue in which it becomes visible; that of a message with a message group is found when it does.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Length of its record's frame, in bytes.
    #[prost(uint32, tag = "3")]
    pub frame_len: u32,
    /// See `MessageHeader::tag_hash`.
    #[prost(uint32, tag = "4")]
    pub tag_hash: u32,
    /// CRC-32C of the message id, to recognise the transaction id.
    #[prost(uint32, tag = "5")]
    pub message_id_crc: u32,
    /// When it was stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "6")]
    pub stored_ms: i64,
    /// Where it stands.
    #[prost(enumeration = "Phase", tag = "7")]
    pub phase: i32,
    /// Checks that reached a producer.
    #[prost(uint32, tag = "8")]
    pub checks: u32,
    /// When the next check is due; meaningful while prepared.
    #[prost(int64, tag = "9")]
    pub next_check_ms: i64,
    /// Offset at which a committed message became visible.
    #[prost(uint64, tag = "10")]
    pub offset: u64,
    /// Who decided, and when.
    #[prost(string, tag = "11")]
    pub decided_by: String,
    /// Milliseconds since the Unix epoch; 0 while undecided.
    #[prost(int64, tag = "12")]
    pub decided_ms: i64,
    /// Where the record lies now, when it was carried forward; 0 while it lies where it was first stored.
    #[prost(uint64, tag = "13")]
    pub carried_to: u64,
    /// Position of the record that decided; 0 while undecided.
    #[prost(uint64, tag = "14")]
    pub decided_at: u64,
    /// When it is to be visible once it is committed, milliseconds since the Unix epoch; 0 for at once.
    #[prost(int64, tag = "15")]
    pub deliver_at_ms: i64,
    /// See `MessageHeader::slot`.
    #[prost(uint32, optional, tag = "16")]
    pub slot: Option<u32>,
    /// Positions of the half messages that are decided with this one, in their order.
    #[prost(uint64, repeated, tag = "17")]
    pub members: Vec<u64>,
    /// See `MessageHeader::joins`: it is decided with another one, and never checked back itself.
    #[prost(bool, tag = "18")]
    pub joins: bool,
    /// Position of that one; 0 before it is stored, and for what is decided by itself.
    #[prost(uint64, tag = "19")]
    pub leader: u64,
    /// Check-backs, oldest first; at most [`STORY_MAX`].
    #[prost(message, repeated, tag = "20")]
    pub story: Vec<CheckNote>,
    /// Where the decision came from; meaningful once it is decided.
    #[prost(enumeration = "Source", tag = "21")]
    pub decided_source: i32,
    /// Why an administrator decided.
    #[prost(string, tag = "22")]
    pub decided_reason: String,
}

impl Half {
    /// Where the record of the half message lies that was first stored at `position`.
    pub fn location(&self, position: u64) -> u64 {
        if self.carried_to == 0 { position } else { self.carried_to }
    }

    /// Whether it still waits for a decision.
    pub fn is_undecided(&self) -> bool {
        matches!(self.phase(), Phase::Prepared | Phase::Parked)
    }
}

/// A decision about a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Becomes visible.
    Commit,
    /// Never becomes visible.
    Rollback,
}

/// What a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is the first one and takes effect.
    Takes,
    /// The transaction ended this way before; nothing changes, and that is fine.
    Repeats,
    /// The transaction ended the other way before; the first decision stays.
    Contradicts,
}

/// The first decision wins; the same one again is harmless; the opposite one is an error.
pub fn settle(phase: Phase, decision: Decision) -> Settlement {
    match (phase, decision) {
        (Phase::Prepared | Phase::Parked, _) => Settlement::Takes,
        (Phase::Committed | Phase::Scheduled, Decision::Commit) | (Phase::RolledBack, Decision::Rollback) => {
            Settlement::Repeats
        }
        (Phase::Committed | Phase::Scheduled, Decision::Rollback) | (Phase::RolledBack, Decision::Commit) => {
            Settlement::Contradicts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_wins() {
        use Decision::{Commit, Rollback};
        for open in [Phase::Prepared, Phase::Parked] {
            assert_eq!(settle(open, Commit), Settlement::Takes);
            assert_eq!(settle(open, Rollback), Settlement::Takes);
        }
        for committed in [Phase::Committed, Phase::Scheduled] {
            assert_eq!(settle(committed, Commit), Settlement::Repeats);
            assert_eq!(settle(committed, Rollback), Settlement::Contradicts);
        }
        assert_eq!(settle(Phase::RolledBack, Rollback), Settlement::Repeats);
        assert_eq!(settle(Phase::RolledBack, Commit), Settlement::Contradicts);
    }
}
