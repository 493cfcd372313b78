//! What the log is told of check-backs.

use kerolox_core::record::{Checked, DiscardRecord, ProgressItem, Record, ReleaseRecord};
use kerolox_core::transaction::{Answer, CheckPolicy, HalfMessage, Source, Undecided};
use kerolox_model::token::TransactionId;

/// What became of a check.
#[derive(Debug)]
pub(super) enum Check {
    /// It does not come to one: enough were made, or the half message is too old.
    Over,
    /// The topic is left alone for now.
    Passed,
    /// This client took it, and will answer by itself.
    Taken(String),
    /// The webhook with this URL answered.
    Told(String, Answer),
    /// Nobody can be asked now.
    Nobody,
    /// Nobody can ever be asked: the message cannot be read.
    Impossible,
}

impl Check {
    /// What to note of it at `now_ms`.
    pub(super) fn items(
        &self,
        broker: &str,
        position: u64,
        half: &HalfMessage,
        policy: &CheckPolicy,
        now_ms: i64,
    ) -> Vec<ProgressItem> {
        match self {
            Self::Passed | Self::Nobody => Vec::new(),
            Self::Over | Self::Impossible => vec![parked(broker, position, half)],
            Self::Taken(producer) => vec![asked(position, half, policy, producer, now_ms)],
            Self::Told(url, Answer::Unknown) => {
                let undecided = Undecided { held: position, by: url.clone() };
                vec![asked(position, half, policy, url, now_ms), ProgressItem::Undecided(undecided)]
            }
            Self::Told(url, _) => vec![asked(position, half, policy, url, now_ms)],
        }
    }

    /// The decision that came with it.
    pub(super) fn decision(&self, held: u64) -> Option<Record> {
        let Self::Told(url, answer) = self else { return None };
        let (by, source, reason) = (url.clone(), Source::Webhook.into(), String::new());
        match answer {
            Answer::Commit => Some(Record::Release(ReleaseRecord { held, by, source, reason })),
            Answer::Rollback => Some(Record::Discard(DiscardRecord { held, by, source, reason })),
            Answer::Unknown | Answer::None => None,
        }
    }
}

fn asked(position: u64, half: &HalfMessage, policy: &CheckPolicy, who: &str, now_ms: i64) -> ProgressItem {
    let (checks, next_check_ms) = policy.after_check(half, now_ms);
    tracing::debug!(position, checks, who, "half message checked back");
    ProgressItem::Checked(Checked {
        held: position,
        checks,
        next_check_ms: Some(next_check_ms),
        asked: who.to_owned(),
        ..Checked::default()
    })
}

fn parked(broker: &str, position: u64, half: &HalfMessage) -> ProgressItem {
    let id = TransactionId { broker: broker.to_owned(), position, message_id_crc: half.message_id_crc };
    tracing::warn!(
        transaction = id.to_text(),
        topic_id = half.topic_id,
        stored_ms = half.stored_ms,
        position,
        checks = half.checks,
        "half message parked after its last check; it waits to be settled: mqadmin transaction show -i TRANSACTION"
    );
    ProgressItem::Checked(Checked { held: position, checks: half.checks, ..Checked::default() })
}
