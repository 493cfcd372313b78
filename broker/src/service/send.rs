//! SendMessage.

use std::sync::atomic::Ordering;

use kerolox_core::publish::{self, PublishError};
use kerolox_core::record::{Hold, Record};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_kit::headers::ClientHeaders;
use kerolox_kit::refusal::{Refusal, common_status, ok_status};
use kerolox_kit::routes::stored_topic;
use kerolox_model::token::TransactionId;
use kerolox_proto::v2::{self, Code};
use kerolox_store::{Applied, Outcome, ProposeError};

use super::Context;
use crate::engine::refused_by_log;
use crate::wire::{self, Placement};

/// Stores the messages of a request. All are checked before the first is stored, so a refused request stores nothing.
pub(super) async fn send_message(
    context: &Context,
    client: &ClientHeaders,
    request: v2::SendMessageRequest,
) -> Result<v2::SendMessageResponse, Refusal> {
    let first = request.messages.first().ok_or_else(|| {
        Refusal::new(Code::MessageCorrupted, "the request holds no message; send at least one")
    })?;
    let name = stored_topic(first.topic.as_ref())?;
    let mut kinds = Vec::with_capacity(request.messages.len());
    for message in &request.messages {
        if message.topic != first.topic {
            return Err(Refusal::new(
                Code::MessageCorrupted,
                "the messages of one request belong to different topics; send one request per topic",
            ));
        }
        check_form(context, message, &name)?;
    }
    let topic = context.topic(first.topic.as_ref())?;
    for message in &request.messages {
        kinds.push(check_topic(message, &name, &topic)?);
    }
    // All are proposed before the first is waited for: they share the sync of one batch.
    let mut pending = Vec::with_capacity(kinds.len());
    for (message, kind) in request.messages.into_iter().zip(kinds) {
        let message_id =
            message.system_properties.as_ref().map(|system| system.message_id.clone()).unwrap_or_default();
        let record = place(context, client, &topic, message, kind);
        pending.push((message_id, context.engine.propose_for(&topic, &record)));
    }
    let mut entries = Vec::with_capacity(pending.len());
    for (message_id, applied) in pending {
        entries.push(entry(context, client, &name, message_id, applied.await));
    }
    let status = common_status(entries.iter().filter_map(|entry| entry.status.as_ref()));
    Ok(v2::SendMessageResponse { status: Some(status), entries })
}

fn check_form(context: &Context, message: &v2::Message, topic: &str) -> Result<(), Refusal> {
    let blank = v2::SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&blank);
    publish::check_form(&wire::draft(message, system, topic), &context.limits)
        .map_err(|error| refused(&error))
}

fn check_topic(message: &v2::Message, name: &str, topic: &Topic) -> Result<MessageType, Refusal> {
    let blank = v2::SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&blank);
    let kind =
        publish::check_topic(&wire::draft(message, system, name), topic).map_err(|error| refused(&error))?;
    match kind {
        MessageType::Normal | MessageType::Transaction => Ok(kind),
        other => Err(Refusal::not_implemented(&format!("sending {} messages", other.word()))),
    }
}

fn place(
    context: &Context,
    client: &ClientHeaders,
    topic: &Topic,
    message: v2::Message,
    kind: MessageType,
) -> Record {
    let system = message.system_properties.as_ref();
    let asked = system.and_then(|system| u32::try_from(system.queue_id).ok());
    let queue = choose_queue(context, client, topic, asked);
    let (hold, hold_ms) = if kind == MessageType::Transaction {
        let wanted = system.and_then(|system| system.orphaned_transaction_recovery_duration.as_ref());
        let wanted_ms = wanted.map_or(0, wire::duration_ms);
        (Hold::Half, i64::try_from(context.checks.first_check_after_ms(wanted_ms)).unwrap_or(i64::MAX))
    } else {
        (Hold::None, 0)
    };
    let placement = Placement {
        topic,
        queue,
        kind,
        hold,
        hold_ms,
        producer: &client.client_id,
        store_host: &context.address,
    };
    Record::Message(wire::record(message, &placement))
}

/// The queue that the producer chose, or the next in turn. The Go and Python SDKs never set the field, and its default
/// looks like queue 0.
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
    message_id: String,
    applied: Result<Applied, ProposeError>,
) -> v2::SendResultEntry {
    let refused = |refusal: Refusal, message_id: String| v2::SendResultEntry {
        status: Some(refusal.to_status(client)),
        message_id,
        ..v2::SendResultEntry::default()
    };
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => return refused(refused_by_log(&error), message_id),
    };
    let (offset, transaction_id) = match applied.outcome {
        Outcome::Visible { offset, .. } => (offset, String::new()),
        Outcome::Held => {
            let id = TransactionId::new(&context.broker, applied.position, &message_id);
            (0, id.to_text())
        }
        // The topic was there when the message was checked, and deleted before it was stored.
        _ => return refused(Refusal::topic_not_found(topic), message_id),
    };
    context.counters.messages_in.fetch_add(1, Ordering::Relaxed);
    v2::SendResultEntry {
        status: Some(ok_status()),
        message_id,
        transaction_id,
        offset: offset.cast_signed(),
        recall_handle: String::new(),
    }
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
        PublishError::RecoveryDuration { .. } => Code::BadRequest,
        PublishError::TypeConflict(_) => Code::MessagePropertyConflictWithType,
        PublishError::NotWritable(_) => Code::Forbidden,
    };
    Refusal::new(code, error.to_string())
}
