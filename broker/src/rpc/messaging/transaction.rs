//! EndTransaction.
//!
//! # Transaction
//!
//! A half message is a message record with a hold; the state machine records it with the time of its first check. The
//! transaction id carries its log position. Several half messages of one request lie next to each other and are decided
//! with the last one (`state/transactions.rs`). `rpc/messaging/transaction.rs` proposes a release or a discard record;
//! the state machine decides (`core::transaction::settle`): the first decision wins, repeating it is harmless, the
//! opposite one is an error. `tasks/check_back/mod.rs` sleeps until the earliest due check and sends it to a live
//! producer of the topic: one of its own, else one that is connected to a nameserver or another broker
//! (`gateway/src/producers.rs`). Only checks that reached one are counted, in the log; of a topic without producers
//! only one half message is tried, less and less often, until a producer appears. After the last check, or at its
//! greatest age, the half message is parked: undecided, but never lost. Without a producer a topic's webhook is asked
//! (`tasks/check_back/webhook.rs`). Administrators see and settle transactions with `rpc/admin/transactions.rs`; the
//! state machine keeps the history of each transaction (`core::transaction::story`) and the audit trail
//! (`store/src/state/audit.rs`).

use kerolox_core::record::{DiscardRecord, ProgressItem, ProgressRecord, Record, ReleaseRecord};
use kerolox_core::transaction::{DecisionSource, UndecidedTransaction};
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_model::names::in_namespace;
use kerolox_model::token::TransactionId;
use kerolox_proto::v2::{self, Code, TransactionResolution};
use kerolox_store::ApplyOutcome;

use super::Context;
use crate::refused::refused_by_store;

/// Commits or rolls back a half message. The answer is the true outcome, durable like a send.
pub(super) async fn end_transaction(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::EndTransactionRequest,
) -> Result<v2::EndTransactionResponse, Refusal> {
    let id = TransactionId::from_text(&request.transaction_id)
        .map_err(|error| Refusal::invalid_transaction_id(&error))?;
    check_exists(context, &id, request.topic.as_ref())?;
    check_resolution(request.resolution)?;
    let record = record(request, id.position, &client.client_id);
    let applied = context.log.propose(&record).await?;
    match applied.outcome {
        // "Still unknown": it will be asked about again.
        ApplyOutcome::Done if request.resolution() == TransactionResolution::Unspecified => {
            Ok(v2::EndTransactionResponse { status: Some(ok_status()) })
        }
        ApplyOutcome::Visible { .. }
        | ApplyOutcome::Scheduled
        | ApplyOutcome::Discarded
        | ApplyOutcome::Repeated => Ok(v2::EndTransactionResponse { status: Some(ok_status()) }),
        ApplyOutcome::Contradicted => Err(contradicted(request.resolution())),
        ApplyOutcome::TopicGone => Err(Refusal::new(
            Code::TopicNotFound,
            "the topic of the transaction was deleted, and its half message with it",
        )),
        _ => Err(unknown()),
    }
}

/// A producer's decision about the half message at a position.
fn record(request: &v2::EndTransactionRequest, held: u64, client: &str) -> Record {
    let source = match request.source() {
        v2::TransactionSource::SourceServerCheck => DecisionSource::Check,
        _ => DecisionSource::Producer,
    };
    let (by, source, reason) = (client.to_owned(), source.into(), String::new());
    match request.resolution() {
        TransactionResolution::Commit => Record::Release(ReleaseRecord { held, by, source, reason }),
        TransactionResolution::Rollback => Record::Discard(DiscardRecord { held, by, source, reason }),
        TransactionResolution::Unspecified => {
            Record::Progress(ProgressRecord::new([ProgressItem::Undecided(UndecidedTransaction {
                held,
                by,
            })]))
        }
    }
}

/// Refuses unknown half messages before anything is written to the log, and also those of another topic than the request names,
/// if it names one.
fn check_exists(context: &Context, id: &TransactionId, topic: Option<&v2::Resource>) -> Result<(), Refusal> {
    let index = context.log.store().state();
    let half = index.transactions.get(id.position).map_err(|error| refused_by_store(&error))?;
    let half = half.filter(|half| half.message_id_crc == id.message_id_crc).ok_or_else(unknown)?;
    let named = topic.map(|topic| in_namespace(&topic.resource_namespace, &topic.name));
    match (named, index.topics.by_id(half.topic_id)) {
        (Some(named), Some(topic)) if named != topic.name => Err(Refusal::new(
            Code::InvalidTransactionId,
            format!(
                "the transaction belongs to topic {:?}, not {named:?}; name the topic of its half message",
                topic.name
            ),
        )),
        _ => Ok(()),
    }
}

/// An unknown number is not "still unknown".
fn check_resolution(number: i32) -> Result<(), Refusal> {
    TransactionResolution::try_from(number).map(drop).map_err(|_| {
        Refusal::new(
            Code::BadRequest,
            format!("{number} is no resolution of a transaction; set COMMIT (1), ROLLBACK (2), or none while it is unknown"),
        )
    })
}

fn unknown() -> Refusal {
    Refusal::new(
        Code::InvalidTransactionId,
        "there is no such transaction on its broker: it is too old, its topic was deleted, or the id is from another cluster",
    )
}

fn contradicted(resolution: TransactionResolution) -> Refusal {
    let (asked, was) = match resolution {
        TransactionResolution::Commit => ("committed", "rolled back"),
        _ => ("rolled back", "committed"),
    };
    Refusal::new(
        Code::PreconditionFailed,
        format!("the transaction cannot be {asked}: it was {was} before, and the first decision stands"),
    )
}
