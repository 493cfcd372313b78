//! SendMessage.
//!
//! # Send
//!
//! `broker/src/rpc/messaging/send.rs` checks all messages of a request (`core::publish`), creates records (`wire/`) and
//! proposes them (`log_client.rs`). The writer thread (`store/src/writer.rs`) takes all waiting proposals, appends them
//! with one write and makes them durable with one `fdatasync`; then they are applied to the index
//! (`store/src/state/apply/`), where a message gets its queue offset, and answered with that outcome. While proposals
//! wait, the indexer thread applies, so that the writer can go on; otherwise the writer applies them itself, which
//! saves a change of threads. Records that no client waits for (`async`) are synced on a third thread
//! (`log/src/elsewhere.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kerolox_core::dedup::DedupPolicy;
use kerolox_core::publish::{self, MessageDraft, PublishError};
use kerolox_core::record::{MessageHold, MessageRecord};
use kerolox_core::schedule;
use kerolox_core::slots;
use kerolox_core::topic::{MessageType, Topic};
use kerolox_core::topic_limits;
use kerolox_core::transaction::HalfMessage;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, common_status, ok_status};
use kerolox_gateway::routes::stored_topic;
use kerolox_model::token::{RecallHandle, TransactionId};
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};
use kerolox_store::{AppliedRecord, ApplyOutcome, FirstMessage};

use super::{Context, lite};
use crate::dedup_gate::{self, OnceError};
use crate::refused::refused_by_store;
use crate::wire::{self, Irregular, Placement, Sent};

/// Stores the messages of a request. All are checked before the first is stored, so a refused request stores nothing.
pub(super) async fn send_message(
    context: &Context,
    client: &ClientHeaders,
    request: raw::SendMessageRequest,
) -> Result<v2::SendMessageResponse, Refusal> {
    let (topic, records) = records(context, client, request).await?;
    let ids: Vec<String> = records.iter().map(|record| record.header.message_id.clone()).collect();
    let delayed: Vec<bool> = records.iter().map(|record| record.header.deliver_at_ms != 0).collect();
    let entries: Vec<_> =
        match dedup_gate::store((&context.log, &context.underway), &topic, records, context.clock.now_ms())
            .await
        {
            Ok(applied) => {
                // Half messages of one request form one transaction, that of the last one; other requests need no transaction id.
                let is_held = |applied: &&AppliedRecord| applied.outcome == ApplyOutcome::Held;
                let transaction = match (applied.last().filter(is_held), ids.last()) {
                    (Some(last), Some(id)) => {
                        TransactionId::new(&context.broker, last.position, id).to_text()
                    }
                    _ => String::new(),
                };
                std::iter::zip(std::iter::zip(ids, delayed), applied)
                    .map(|((id, is_delayed), applied)| {
                        entry(context, client, &topic.name, id, is_delayed, &transaction, &applied)
                    })
                    .collect()
            }
            Err(error) => {
                let refusal = match error {
                    OnceError::Log(refusal) => refusal.into(),
                    OnceError::Store(error) => refused_by_store(&error),
                };
                let status = refusal.to_status(client);
                ids.into_iter().map(|id| refused_entry(status.clone(), id)).collect()
            }
        };
    let status = common_status(entries.iter().filter_map(|entry| entry.status.as_ref()));
    Ok(v2::SendMessageResponse { status: Some(status), entries })
}

