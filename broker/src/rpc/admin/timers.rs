//! What administrators do about scheduled messages.

use kerolox_core::filter::Filter;
use kerolox_core::lookup;
use kerolox_core::record::{MessageRecord, TimerDecision};
use kerolox_core::timer::ScheduledMessage;
use kerolox_gateway::refusal::Refusal;
use kerolox_model::token::RecallHandle;
use kerolox_proto::kerolox as pb;
use kerolox_store::{LookupPage, MessageStanding, Store, StoreError};

use super::admin_error::AdminError;
use crate::log_client::LogClient;
use crate::rpc::messaging::{end_timer, pending};
use crate::wire::{self, Delivery};

/// Scheduled messages that are looked at for one page, at the most.
const PAGE_MAX: usize = 256;
/// Bytes of messages after which a page is closed.
const PAGE_BYTES: usize = 2 << 20;
/// Bytes of the log after which a page is closed, whatever is wanted of it.
const LOOKED_AT_BYTES: usize = 64 << 20;
/// Messages of one id that are looked at: a producer gives each id once.
const SAME_ID_MAX: usize = 16;
/// Who decides, as the log keeps it.
const BY: &str = "admin";

type Answer<T> = Result<T, AdminError>;

/// A page of scheduled messages, earliest delivery time first; those of one message id are one page.
pub(super) fn list(
    store: &Store,
    broker: &str,
    request: &pb::ListTimersRequest,
) -> Answer<pb::ListTimersResponse> {
    let topic_id = match request.topic.as_str() {
        "" => None,
        name => {
            let topic = store.state().topics.get(name);
            let missing = || AdminError::not_found(format!("there is no topic {name:?} on this broker"));
            Some(topic.ok_or_else(missing)?.id)
        }
    };
    let filter = Filter::tags(&request.tags).map_err(AdminError::invalid)?;
    let until_ms = if request.until_ms == 0 { i64::MAX } else { request.until_ms };
    let is_in_range = |timer: &ScheduledMessage| {
        topic_id.is_none_or(|id| timer.topic_id == id) && (request.since_ms..until_ms).contains(&timer.due_ms)
    };
    let mut page = pb::ListTimersResponse::default();
    if !request.message_id.is_empty() {
        let found = of_id(store, &request.message_id)?;
        let wanted = found.into_iter().filter(|(_, timer, _)| timer.is_pending() && is_in_range(timer));
        page.messages =
            wanted.map(|(position, timer, m)| shown(store, broker, position, &timer, &m)).collect();
        return Ok(page);
    }
    let limit = match request.limit {
        0 => PAGE_MAX,
        limit => PAGE_MAX.min(limit as usize),
    };
    let from = request.next.as_ref().map(|next| (next.due_ms, next.position));
    // Nothing of the millisecond before can stand behind this.
    let from = from.or(request.since_ms.checked_sub(1).map(|before_ms| (before_ms, u64::MAX)));
    let looked_at = store.state().timers.due(until_ms.saturating_sub(1), from, limit)?;
    let is_full = looked_at.len() == limit;
    let (mut bytes, mut read_bytes) = (0, 0);
    let mut last = None;
    for (position, timer) in looked_at {
        last = Some(pb::TimerPlace { due_ms: timer.due_ms, position });
        if !is_in_range(&timer) {
            continue;
        }
        read_bytes += timer.frame_len as usize;
        let message = match read(store, position, &timer) {
            Ok(message) => message,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error.into()),
        };
        let has_key = request.key.is_empty() || wire::has_key(&message, &request.key);
        if has_key && wire::is_wanted(&message, &filter).unwrap_or(false) {
            bytes += message.content.len();
            page.messages.push(shown(store, broker, position, &timer, &message));
        }
        if bytes >= PAGE_BYTES || read_bytes >= LOOKED_AT_BYTES {
            page.next = last;
            return Ok(page);
        }
    }
    page.next = last.filter(|_| is_full);
    Ok(page)
}

