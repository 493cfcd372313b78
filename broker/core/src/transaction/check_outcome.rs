//! The outcome of check-backs, as it is logged.

use super::{CheckAnswer, CheckPolicy, DecisionSource, HalfMessage, UndecidedTransaction};
use crate::record::{CheckedHalf, DiscardRecord, ProgressItem, Record, ReleaseRecord};

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// No check was made: the half message used up its checks, or is too old.
    Over,
    /// The topic is skipped for now.
    Passed,
    /// This client took the question and will answer by itself.
    Taken(String),
    /// The webhook with this URL answered.
    Told(String, CheckAnswer),
    /// No producer and no webhook can be asked now.
    NoProducer,
    /// No check is possible: the message cannot be read.
    Impossible,
}

impl CheckOutcome {
    /// Whether the half message is parked: it is checked no more, and waits for an administrator.
    pub fn parks(&self) -> bool {
        matches!(self, Self::Over | Self::Impossible)
    }

    /// The progress items for the half message at `position`; `now_ms` is in milliseconds since the Unix epoch.
    pub fn items(
        &self,
        position: u64,
        half: &HalfMessage,
        policy: &CheckPolicy,
        now_ms: i64,
    ) -> Vec<ProgressItem> {
        let asked = |who: &str| {
            let (checks, next_check_ms) = policy.after_check(half, now_ms);
            ProgressItem::Checked(CheckedHalf {
                held: position,
                checks,
                next_check_ms: Some(next_check_ms),
                asked: who.to_owned(),
                ..CheckedHalf::default()
            })
        };
        match self {
            Self::Passed | Self::NoProducer => Vec::new(),
            Self::Over | Self::Impossible => vec![ProgressItem::Checked(CheckedHalf {
                held: position,
                checks: half.checks,
                ..CheckedHalf::default()
            })],
            Self::Taken(producer) => vec![asked(producer)],
            Self::Told(url, CheckAnswer::Unknown) => {
                vec![
                    asked(url),
                    ProgressItem::Undecided(UndecidedTransaction { held: position, by: url.clone() }),
                ]
            }
            Self::Told(url, _) => vec![asked(url)],
        }
    }

    /// The decision that the answer carries, about the half message at `held`.
    pub fn decision(&self, held: u64) -> Option<Record> {
        let Self::Told(url, answer) = self else { return None };
        let (by, source, reason) = (url.clone(), DecisionSource::Webhook.into(), String::new());
        match answer {
            CheckAnswer::Commit => Some(Record::Release(ReleaseRecord { held, by, source, reason })),
            CheckAnswer::Rollback => Some(Record::Discard(DiscardRecord { held, by, source, reason })),
            CheckAnswer::Unknown | CheckAnswer::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CheckPolicy =
        CheckPolicy { first_ms: 6_000, interval_ms: 30_000, max: 15, age_max_ms: 1 << 40 };

    fn half() -> HalfMessage {
        HalfMessage { checks: 3, ..HalfMessage::default() }
    }

    /// Number of checks, time of the next one and the producer asked, of the one logged check.
    fn noted(items: &[ProgressItem]) -> (u32, Option<i64>, &str) {
        let [ProgressItem::Checked(checked), ..] = items else { panic!("no check in {items:?}") };
        assert_eq!(checked.held, 70);
        (checked.checks, checked.next_check_ms, &checked.asked)
    }

    #[test]
    fn only_a_check_that_reached_somebody_counts() {
        let items = |outcome: CheckOutcome| outcome.items(70, &half(), &POLICY, 1_000);
        assert_eq!(noted(&items(CheckOutcome::Taken("client".into()))), (4, Some(31_000), "client"));
        assert!(items(CheckOutcome::NoProducer).is_empty() && items(CheckOutcome::Passed).is_empty());
        assert!(!CheckOutcome::NoProducer.parks() && !CheckOutcome::Passed.parks());
        for last in [CheckOutcome::Over, CheckOutcome::Impossible] {
            assert!(last.parks());
            assert_eq!(noted(&items(last)), (3, None, ""), "parked, with the checks that were made");
        }
    }

    #[test]
    fn the_answer_of_a_webhook_decides_or_is_noted_as_none() {
        let told = |answer| CheckOutcome::Told("http://h/p".into(), answer);
        let unknown = told(CheckAnswer::Unknown);
        let items = unknown.items(70, &half(), &POLICY, 1_000);
        assert_eq!(noted(&items), (4, Some(31_000), "http://h/p"));
        assert!(matches!(&items[1..], [ProgressItem::Undecided(undecided)] if undecided.held == 70));
        assert_eq!(unknown.decision(70), None);
        let commit = told(CheckAnswer::Commit);
        assert_eq!(commit.items(70, &half(), &POLICY, 1_000).len(), 1);
        let Some(Record::Release(release)) = commit.decision(70) else { panic!("no commit") };
        assert_eq!((release.held, release.by.as_str()), (70, "http://h/p"));
        assert_eq!(release.source, i32::from(DecisionSource::Webhook));
        assert!(
            matches!(told(CheckAnswer::Rollback).decision(70), Some(Record::Discard(discard)) if discard.held == 70)
        );
        assert_eq!(CheckOutcome::Taken("client".into()).decision(70), None);
    }
}
