//! Where consumer groups stand, and setting their offsets, for administrators.

use std::sync::Arc;

use kerolox_core::delivery::QueuePosition;
use kerolox_core::group::Group;
use kerolox_core::lookup;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::topic::Topic;
use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::reset_offsets_request::To;
use kerolox_store::{LookupPage, Store};

use super::admin_error::AdminError;
use super::query::topic_named;
use crate::delivery::{DeliveryDirectory, cursors};

/// Where a group stands. Reads the index: call it where blocking is fine.
pub(super) fn describe(
    store: &Store,
    deliveries: &DeliveryDirectory,
    request: &pb::DescribeGroupRequest,
) -> Result<(Arc<Group>, Vec<pb::GroupQueueStatus>), AdminError> {
    let group = group_named(store, &request.name)?;
    let only = match request.topic.as_str() {
        "" => None,
        name => Some(topic_named(store, name)?.id),
    };
    let mut queues = Vec::new();
    for cursor in cursors(store, &group) {
        for topic_id in deliveries.topics_of(&cursor)? {
            let Some(topic) = store.state().topics.by_id(topic_id) else { continue };
            if only.is_some_and(|only| only != topic_id) {
                continue;
            }
            if topic.has_lites() {
                queues.push(lite_status(deliveries, &topic, &cursor)?);
                continue;
            }
            let positions = deliveries.positions(&cursor, &topic)?;
            queues
                .extend(positions.iter().map(|(queue, standing)| status(&topic, *queue, &cursor, standing)));
        }
    }
    queues.sort_by(|a, b| (&a.topic, &a.client, a.queue).cmp(&(&b.topic, &b.client, b.queue)));
    Ok((group, queues))
}

fn status(topic: &Topic, queue: u32, cursor: &Group, standing: &QueuePosition) -> pb::GroupQueueStatus {
    pb::GroupQueueStatus {
        topic: topic.name.clone(),
        queue,
        broker_offset: standing.end.get(),
        consumer_offset: standing.committed.get(),
        lag: standing.counts.lag,
        in_flight: standing.counts.in_flight,
        retrying: standing.counts.waiting,
        ready: standing.counts.ready,
        blocked: standing.counts.blocked,
        client: cursor.member.clone(),
        lite_topics: None,
        removed_unread: 0,
    }
}

/// All lite topics of a topic together: there may be millions.
fn lite_status(
    deliveries: &DeliveryDirectory,
    topic: &Topic,
    cursor: &Group,
) -> Result<pb::GroupQueueStatus, AdminError> {
    let (lites, counts) = deliveries.lite_totals(cursor, topic)?;
    let together = status(topic, 0, cursor, &QueuePosition { counts, ..QueuePosition::default() });
    Ok(pb::GroupQueueStatus { lite_topics: Some(lites), ..together })
}

/// A reset that was worked out.
pub(super) struct Plan {
    topic: Arc<Topic>,
    /// Each group with a cursor, and where it goes in each queue.
    moves: Vec<(Group, Vec<pb::QueueReset>)>,
}

impl Plan {
    /// Works out what a request means. Reads the index and the log: call it where blocking is fine.
    pub(super) fn of(
        store: &Store,
        deliveries: &DeliveryDirectory,
        request: &pb::ResetOffsetsRequest,
    ) -> Result<Self, AdminError> {
        let group = group_named(store, &request.group)?;
        let topic = topic_named(store, &request.topic)?;
        let targets = targets(store, &topic, request)?;
        let moves = cursors(store, &group).into_iter().map(|cursor| {
            let positions = deliveries.positions(&cursor, &topic)?;
            let standing = |queue: &u32| positions.get(queue).copied().unwrap_or_default();
            let resets = targets.iter().map(|(queue, to)| reset(&cursor, *queue, *to, standing(queue)));
            let resets = resets.collect();
            Ok((cursor, resets))
        });
        let moves = moves.collect::<Result<_, AdminError>>()?;
        Ok(Self { topic, moves })
    }

    /// Does it.
    pub(super) async fn carry_out(&self, deliveries: &DeliveryDirectory) -> Result<(), AdminError> {
        for (cursor, resets) in &self.moves {
            let offsets = resets.iter().map(|reset| (reset.queue, reset.to));
            deliveries.reset(cursor, &self.topic, offsets).await?;
        }
        Ok(())
    }

