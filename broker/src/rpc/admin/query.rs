//! Looking at stored messages without consuming them.

use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::lookup;
use kerolox_core::topic::Topic;
use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::query_messages_request::By;
use kerolox_proto::kerolox::queue_place::From;
use kerolox_store::{FoundMessage, LookupPage, MessageStanding, Store};

use super::admin_error::AdminError;
use crate::wire::{self, Delivery};

/// Messages of an answer when the request does not say.
const LIMIT_DEFAULT: u32 = 32;
/// Most messages of one answer.
const LIMIT_MAX: u32 = 256;
/// Bytes of messages after which an answer is closed: with the largest message behind it, it stays below what clients
/// take.
const ANSWER_BYTES: usize = 16 << 20;

/// Reads the disk: call it where blocking is fine.
pub(super) fn query(
    store: &Store,
    request: &pb::QueryMessagesRequest,
) -> Result<pb::QueryMessagesResponse, AdminError> {
    match &request.by {
        Some(By::MessageId(id)) if !id.is_empty() => by_id(store, request, id),
        Some(By::Key(key)) if !key.is_empty() => by_key(store, request, key),
        Some(By::Place(place)) => in_queue(store, request, place),
        _ => Err(AdminError::invalid("name a message id, a key, or a place in a queue")),
    }
}

fn by_id(
    store: &Store,
    request: &pb::QueryMessagesRequest,
    id: &str,
) -> Result<pb::QueryMessagesResponse, AdminError> {
    let topic = match request.topic.as_str() {
        "" => None,
        _ => Some(topic(store, request)?.id),
    };
    find(store, request, lookup::id_hash(id), |message| {
        message.header.message_id == id && topic.is_none_or(|id| id == message.header.topic_id)
    })
}

fn by_key(
    store: &Store,
    request: &pb::QueryMessagesRequest,
    key: &str,
) -> Result<pb::QueryMessagesResponse, AdminError> {
    let topic = topic(store, request)?.id;
    find(store, request, lookup::key_hash(topic, key), |message| {
        message.header.topic_id == topic && wire::has_key(message, key)
    })
}

fn find(
    store: &Store,
    request: &pb::QueryMessagesRequest,
    hash: u64,
    wanted: impl Fn(&kerolox_core::record::MessageRecord) -> bool,
) -> Result<pb::QueryMessagesResponse, AdminError> {
    let page = LookupPage {
        before: if request.before == 0 { u64::MAX } else { request.before },
        limit: limit(request),
        bytes: ANSWER_BYTES,
        since_ms: request.since_ms,
        until_ms: if request.until_ms == 0 { i64::MAX } else { request.until_ms },
    };
    let found = store.find(hash, &page, wanted)?;
    Ok(pb::QueryMessagesResponse {
        damaged: u32::try_from(found.damaged).unwrap_or(u32::MAX),
        next: found.next.unwrap_or(0),
        messages: found.messages.iter().map(stored).collect(),
    })
}

fn in_queue(
    store: &Store,
    request: &pb::QueryMessagesRequest,
    place: &pb::QueuePlace,
) -> Result<pb::QueryMessagesResponse, AdminError> {
    let topic = topic(store, request)?;
    let queue = place.queue;
    let is_lite = topic.has_lites() && queue >= FIRST_LITE_QUEUE;
    if queue >= topic.read_queues.max(topic.write_queues) && !is_lite {
        let text = format!("topic {} has no queue {queue}; see mqadmin topicStatus", topic.name);
        return Err(AdminError::not_found(text));
    }
    let entries = {
        let index = store.state();
        let from = match place.from {
            Some(From::Offset(offset)) => offset,
            Some(From::TimeMs(time_ms)) => index.offset_at(topic.id, queue, time_ms)?,
            None => index.queues.bounds(topic.id, queue).min,
        };
        index.queues.entries(topic.id, queue, from, limit(request))?
    };
    let mut answer = pb::QueryMessagesResponse::default();
    let full = entries.len() == limit(request);
    answer.next = entries.last().filter(|_| full).map_or(0, |(last, _)| last + 1);
    let mut bytes = 0;
    for (offset, entry) in entries {
        if request.until_ms != 0 && entry.visible_ms >= request.until_ms {
            answer.next = 0;
            break;
        }
        if bytes >= ANSWER_BYTES {
            answer.next = offset;
            break;
        }
        let entry = store.state().carried_entry(topic.id, queue, offset, entry)?;
        match store.read_message(entry.position, entry.len) {
            Ok((frame, message)) => {
                let standing = MessageStanding::Visible { queue, offset };
                let position = message.header.carried.map_or(frame.position, |carried| carried.position);
                let found = FoundMessage { position, store_ms: frame.store_ms, message, standing };
                bytes += entry.len as usize;
                answer.messages.push(stored(&found));
            }
            Err(error) if error.is_damage() => answer.damaged += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

fn topic(store: &Store, request: &pb::QueryMessagesRequest) -> Result<std::sync::Arc<Topic>, AdminError> {
    topic_named(store, &request.topic)
}

/// The topic that an administrator names.
pub(super) fn topic_named(store: &Store, name: &str) -> Result<std::sync::Arc<Topic>, AdminError> {
    let missing = || match name {
        "" => AdminError::invalid("name the topic"),
        name => AdminError::not_found(format!("there is no topic {name:?}; see mqadmin topicList")),
    };
    store.state().topics.get(name).ok_or_else(missing)
}

fn limit(request: &pb::QueryMessagesRequest) -> usize {
    let limit = if request.limit == 0 { LIMIT_DEFAULT } else { request.limit.min(LIMIT_MAX) };
    limit as usize
}

pub(super) fn stored(found: &FoundMessage) -> pb::StoredMessage {
    let header = &found.message.header;
    let place = found.standing.place();
    let (queue, offset) = (place.map_or(header.queue, |(queue, _)| queue), place.map(|(_, offset)| offset));
    let delivery = Delivery { store_ms: found.store_ms, queue, offset, ..Delivery::default() };
    pb::StoredMessage {
        message: wire::message(&found.message, &delivery).into(),
        standing: found.standing.word().to_owned(),
        queue,
        offset,
        store_ms: found.store_ms,
        position: found.position,
        producer: header.producer.clone(),
    }
}
