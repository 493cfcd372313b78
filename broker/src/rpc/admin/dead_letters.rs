//! What administrators do about messages that a group could not process: dead letters and blocked messages.

use std::sync::Arc;

use kerolox_core::delivery::RetryingMessage;
use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{ProgressItem, ProgressRecord, Record, RedrivenRecord};
use kerolox_core::topic::Topic;
use kerolox_model::names::dead_letter_topic;
use kerolox_proto::kerolox as pb;
use kerolox_runtime::process::now_ms;
use kerolox_store::{ApplyOutcome, QueueEntry, Store, StoreError};

use super::admin_error::AdminError;
use crate::delivery::{DeliveryDirectory, TopicSubscription};
use crate::log_client::LogClient;
use crate::pace::Step;
use crate::wire::{self, Delivery};

/// Dead letters that are looked at for one page, at the most.
const PAGE_MAX: usize = 256;
/// Bytes of messages after which a page is closed.
const PAGE_BYTES: usize = 2 << 20;
/// Bytes of the log after which a page is closed, whatever is wanted of it.
const LOOKED_AT_BYTES: usize = 64 << 20;
/// Dead letters that one request sends back, at the most.
const REDRIVE_MAX: usize = 1024;

type Answer<T> = Result<T, AdminError>;

/// The queue of every dead-letter topic.
const QUEUE: u32 = 0;

fn group_of(store: &Store, name: &str) -> Answer<Arc<Group>> {
    let group = store.state().groups.get(name);
    group.ok_or_else(|| AdminError::not_found(format!("there is no consumer group {name:?} on this broker")))
}

/// The dead-letter topic of a group; `None` as long as it has no dead letter.
fn dead_topic_of(store: &Store, group: &str) -> Answer<Option<Arc<Topic>>> {
    group_of(store, group)?;
    Ok(store.state().topics.get(&dead_letter_topic(group)))
}

/// A page of the dead letters of a group.
pub(super) fn list(
    store: &Store,
    request: &pb::ListDeadLettersRequest,
) -> Answer<pb::ListDeadLettersResponse> {
    let filter = if request.sql.is_empty() {
        Filter::tags(&request.tags).map_err(AdminError::invalid)?
    } else {
        Filter::sql(&request.sql).map_err(|error| AdminError::invalid(error.to_string()))?
    };
    let mut page = pb::ListDeadLettersResponse::default();
    let Some(topic) = dead_topic_of(store, &request.group)? else { return Ok(page) };
    let limit = match request.limit {
        0 => PAGE_MAX,
        limit => PAGE_MAX.min(limit as usize),
    };
    let bounds = store.state().queues.bounds(topic.id, QUEUE);
    let from = request.from_offset.max(bounds.min);
    let entries = store.state().queues.entries(topic.id, QUEUE, from, limit)?;
    let mut next = entries.last().map(|(offset, _)| offset + 1).filter(|next| *next < bounds.next);
    let until_ms = if request.until_ms == 0 { i64::MAX } else { request.until_ms };
    let is_wanted = |letter: &pb::DeadLetter| {
        (request.since_ms..until_ms).contains(&letter.dead_ms) && (request.with_redriven || !letter.redriven)
    };
    let (mut bytes, mut looked_at) = (0, 0);
    for (offset, entry) in entries {
        looked_at += entry.len as usize;
        if let Some(letter) = letter(store, &topic, offset, &entry, &filter)?.filter(is_wanted) {
            bytes += letter.message.len();
            page.letters.push(letter);
        }
        if bytes >= PAGE_BYTES || looked_at >= LOOKED_AT_BYTES {
            next = Some(offset + 1).filter(|next| *next < bounds.next);
            break;
        }
    }
    page.next_offset = next;
    Ok(page)
}

