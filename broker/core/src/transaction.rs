//! What becomes of a half message: decided once, checked back until then, parked after the last check.

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
    /// Queue in which it becomes visible.
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

/// When and how often half messages are checked back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPolicy {
    /// From store time to the first check, unless the message asks for more; milliseconds.
    pub first_ms: u64,
    /// Between checks, milliseconds.
    pub interval_ms: u64,
    /// Checks that reach a producer before the half message is parked.
    pub max: u32,
}

impl CheckPolicy {
    /// Milliseconds from store time to the first check of a message that asks for `wanted_ms` (0 = does not say).
    /// The larger one counts, as in RocketMQ: a producer is never asked before the broker's own patience ends.
    pub fn first_check_after_ms(&self, wanted_ms: u64) -> u64 {
        wanted_ms.max(self.first_ms)
    }
}

/// What to log after a check was put to a producer at `now_ms`: the number of checks so far, and when the next is due.
/// Only checks that reached a producer count: while nobody is connected,
/// time passes without using up the budget.
pub fn after_check(half: &Half, policy: &CheckPolicy, now_ms: i64) -> (u32, i64) {
    let checks = half.checks.saturating_add(1);
    // The answer to the last check gets as long as any other before the half message is parked.
    (checks, now_ms.saturating_add_unsigned(policy.interval_ms))
}

/// What to do with a half message whose check is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Ask a producer.
    Ask,
    /// It was asked about often enough.
    Park,
}

/// Decides about a half message whose `next_check_ms` has come.
pub fn when_due(half: &Half, policy: &CheckPolicy) -> Due {
    if half.checks >= policy.max { Due::Park } else { Due::Ask }
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

    #[test]
    fn a_half_is_asked_about_max_times_and_then_parked() {
        let policy = CheckPolicy { first_ms: 6_000, interval_ms: 30_000, max: 3 };
        let mut half = Half::default();
        let mut asked = 0;
        let mut now = 6_000;
        while when_due(&half, &policy) == Due::Ask {
            asked += 1;
            let (checks, next) = after_check(&half, &policy, now);
            half.checks = checks;
            now = next;
        }
        assert_eq!((asked, now), (3, 6_000 + 3 * 30_000));
    }

    #[test]
    fn a_message_may_ask_for_a_later_first_check_only() {
        let policy = CheckPolicy { first_ms: 6_000, interval_ms: 30_000, max: 15 };
        assert_eq!(policy.first_check_after_ms(0), 6_000);
        assert_eq!(policy.first_check_after_ms(60_000), 60_000);
        assert_eq!(policy.first_check_after_ms(1_000), 6_000);
    }
}
