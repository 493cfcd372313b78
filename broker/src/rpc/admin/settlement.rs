//! What administrators decide about transactions by hand.

use kerolox_core::record::{CheckedHalf, DiscardRecord, ProgressItem, ProgressRecord, Record, ReleaseRecord};
use kerolox_core::transaction::{DecisionSource, TransactionPhase};
use kerolox_proto::kerolox as pb;
use kerolox_store::ApplyOutcome;

use super::admin_error::AdminError;
use super::transactions::{Answer, TransactionAdmin, unknown};

/// Longest name and reason in the audit trail, in bytes.
const TEXT_MAX: usize = 1024;

impl TransactionAdmin {
    /// Decides by hand.
    pub(super) async fn settle(
        &self,
        request: &pb::SettleTransactionRequest,
    ) -> Answer<pb::SettleTransactionResponse> {
        let (held, half) = self.find(&request.transaction_id)?;
        let (by, reason) = (text("name", &request.by)?, text("reason", &request.reason)?);
        let source = DecisionSource::Admin.into();
        let record = match request.action() {
            pb::TransactionAction::Commit => Record::Release(ReleaseRecord { held, by, source, reason }),
            pb::TransactionAction::Rollback => Record::Discard(DiscardRecord { held, by, source, reason }),
            pb::TransactionAction::Recheck => {
                if !half.is_undecided() {
                    return Err(AdminError::invalid(format!(
                        "the transaction was {} before, so there is nothing to check back",
                        word(half.phase)
                    )));
                }
                let checked = CheckedHalf {
                    held,
                    next_check_ms: Some(self.log.store().now_ms()),
                    by,
                    reason,
                    ..CheckedHalf::default()
                };
                Record::Progress(ProgressRecord::new([ProgressItem::Checked(checked)]))
            }
            pb::TransactionAction::Unspecified => {
                return Err(AdminError::invalid("say what to do: commit, roll back or recheck"));
            }
        };
        let applied = self.log.propose(&record).await?;
        match applied.outcome {
            ApplyOutcome::Contradicted => Err(AdminError::invalid(format!(
                "the transaction was {} before, and the first decision stands",
                match request.action() {
                    pb::TransactionAction::Commit => word(TransactionPhase::RolledBack),
                    _ => word(TransactionPhase::Committed),
                }
            ))),
            ApplyOutcome::NoSuchHalf => Err(unknown()),
            ApplyOutcome::TopicGone => Err(AdminError::not_found("the topic of the transaction was deleted")),
            outcome => Ok(pb::SettleTransactionResponse { repeated: outcome == ApplyOutcome::Repeated }),
        }
    }
}

fn word(phase: TransactionPhase) -> &'static str {
    match phase {
        TransactionPhase::Prepared | TransactionPhase::Parked => "undecided",
        TransactionPhase::Committed | TransactionPhase::Scheduled => "committed",
        TransactionPhase::RolledBack => "rolled back",
    }
}

/// A text for the audit trail.
fn text(what: &str, text: &str) -> Answer<String> {
    match text.len() {
        0..=TEXT_MAX => Ok(text.to_owned()),
        len => Err(AdminError::invalid(format!(
            "the {what} has {len} bytes, the limit is {TEXT_MAX}; shorten it"
        ))),
    }
}