/// The dead letter at an offset, if it is one that can be read and that the filter wants.
fn letter(
    store: &Store,
    topic: &Topic,
    offset: u64,
    entry: &QueueEntry,
    filter: &Filter,
) -> Result<Option<pb::DeadLetter>, StoreError> {
    let entry = store.state().carried_entry(topic.id, QUEUE, offset, *entry)?;
    let Some((frame, record)) = readable(store.read_entry(&entry))? else { return Ok(None) };
    let Some(origin) = record.header.dead.as_ref() else { return Ok(None) };
    if !wire::is_wanted(&record, filter).unwrap_or(true) {
        return Ok(None);
    }
    let delivery =
        Delivery { store_ms: frame.store_ms, queue: QUEUE, offset: Some(offset), ..Delivery::default() };
    Ok(Some(pb::DeadLetter {
        offset,
        message_id: record.header.message_id.clone(),
        topic: origin.topic.clone(),
        queue: origin.queue,
        queue_offset: origin.offset,
        attempts: origin.attempts,
        reason: origin.reason().word().to_owned(),
        dead_ms: frame.store_ms,
        store_ms: origin.store_ms,
        message: wire::message(&record, &delivery).to_vec(),
        redriven: store.state().progress.is_redriven(topic.id, QUEUE, offset)?,
    }))
}

/// Sends dead letters back to their group.
pub(super) async fn redrive(
    log: &LogClient,
    request: &pb::RedriveDeadLettersRequest,
) -> Answer<pb::RedriveDeadLettersResponse> {
    if request.offsets.len() > REDRIVE_MAX {
        return Err(AdminError::invalid(format!(
            "{} dead letters in one request, the limit is {REDRIVE_MAX}; send several requests",
            request.offsets.len()
        )));
    }
    let store = log.store();
    let Some(topic) = dead_topic_of(store, &request.group)? else {
        return Err(AdminError::not_found(format!("consumer group {:?} has no dead letters", request.group)));
    };
    let mut answer = pb::RedriveDeadLettersResponse::default();
    let mut proposals = Vec::with_capacity(request.offsets.len());
    let mut step = Step::begin();
    for offset in &request.offsets {
        if step.is_over() {
            tokio::task::yield_now().await;
            step = Step::begin();
        }
        match origin(store, &topic, *offset, &mut step)? {
            Some(redriven) => {
                let item = ProgressItem::Redriven(redriven);
                proposals.push(log.propose(&Record::Progress(ProgressRecord::new([item]))));
            }
            None => answer.gone += 1,
        }
    }
    for proposal in proposals {
        match proposal.await?.outcome {
            ApplyOutcome::Repeated => answer.repeated += 1,
            ApplyOutcome::Deleted(_) => answer.gone += 1,
            _ => answer.redriven += 1,
        }
    }
    Ok(answer)
}

/// What sends the dead letter at an offset back; `None` when there is none that can be read.
fn origin(
    store: &Store,
    topic: &Topic,
    offset: u64,
    step: &mut Step,
) -> Result<Option<RedrivenRecord>, StoreError> {
    let read = readable(store.message_at(topic.id, QUEUE, offset))?;
    step.take([read.as_ref().map_or(0, |(frame, _)| frame.len as usize)]);
    let Some((_, record)) = read else { return Ok(None) };
    Ok(record.header.dead.map(|origin| RedrivenRecord {
        dead_topic_id: topic.id,
        dead_queue: QUEUE,
        dead_offset: offset,
        group_id: origin.group_id,
        topic_id: origin.topic_id,
        queue: origin.queue,
        offset: origin.offset,
    }))
}

/// What was read, or nothing where the log is damaged.
fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_damage() => Ok(None),
        read => read,
    }
}

/// The messages of a group that used up their attempts and stay. Reads the disk: call it where blocking is fine.
pub(super) fn blocked(
    store: &Store,
    deliveries: &DeliveryDirectory,
    request: &pb::ListBlockedRequest,
) -> Answer<pb::ListBlockedResponse> {
    let group = group_of(store, &request.group)?;
    let topics = store.state().topics.all();
    let mut messages = Vec::new();
    for topic in topics {
        let Some(subscription) = subscription(store, deliveries, &group, &topic)? else { continue };
        for found in subscription.with(|engine| engine.blocked()) {
            let read = readable(store.message_at(topic.id, found.queue, found.offset.get()))?;
            let record = read.map(|(_, record)| record);
            let message_group = record.as_ref().and_then(|record| wire::message_group(record).ok().flatten());
            messages.push(pb::BlockedMessage {
                topic: topic.name.clone(),
                queue: found.queue,
                offset: found.offset.get(),
                message_group: message_group.unwrap_or_default().to_owned(),
                message_id: record.map(|record| record.header.message_id).unwrap_or_default(),
                waiting: found.waiting as u64,
            });
        }
    }
    Ok(pb::ListBlockedResponse { messages })
}