/// Checks the messages of a request, and returns the records to store.
async fn records(
    context: &Context,
    client: &ClientHeaders,
    request: raw::SendMessageRequest,
) -> Result<(Arc<Topic>, Vec<MessageRecord>), Refusal> {
    let normalized;
    let mut messages = match wire::scan(&request.messages) {
        Ok(messages) => messages,
        Err(Irregular) => {
            normalized = wire::normalize(&request.messages).map_err(|error| malformed(&error))?;
            wire::scan(&normalized).map_err(|error| malformed(&error))?
        }
    };
    let topic_sent = messages.first().map(|message| message.topic).ok_or_else(|| {
        Refusal::new(Code::MessageCorrupted, "the request holds no message; send at least one")
    })?;
    let resource = topic_sent.map(|(namespace, name)| v2::Resource {
        resource_namespace: namespace.to_owned(),
        name: name.to_owned(),
    });
    let name = stored_topic(resource.as_ref())?;
    let now_ms = context.clock.now_ms();
    for message in &mut messages {
        if message.topic != topic_sent {
            return Err(Refusal::new(
                Code::MessageCorrupted,
                "the messages of one request belong to different topics; send one request per topic",
            ));
        }
        message.draft.topic = &name;
        publish::check_form(&message.draft, &context.limits).map_err(|error| refused(&error))?;
        message.draft.deliver_at_ms = schedule::delivery_time(&message.draft, &context.delays, now_ms)
            .map_err(|error| refused(&error))?;
    }
    let types = || messages.iter().flat_map(|message| message.draft.needs()).collect();
    let topic = context.topic_of_messages(&client.client_id, resource.as_ref(), types).await?;
    if let Some(limits) = topic_limits::of(&topic, &context.limits) {
        for message in &messages {
            publish::check_form(&message.draft, &limits).map_err(|error| refused(&error))?;
        }
    }
    for due_ms in messages.iter().filter_map(|message| message.draft.deliver_at_ms) {
        schedule::check_topic(due_ms, &topic, now_ms).map_err(|error| refused(&error))?;
    }
    let kinds: Vec<MessageType> =
        messages.iter().map(|message| check_topic(&message.draft, &topic)).collect::<Result<_, _>>()?;
    let is_shared = publish::share_transaction(&topic, &kinds).map_err(|error| refused(&error))?;
    let names = messages.iter().filter_map(|message| message.draft.lite_topic);
    let lites = lite::queues(context, &topic, names).await?;
    let records = messages.iter().zip(kinds).map(|(message, kind)| {
        let lite = message.draft.lite_topic.and_then(|name| lites.get(name).copied());
        place(context, client, &topic, message, kind, lite, now_ms)
    });
    let mut records: Vec<MessageRecord> = records.collect();
    if is_shared {
        share_transaction(&mut records);
    }
    Ok((topic, records))
}

/// Makes half messages one transaction, that of the last one: when that is stored, all are. No check-back comes earlier
/// than for each of them alone.
fn share_transaction(records: &mut [MessageRecord]) {
    let first_check_ms = records.iter().map(|record| record.header.hold_ms).max();
    if let Some((last, others)) = records.split_last_mut() {
        last.header.hold_ms = first_check_ms.unwrap_or(last.header.hold_ms);
        others.iter_mut().for_each(|record| record.header.joins = true);
    }
}

fn malformed(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(
        Code::BadRequest,
        format!("a message of the request is malformed ({error}); was it made with the RocketMQ 5 protocol?"),
    )
}

fn check_topic(draft: &MessageDraft<'_>, topic: &Topic) -> Result<MessageType, Refusal> {
    match publish::check_topic(draft, topic).map_err(|error| refused(&error))? {
        kind @ (MessageType::Normal
        | MessageType::Fifo
        | MessageType::Delay
        | MessageType::Transaction
        | MessageType::Lite
        | MessageType::Priority) => Ok(kind),
        other => Err(Refusal::not_implemented(&format!("sending {} messages", other.word()))),
    }
}

fn place(
    context: &Context,
    client: &ClientHeaders,
    topic: &Topic,
    message: &Sent<'_>,
    kind: MessageType,
    lite: Option<u32>,
    now_ms: i64,
) -> MessageRecord {
    let draft = &message.draft;
    let grouped = || Some(slots::queue_of(slots::slot_of(draft.message_group?), topic.write_queues));
    let urgent =
        || Some(publish::queue_of_priority(u32::try_from(draft.priority?).ok()?, topic.write_queues));
    let asked = || choose_queue(context, client, topic, u32::try_from(message.queue_id).ok());
    let queue = lite.or_else(grouped).or_else(urgent).unwrap_or_else(asked);
    // A delivery time in the past does not hold a message back.
    let deliver_at_ms = message.draft.deliver_at_ms.filter(|deliver_at_ms| *deliver_at_ms > now_ms);
    let (hold, hold_ms) = match deliver_at_ms {
        _ if kind == MessageType::Transaction => {
            let wanted_ms = message.draft.recovery_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
            let checks = context.checks.of_topic(&topic.attributes);
            (MessageHold::Half, i64::try_from(checks.first_check_after_ms(wanted_ms)).unwrap_or(i64::MAX))
        }
        Some(deliver_at_ms) => (MessageHold::Until, deliver_at_ms),
        None => (MessageHold::None, 0),
    };
    let placement = Placement {
        topic,
        queue,
        kind,
        hold,
        hold_ms,
        deliver_at_ms,
        producer: &client.client_id,
        store_host: &context.address,
    };
    let mut record = wire::record(message, &placement);
    record.header.set_dedup(DedupPolicy::of(topic).map(|dedup| dedup.hash(draft.message_id, &draft.keys)));
    record
}

/// The queue that the producer chose, or the next one in turn. The Go and Python SDKs never set the field, and its
/// default looks like queue 0.
fn choose_queue(context: &Context, client: &ClientHeaders, topic: &Topic, asked: Option<u32>) -> u32 {
    let chooses = !["GO", "PYTHON"].iter().any(|language| client.language.eq_ignore_ascii_case(language));
    match asked.filter(|queue| chooses && *queue < topic.write_queues) {
        Some(queue) => queue,
        None => context.counters.turn.fetch_add(1, Ordering::Relaxed) % topic.write_queues,
    }
}

