//! QueryOffset, GetOffset and UpdateOffset: for consumers that manage their own offsets.

use std::sync::Arc;

use kerolox_core::topic::Topic;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_proto::v2::{self, Code, QueryOffsetPolicy};

use super::{Context, stored_group};
use crate::refused::refused_by_store;

/// The beginning or the end of a queue, or the offset of its first message that became visible at or after a time.
pub(super) fn query_offset(
    context: &Context,
    request: &v2::QueryOffsetRequest,
) -> Result<v2::QueryOffsetResponse, Refusal> {
    let (topic, queue) = queue_of(context, request.message_queue.as_ref())?;
    let index = context.log.store().state();
    let bounds = index.queues.bounds(topic.id, queue);
    let policy = QueryOffsetPolicy::try_from(request.query_offset_policy).map_err(|_| {
        let number = request.query_offset_policy;
        let reason = format!("{number} is no policy; set BEGINNING (0), END (1) or TIMESTAMP (2)");
        Refusal::new(Code::BadRequest, reason)
    })?;
    let offset = match policy {
        QueryOffsetPolicy::Beginning => bounds.min,
        QueryOffsetPolicy::End => bounds.next,
        QueryOffsetPolicy::Timestamp => {
            let time = request.timestamp.as_ref().ok_or_else(|| {
                let reason = "the policy is TIMESTAMP, but the request names no time; set its `timestamp`";
                Refusal::new(Code::BadRequest, reason)
            })?;
            let time_ms = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000);
            index.offset_at(topic.id, queue, time_ms).map_err(|error| refused_by_store(&error))?
        }
    };
    Ok(v2::QueryOffsetResponse { status: Some(ok_status()), offset: offset.cast_signed() })
}

/// The offset below which a group has finished everything in a queue.
pub(super) fn get_offset(
    context: &Context,
    request: &v2::GetOffsetRequest,
) -> Result<v2::GetOffsetResponse, Refusal> {
    let group_name = stored_group(request.group.as_ref())?;
    let (topic, queue) = queue_of(context, request.message_queue.as_ref())?;
    let index = context.log.store().state();
    let group = index.groups.get(&group_name).ok_or_else(|| {
        let reason =
            format!("there is no consumer group {group_name:?}; it is created when it first receives");
        Refusal::new(Code::ConsumerGroupNotFound, reason)
    })?;
    let acks = index.acks(group.id, topic.id, queue).map_err(|error| refused_by_store(&error))?;
    let acks = acks.ok_or_else(|| {
        Refusal::new(
            Code::OffsetNotFound,
            format!(
                "consumer group {group_name:?} has no offset in queue {queue} of topic {:?} yet; start with one from QueryOffset",
                topic.name
            ),
        )
    })?;
    Ok(v2::GetOffsetResponse { status: Some(ok_status()), offset: acks.committed().get().cast_signed() })
}

/// Sets a group's offset in a queue; durable when answered.
pub(super) async fn update_offset(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::UpdateOffsetRequest,
) -> Result<v2::UpdateOffsetResponse, Refusal> {
    let (topic, queue) = queue_of(context, request.message_queue.as_ref())?;
    let group = context.group(request.group.as_ref(), &client.client_id).await?;
    let end = context.log.store().state().queues.bounds(topic.id, queue).next;
    let offset = u64::try_from(request.offset).ok().filter(|offset| *offset <= end);
    let offset = offset.ok_or_else(|| illegal_offset(&topic, queue, request.offset, 0, end))?;
    context.deliveries.reset(&group, &topic, [(queue, offset)]).await?;
    Ok(v2::UpdateOffsetResponse { status: Some(ok_status()) })
}

/// The topic and the number of the queue that a request names.
pub(super) fn queue_of(
    context: &Context,
    queue: Option<&v2::MessageQueue>,
) -> Result<(Arc<Topic>, u32), Refusal> {
    let topic = context.topic(queue.and_then(|queue| queue.topic.as_ref()))?;
    let id = queue.map_or(0, |queue| queue.id);
    let number = u32::try_from(id).ok().filter(|number| *number < topic.read_queues);
    let number = number.ok_or_else(|| {
        Refusal::new(
            Code::BadRequest,
            format!(
                "topic {:?} has no queue {id} on broker {}; its queues are 0 to {}",
                topic.name,
                context.broker,
                topic.read_queues.saturating_sub(1)
            ),
        )
    })?;
    Ok((topic, number))
}

pub(super) fn illegal_offset(topic: &Topic, queue: u32, offset: i64, min: u64, end: u64) -> Refusal {
    Refusal::new(
        Code::IllegalOffset,
        format!(
            "offset {offset} is not between {min} and {end}, where queue {queue} of topic {:?} begins and ends",
            topic.name
        ),
    )
}
