//! RecallMessage.

use kerolox_core::record::{ProgressItem, ProgressRecord, Record, TimerDecision, TimerEnded};
use kerolox_core::timer::{ScheduledMessage, TimerPhase};
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_gateway::routes::stored_topic;
use kerolox_model::token::RecallHandle;
use kerolox_proto::v2::{self, Code};
use kerolox_store::ApplyOutcome;

use super::Context;
use crate::log_client::LogClient;
use crate::refused::refused_by_store;

/// Recalls a scheduled message before its time. The answer is the true outcome, durable like a send.
pub(super) async fn recall_message(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::RecallMessageRequest,
) -> Result<v2::RecallMessageResponse, Refusal> {
    let handle = RecallHandle::from_text(&request.recall_handle)
        .map_err(|error| Refusal::invalid_recall_handle(&error))?;
    let timer = pending(&context.log, &handle)?;
    check_topic(context, &timer, request.topic.as_ref())?;
    let message_id = message_id(&context.log, handle.position, &timer)?;
    end_timer(&context.log, handle.position, TimerDecision::Recall, client.client_id.clone()).await?;
    Ok(v2::RecallMessageResponse { status: Some(ok_status()), message_id })
}

/// The message of a recall handle, if it is still undecided. Otherwise the call is refused before anything is written
/// to the log.
pub(in crate::rpc) fn pending(log: &LogClient, handle: &RecallHandle) -> Result<ScheduledMessage, Refusal> {
    let index = log.store().state();
    let timer = index.timers.get(handle.position).map_err(|error| refused_by_store(&error))?;
    match timer.filter(|timer| timer.message_id_crc == handle.message_id_crc) {
        Some(timer) if timer.is_pending() => return Ok(timer),
        Some(timer) => return Err(over(timer.phase)),
        None => {}
    }
    let half = index.transactions.get(handle.position).map_err(|error| refused_by_store(&error))?;
    match half.filter(|half| half.message_id_crc == handle.message_id_crc) {
        Some(half) if half.is_undecided() => Err(Refusal::new(
            Code::NotFound,
            "the transaction of the message is not committed, so nothing is scheduled yet; roll it back instead",
        )),
        Some(_) => Err(Refusal::new(
            Code::NotFound,
            "the transaction of the message was rolled back, or it was not scheduled when it was committed",
        )),
        None => Err(unknown()),
    }
}

/// Decides about a scheduled message; the first decision stands.
pub(in crate::rpc) async fn end_timer(
    log: &LogClient,
    position: u64,
    decision: TimerDecision,
    by: String,
) -> Result<(), Refusal> {
    let ended = TimerEnded { held: position, decision: decision.into(), by };
    let record = Record::Progress(ProgressRecord::new([ProgressItem::TimerEnded(ended)]));
    let applied = log.propose(&record).await?;
    match applied.outcome {
        ApplyOutcome::Discarded | ApplyOutcome::Visible { .. } => Ok(()),
        ApplyOutcome::TimerOver(phase) => Err(over(phase)),
        _ => Err(unknown()),
    }
}

fn check_topic(
    context: &Context,
    timer: &ScheduledMessage,
    asked: Option<&v2::Resource>,
) -> Result<(), Refusal> {
    let asked = stored_topic(asked)?;
    let topic = context.log.store().state().topics.by_id(timer.topic_id).ok_or_else(unknown)?;
    if topic.name == asked {
        return Ok(());
    }
    Err(Refusal::new(
        Code::BadRequest,
        format!("the recall handle belongs to a message of topic {:?}, not of {asked:?}", topic.name),
    ))
}

fn message_id(log: &LogClient, position: u64, timer: &ScheduledMessage) -> Result<String, Refusal> {
    let read = log.store().read_message(timer.location(position), timer.frame_len);
    let (_, message) = read.map_err(|error| refused_by_store(&error))?;
    Ok(message.header.message_id)
}

fn over(phase: TimerPhase) -> Refusal {
    let reason = match phase {
        TimerPhase::Recalled => "the message was recalled before",
        _ => "the message was delivered before; it is too late to recall it",
    };
    Refusal::new(Code::NotFound, reason)
}

fn unknown() -> Refusal {
    Refusal::new(
        Code::NotFound,
        "there is no such scheduled message on its broker: it was delivered or recalled long ago, its topic was deleted, or the handle is from another cluster",
    )
}
