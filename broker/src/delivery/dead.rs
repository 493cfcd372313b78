//! Messages that a group gave up, on their way to its dead-letter topic.
//!
//! # Dead letters
//!
//! A message whose last attempt failed is stored once more in `%DLQ%group` (`delivery/dead.rs`), by one record that
//! ends the original as well. `mqadmin dlqRedrive` has the original delivered to its group again
//! (`store/src/state/apply/progress.rs`).

use std::sync::Arc;

use kerolox_core::delivery::ExhaustedMessage;
use kerolox_core::record::{AckRange, DeadOrigin, ProgressItem, ProgressRecord, QueueProgress, Record};
use kerolox_core::topic::{PERM_READ, Topic};
use kerolox_core::topic_change::TopicChange;
use kerolox_model::names::dead_letter_topic;
use kerolox_runtime::process::now_ms;
use kerolox_store::ProposeError;

use super::subscription::TopicSubscription;
use crate::log_client::{LogClient, LogRefusal};
use crate::metadata::{BrokerMetadata, ChangeError};
use crate::wire;

/// A message that cannot be read now is given up again after this time: the log may have been repaired by then.
const UNREADABLE_AGAIN_MS: i64 = 10 * 60_000;

/// Stores the dead letters of a subscription. Each is one record, which ends the delivery of the original as well.
///
/// # Errors
/// [`LogRefusal`] when the log does not take them.
pub(super) async fn bury(
    log: &LogClient,
    metadata: &BrokerMetadata,
    subscription: &Arc<TopicSubscription>,
    dead: &[ExhaustedMessage],
) -> Result<(), LogRefusal> {
    let (group, topic) = {
        let index = log.store().state();
        let group = index.groups.all().into_iter().find(|group| group.id == subscription.group_id());
        (group, index.topics.by_id(subscription.topic_id()))
    };
    // They were deleted in the meantime, with all their messages.
    let (Some(group), Some(topic)) = (group, topic) else { return Ok(()) };
    let dead_topic = match dead_topic(log, metadata, group.public_name()).await {
        Ok(dead_topic) => dead_topic,
        Err(ChangeError::Log(error)) => return Err(error),
        Err(ChangeError::Invalid(reason)) => {
            tracing::error!(group = %group.name, %reason, "the dead-letter topic cannot be created");
            return Err(ProposeError::ReadOnly(reason).into());
        }
    };
    let proposals = dead.iter().filter_map(|dead| {
        let record = match log.store().message_at(topic.id, dead.queue, dead.offset.get()) {
            Ok(Some((frame, message))) => {
                let origin = DeadOrigin {
                    group_id: group.id,
                    topic_id: topic.id,
                    queue: dead.queue,
                    offset: dead.offset.get(),
                    attempts: dead.attempts,
                    reason: dead.reason.into(),
                    topic: topic.name.clone(),
                    store_ms: message.header.carried.map_or(frame.store_ms, |carried| carried.store_ms),
                };
                wire::dead_letter(&message, origin, &dead_topic, now_ms())
            }
            Ok(None) => done(group.id, topic.id, dead),
            Err(error) => {
                tracing::error!(%error, group = %group.name, topic = %topic.name, offset = %dead.offset,
                    "a message that is to become a dead letter cannot be read; it stays where it is for now");
                subscription.reopen(now_ms() + UNREADABLE_AGAIN_MS, dead.queue, dead.offset);
                return None;
            }
        };
        Some(log.propose(&record))
    });
    for stored in proposals.collect::<Vec<_>>() {
        stored.await?;
    }
    Ok(())
}

/// The dead-letter topic of a group, created with its first dead letter. Clients may receive from it, and not send to it.
async fn dead_topic(
    log: &LogClient,
    metadata: &BrokerMetadata,
    group: &str,
) -> Result<Arc<Topic>, ChangeError> {
    let name = dead_letter_topic(group);
    if let Some(topic) = log.store().state().topics.get(&name) {
        return Ok(topic);
    }
    let change = TopicChange {
        name,
        read_queues: Some(1),
        write_queues: Some(1),
        perm: Some(PERM_READ),
        attributes: Vec::new(),
    };
    metadata.put_topic(&change).await.map(|(topic, _)| topic)
}

/// The message is gone: the record only marks it as done for the group.
fn done(group_id: u32, topic_id: u32, dead: &ExhaustedMessage) -> Record {
    let acked = vec![AckRange { start: dead.offset.get(), end: dead.offset.next().get() }];
    let progress = QueueProgress { group_id, topic_id, queue: dead.queue, acked, ..QueueProgress::default() };
    Record::Progress(ProgressRecord::new([ProgressItem::Queue(progress)]))
}