    /// What it does.
    pub(super) fn resets(self) -> Vec<pb::QueueReset> {
        self.moves.into_iter().flat_map(|(_, resets)| resets).collect()
    }
}

fn reset(cursor: &Group, queue: u32, to: u64, standing: QueuePosition) -> pb::QueueReset {
    pb::QueueReset {
        queue,
        from: standing.committed.get(),
        to,
        lag_before: standing.counts.lag,
        lag_after: standing.end.since(QueueOffset::new(to)),
        in_flight: standing.counts.in_flight,
        retrying: standing.counts.waiting,
        client: cursor.member.clone(),
    }
}

/// The offset that is asked for in each queue.
fn targets(
    store: &Store,
    topic: &Topic,
    request: &pb::ResetOffsetsRequest,
) -> Result<Vec<(u32, u64)>, AdminError> {
    let queues = match &*request.queues {
        [] => (0..topic.read_queues).collect(),
        named => named.to_vec(),
    };
    if let Some(queue) = queues.iter().find(|queue| **queue >= topic.read_queues) {
        let text = format!("topic {} has no queue {queue}; see mqadmin topicStatus", topic.name);
        return Err(AdminError::not_found(text));
    }
    let to = request.to.as_ref().ok_or_else(|| {
        AdminError::invalid("say where to go: earliest, latest, an offset, a time, or a message id")
    })?;
    let message = match to {
        To::MessageId(id) => Some(place_of(store, topic, id)?),
        _ => None,
    };
    let target = |queue: u32| {
        let index = store.state();
        let bounds = index.queues.bounds(topic.id, queue);
        Ok(match (to, message) {
            (To::Earliest(_), _) => bounds.min,
            (To::Latest(_), _) => bounds.next,
            (To::Offset(offset), _) if (bounds.min..=bounds.next).contains(offset) => *offset,
            (To::Offset(offset), _) => {
                return Err(AdminError::invalid(format!(
                    "offset {offset} is not between {} and {}, where queue {queue} of topic {} begins and ends",
                    bounds.min, bounds.next, topic.name
                )));
            }
            (To::TimeMs(time_ms), _) => index.offset_at(topic.id, queue, *time_ms)?,
            (To::MessageId(_), Some(place)) if place.queue == queue => place.offset,
            (To::MessageId(_), place) => {
                let time_ms = place.map_or(0, |place| place.visible_ms);
                index.offset_at(topic.id, queue, time_ms)?
            }
        })
    };
    queues.into_iter().map(|queue| Ok((queue, target(queue)?))).collect()
}

/// Where a visible message stands.
#[derive(Clone, Copy)]
struct MessagePlace {
    queue: u32,
    offset: u64,
    visible_ms: i64,
}

fn place_of(store: &Store, topic: &Topic, id: &str) -> Result<MessagePlace, AdminError> {
    let is_it = |message: &kerolox_core::record::MessageRecord| {
        message.header.message_id == id && message.header.topic_id == topic.id
    };
    let found = store.find(lookup::id_hash(id), &LookupPage::newest(1), is_it)?;
    let place = found.messages.first().and_then(|found| found.standing.place());
    let missing = || {
        let text =
            format!("topic {} has no visible message with id {id}; see mqadmin queryMsgById", topic.name);
        AdminError::not_found(text)
    };
    let (queue, offset) = place.ok_or_else(missing)?;
    let entry = store.state().entry(topic.id, queue, offset)?.ok_or_else(missing)?;
    Ok(MessagePlace { queue, offset, visible_ms: entry.visible_ms })
}

pub(super) fn group_named(store: &Store, name: &str) -> Result<Arc<Group>, AdminError> {
    let missing = || match name {
        "" => AdminError::invalid("name the consumer group"),
        name => AdminError::not_found(format!("there is no consumer group {name:?}")),
    };
    store.state().groups.get(name).filter(|group| group.parent == 0).ok_or_else(missing)
}

/// A consumer group as administrators see it.
pub(super) fn group_config(group: &Group) -> pb::GroupConfig {
    pb::GroupConfig {
        name: group.name.clone(),
        consume_enable: group.consume_enable,
        fifo: group.fifo,
        retry_max_times: group.retry_max_times,
        consume_from_min: group.consume_from_min,
        attributes: group.attributes.clone().into_iter().collect(),
    }
}
