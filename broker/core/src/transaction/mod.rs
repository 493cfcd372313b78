//! What becomes of a half message: decided once, checked back until then, parked after the last check.

mod check_outcome;
mod checks;
mod deserted;
mod half;
mod story;

pub use check_outcome::CheckOutcome;
pub use checks::{
    AGE_MAX_ATTRIBUTE, CHECK_INTERVAL_ATTRIBUTE, CHECK_MAX_ATTRIBUTE, CheckPolicy, Due,
    FIRST_CHECK_ATTRIBUTE, WEBHOOK_ATTRIBUTE, check_attribute,
};
pub use deserted::DesertedTopics;
pub use half::HalfMessage;
pub use story::{Answer, CheckNote, STORY_MAX, Source, Undecided};

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