/// Decides about scheduled messages before their time, and returns what they were.
pub(super) async fn end(
    log: &LogClient,
    broker: &str,
    request: &pb::EndTimerRequest,
) -> Answer<pb::EndTimerResponse> {
    let decision = match request.action() {
        pb::TimerAction::Cancel => TimerDecision::Recall,
        pb::TimerAction::Deliver => TimerDecision::Deliver,
        pb::TimerAction::Unspecified => {
            return Err(AdminError::invalid("the request does not say what becomes of the message"));
        }
    };
    let chosen = match (request.recall_handle.as_str(), request.message_id.as_str()) {
        (handle, "") => vec![of_handle(log, broker, handle)?],
        ("", id) => pending_of_id(log.store(), id)?,
        _ => return Err(AdminError::invalid("name a recall handle or a message id, not both")),
    };
    let mut answer = pb::EndTimerResponse::default();
    for (position, timer, message) in chosen {
        end_timer(log, position, decision, BY.to_owned()).await?;
        answer.messages.push(shown(log.store(), broker, position, &timer, &message));
    }
    Ok(answer)
}

fn of_handle(log: &LogClient, broker: &str, handle: &str) -> Answer<(u64, ScheduledMessage, MessageRecord)> {
    let handle = RecallHandle::from_text(handle).map_err(|error| Refusal::invalid_recall_handle(&error))?;
    if handle.broker != broker {
        let owner = &handle.broker;
        return Err(AdminError::not_found(format!(
            "the message of the handle lies on broker group {owner:?}"
        )));
    }
    let timer = pending(log, &handle)?;
    let message = read(log.store(), handle.position, &timer)?;
    Ok((handle.position, timer, message))
}

fn pending_of_id(store: &Store, id: &str) -> Answer<Vec<(u64, ScheduledMessage, MessageRecord)>> {
    let (pending, over): (Vec<_>, Vec<_>) =
        of_id(store, id)?.into_iter().partition(|(_, timer, _)| timer.is_pending());
    match (pending.is_empty(), over.first()) {
        (false, _) => Ok(pending),
        (true, Some((_, timer, _))) => {
            Err(AdminError::not_found(format!("the message was {} before", timer.phase.word())))
        }
        (true, None) => Err(AdminError::not_found(format!("there is no scheduled message with id {id:?}"))),
    }
}

/// Scheduled messages of an id, pending or not.
fn of_id(store: &Store, id: &str) -> Result<Vec<(u64, ScheduledMessage, MessageRecord)>, StoreError> {
    let found =
        store.find(lookup::id_hash(id), &LookupPage::newest(SAME_ID_MAX), |m| m.header.message_id == id)?;
    let timers = found.messages.into_iter().filter_map(|found| match found.standing {
        MessageStanding::Timer(timer) => Some((found.position, *timer, found.message)),
        _ => None,
    });
    Ok(timers.collect())
}

fn read(store: &Store, position: u64, timer: &ScheduledMessage) -> Result<MessageRecord, StoreError> {
    Ok(store.read_message(timer.location(position), timer.frame_len)?.1)
}

fn shown(
    store: &Store,
    broker: &str,
    position: u64,
    timer: &ScheduledMessage,
    message: &MessageRecord,
) -> pb::ScheduledMessage {
    let id = &message.header.message_id;
    let topic = store.state().topics.by_id(timer.topic_id);
    let delivery = Delivery { store_ms: timer.stored_ms, queue: timer.queue, ..Delivery::default() };
    pb::ScheduledMessage {
        message_id: id.clone(),
        topic: topic.map_or_else(String::new, |topic| topic.name.clone()),
        queue: timer.queue,
        due_ms: timer.due_ms,
        store_ms: timer.stored_ms,
        recall_handle: RecallHandle::new(broker, position, id).to_text(),
        message: wire::message(message, &delivery).into(),
    }
}