fn entry(
    context: &Context,
    client: &ClientHeaders,
    topic: &str,
    mut message_id: String,
    is_delayed: bool,
    transaction: &str,
    applied: &AppliedRecord,
) -> v2::SendResultEntry {
    let is_repeat = matches!(applied.outcome, ApplyOutcome::Duplicate(_));
    if let ApplyOutcome::Duplicate(first) = &applied.outcome {
        message_id = id_of(context, first).unwrap_or(message_id);
    }
    let recall_handle = |position| RecallHandle::new(&context.broker, position, &message_id).to_text();
    let (offset, transaction_id, recall_handle) = match applied.outcome {
        ApplyOutcome::Visible { offset, .. } => (offset, String::new(), String::new()),
        ApplyOutcome::Held => {
            // A committed message can be recalled.
            (
                0,
                transaction.to_owned(),
                if is_delayed { recall_handle(applied.position) } else { String::new() },
            )
        }
        ApplyOutcome::Scheduled => (0, String::new(), recall_handle(applied.position)),
        ApplyOutcome::Duplicate(FirstMessage { place: Some((_, offset)), .. }) => {
            (offset, String::new(), String::new())
        }
        ApplyOutcome::Duplicate(FirstMessage { position, .. }) => match half_at(context, position) {
            Some(half) => {
                let id = TransactionId::of_half(&context.broker, position, half.message_id_crc).to_text();
                (0, id, if half.deliver_at_ms == 0 { String::new() } else { recall_handle(position) })
            }
            None => (0, String::new(), recall_handle(position)),
        },
        // Expired since it was looked up; SDKs send again, which creates it anew.
        ApplyOutcome::TopicGone if context.log.store().state().topics.get(topic).is_some() => {
            let refusal = Refusal::new(
                Code::InternalServerError,
                "the lite topic expired just before the message was stored; send it again",
            );
            return refused_entry(refusal.to_status(client), message_id);
        }
        // The topic existed when the message was checked, and was deleted before it was stored.
        _ => return refused_entry(Refusal::topic_not_found(topic).to_status(client), message_id),
    };
    if !is_repeat {
        context.counters.messages_in.fetch_add(1, Ordering::Relaxed);
    }
    v2::SendResultEntry {
        status: Some(ok_status()),
        message_id,
        transaction_id,
        offset: offset.cast_signed(),
        recall_handle,
    }
}

/// The id of the message that a duplicate repeats, which may differ if they share their keys. Without it, the answer is
/// still right.
fn id_of(context: &Context, first: &FirstMessage) -> Option<String> {
    let read = context.log.store().read_message_at(first.position);
    read.inspect_err(|error| tracing::warn!(%error, "the original of a duplicate message cannot be read"))
        .ok()
        .map(|(_, message)| message.header.message_id)
}

/// The half message at a position, if there is one: otherwise it is a scheduled message.
fn half_at(context: &Context, position: u64) -> Option<HalfMessage> {
    context.log.store().state().transactions.get(position).ok().flatten()
}

fn refused_entry(status: v2::Status, message_id: String) -> v2::SendResultEntry {
    v2::SendResultEntry { status: Some(status), message_id, ..v2::SendResultEntry::default() }
}

fn refused(error: &PublishError) -> Refusal {
    let code = match error {
        PublishError::Topic(_) => Code::IllegalTopic,
        PublishError::MessageId(_) => Code::IllegalMessageId,
        PublishError::BodyEmpty => Code::MessageBodyEmpty,
        PublishError::BodyTooLarge { .. } => Code::MessageBodyTooLarge,
        PublishError::PropertiesTooLarge(_) => Code::MessagePropertiesTooLarge,
        PublishError::PropertyKey(_) => Code::IllegalMessagePropertyKey,
        PublishError::Tag(_) => Code::IllegalMessageTag,
        PublishError::Key(_) => Code::IllegalMessageKey,
        PublishError::MessageGroup(_) => Code::IllegalMessageGroup,
        PublishError::LiteTopic(_) => Code::IllegalLiteTopic,
        PublishError::RecoveryDuration { .. }
        | PublishError::Priority(_)
        | PublishError::TransactionTooLarge { .. } => Code::BadRequest,
        PublishError::DeliveryTime(_) => Code::IllegalDeliveryTime,
        PublishError::TypeConflict(_) => Code::MessagePropertyConflictWithType,
        PublishError::NotWritable(_) => Code::Forbidden,
    };
    Refusal::new(code, error.to_string())
}
