//! What administrators see of topics.

use kerolox_core::slots::MovingSlots;
use kerolox_core::topic::Topic;
use kerolox_proto::kerolox as pb;
use kerolox_store::Store;

use super::admin_error::AdminError;

/// A topic and its queues.
pub(super) fn describe(store: &Store, name: &str) -> Result<pb::DescribeTopicResponse, AdminError> {
    let index = store.state();
    let missing = || AdminError::not_found(format!("there is no topic {name:?}; see mqadmin topicList"));
    let topic = index.topics.get(name).ok_or_else(missing)?;
    let queue_status = |queue| {
        let bounds = index.queues.bounds(topic.id, queue);
        pb::QueueStatus {
            queue,
            min_offset: bounds.min,
            max_offset: bounds.next,
            last_store_ms: bounds.newest_ms,
        }
    };
    let moving = index.ordering.get(topic.id);
    let left = moving.into_iter().flat_map(MovingSlots::marks);
    Ok(pb::DescribeTopicResponse {
        left_queues: left.map(|(queue, finished_before)| pb::LeftQueue { queue, finished_before }).collect(),
        moving_slots: moving.map_or(0, MovingSlots::slots),
        topic: Some(topic_config(&topic)),
        queues: (0..topic.read_queues).map(queue_status).collect(),
        undecided_transactions: index.transactions.open(topic.id),
        scheduled_messages: index.timers.open(topic.id),
    })
}

/// The settings of a topic as administrators see them.
pub(super) fn topic_config(topic: &Topic) -> pb::TopicConfig {
    pb::TopicConfig {
        name: topic.name.clone(),
        read_queues: topic.read_queues,
        write_queues: topic.write_queues,
        perm: topic.perm,
        message_types: topic.types.clone(),
        attributes: topic.attributes.clone().into_iter().collect(),
    }
}
