//! The life of a half message: decided once, checked back until then, parked after the last check.

mod check_outcome;
mod checks;
mod deserted;
mod half;
mod story;

pub use check_outcome::CheckOutcome;
pub use checks::{
    AGE_MAX_ATTRIBUTE, CHECK_INTERVAL_ATTRIBUTE, CHECK_MAX_ATTRIBUTE, CheckPolicy, DueCheck,
    FIRST_CHECK_ATTRIBUTE, WEBHOOK_ATTRIBUTE, check_attribute,
};
pub use deserted::DesertedTopics;
pub use half::HalfMessage;
pub use story::{CheckAnswer, CheckNote, DecisionSource, STORY_MAX, UndecidedTransaction};

/// The phase of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TransactionPhase {
    /// Waits for a decision; checked back from time to time.
    Prepared = 0,
    /// Decided: visible.
    Committed = 1,
    /// Decided: never visible.
    RolledBack = 2,
    /// Undecided after its last check; waits for an administrator to settle it.
    Parked = 3,
    /// Decided: committed, and visible from its delivery time on; see [`crate::timer`].
    Scheduled = 4,
}

/// A decision about a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionDecision {
    /// Becomes visible.
    Commit,
    /// Never becomes visible.
    Rollback,
}

/// The effect of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionSettlement {
    /// The decision is the first and takes effect.
    Takes,
    /// The transaction ended this way before; nothing changes, and that is fine.
    Repeats,
    /// The transaction ended the other way before; the first decision stays.
    Contradicts,
}

/// The first decision wins; repeating it is harmless; the opposite decision is an error.
pub fn settle(phase: TransactionPhase, decision: TransactionDecision) -> TransactionSettlement {
    match (phase, decision) {
        (TransactionPhase::Prepared | TransactionPhase::Parked, _) => TransactionSettlement::Takes,
        (TransactionPhase::Committed | TransactionPhase::Scheduled, TransactionDecision::Commit)
        | (TransactionPhase::RolledBack, TransactionDecision::Rollback) => TransactionSettlement::Repeats,
        (TransactionPhase::Committed | TransactionPhase::Scheduled, TransactionDecision::Rollback)
        | (TransactionPhase::RolledBack, TransactionDecision::Commit) => TransactionSettlement::Contradicts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_wins() {
        use TransactionDecision::{Commit, Rollback};
        for open in [TransactionPhase::Prepared, TransactionPhase::Parked] {
            assert_eq!(settle(open, Commit), TransactionSettlement::Takes);
            assert_eq!(settle(open, Rollback), TransactionSettlement::Takes);
        }
        for committed in [TransactionPhase::Committed, TransactionPhase::Scheduled] {
            assert_eq!(settle(committed, Commit), TransactionSettlement::Repeats);
            assert_eq!(settle(committed, Rollback), TransactionSettlement::Contradicts);
        }
        assert_eq!(settle(TransactionPhase::RolledBack, Rollback), TransactionSettlement::Repeats);
        assert_eq!(settle(TransactionPhase::RolledBack, Commit), TransactionSettlement::Contradicts);
    }
}