/// What a group has failed with and waits for, in one topic or all. Lite topics are not among them: there may be millions.
pub(super) fn retries(
    store: &Store,
    deliveries: &DeliveryDirectory,
    request: &pb::ListRetriesRequest,
) -> Answer<pb::ListRetriesResponse> {
    let group = group_of(store, &request.group)?;
    let max = match request.limit {
        0 => PAGE_MAX,
        limit => PAGE_MAX.min(limit as usize),
    };
    let mut messages: Vec<pb::RetriedMessage> = Vec::new();
    for topic in store.state().topics.all() {
        let is_wanted = request.topic.is_empty() || request.topic == topic.name;
        if !is_wanted || topic.has_lites() || messages.len() >= max {
            continue;
        }
        for found in deliveries.retrying(&group, &topic, max - messages.len())? {
            messages.push(retried(store, &group, &topic, &found)?);
        }
    }
    messages.sort_by_key(|message| message.next_ms);
    Ok(pb::ListRetriesResponse { messages })
}

fn retried(
    store: &Store,
    group: &Group,
    topic: &Topic,
    found: &RetryingMessage,
) -> Answer<pb::RetriedMessage> {
    let record =
        readable(store.message_at(topic.id, found.queue, found.offset.get()))?.map(|(_, record)| record);
    let labels = record.as_ref().map(wire::labels).unwrap_or_default();
    Ok(pb::RetriedMessage {
        topic: topic.name.clone(),
        queue: found.queue,
        offset: found.offset.get(),
        message_id: record.map(|record| record.header.message_id).unwrap_or_default(),
        tag: labels.tag.unwrap_or_default(),
        keys: labels.keys,
        message_group: labels.message_group.unwrap_or_default(),
        attempts: found.attempts,
        max_attempts: group.max_attempts(),
        next_ms: found.visible_ms,
    })
}

/// The subscription of a group to a topic, if anything may be blocked in it.
fn subscription(
    store: &Store,
    deliveries: &DeliveryDirectory,
    group: &Group,
    topic: &Topic,
) -> Answer<Option<Arc<TopicSubscription>>> {
    if let Some(active) = deliveries.active(group.id, topic.id) {
        return Ok(Some(active));
    }
    // No consumer has asked for messages since this broker started; the log knows which messages used up their attempts.
    for queue in 0..topic.read_queues {
        let acks = store.state().acks(group.id, topic.id, queue)?;
        let is_spent = |(_, attempts, _): (QueueOffset, u32, i64)| attempts >= group.max_attempts();
        if acks.is_some_and(|acks| acks.attempted().any(is_spent)) {
            let subscription = deliveries.subscription(group, topic);
            let subscription = subscription.map_err(AdminError::from)?;
            subscription.sweep(now_ms(), |_| true);
            return Ok(Some(subscription));
        }
    }
    Ok(None)
}

/// Lets a blocked message try again, or makes it a dead letter.
pub(super) async fn settle(
    log: &LogClient,
    deliveries: &DeliveryDirectory,
    request: &pb::SettleBlockedRequest,
) -> Answer<()> {
    let group = group_of(log.store(), &request.group)?;
    let topic = log.store().state().topics.get(&request.topic);
    let topic = topic.ok_or_else(|| {
        AdminError::not_found(format!("there is no topic {:?} on this broker", request.topic))
    })?;
    let subscription = subscription(log.store(), deliveries, &group, &topic)?;
    let (queue, offset, now_ms) = (request.queue, QueueOffset::new(request.offset), now_ms());
    let settled = subscription.as_ref().is_some_and(|subscription| match request.action() {
        pb::BlockedAction::Retry => {
            subscription.change(now_ms, |engine| engine.unblock(now_ms, queue, offset))
        }
        pb::BlockedAction::DeadLetter => {
            subscription.change(now_ms, |engine| engine.bury_blocked(queue, offset))
        }
        pb::BlockedAction::Unspecified => false,
    });
    if request.action() == pb::BlockedAction::Unspecified {
        return Err(AdminError::invalid("the request names no action; choose retry or dead-letter"));
    }
    let Some(subscription) = subscription.filter(|_| settled) else {
        return Err(AdminError::not_found(format!(
            "offset {offset} of queue {queue} of topic {:?} is not blocked for consumer group {:?}",
            request.topic, request.group
        )));
    };
    Ok(deliveries.progress().flush(&subscription).await?)
}
