//! How far groups are behind, and setting where they go on.

use std::collections::HashMap;

use kerolox_proto::kerolox as pb;
use kerolox_proto::v2::describe_group_accumulation_response::GroupAccumulation;
use kerolox_proto::v2::query_time_span_response::QueueTimeSpan;
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::now_ms;

use super::servers::{Master, Servers, known};
use super::{stored, stored_if_any};
use crate::refusal::{Refusal, ok_status};

/// The lag of a group in a queue, and the broker of the queue.
struct GroupQueue {
    broker: String,
    status: pb::GroupQueueStatus,
}

/// All queues of a group, or those of some topics.
async fn queues(servers: &Servers, group: &str, topics: &[v2::Resource]) -> Result<Vec<GroupQueue>, Refusal> {
    let masters = servers.masters(None)?;
    let wanted: Vec<String> = topics.iter().filter_map(|topic| stored_if_any(Some(topic))).collect();
    let ask = pb::DescribeGroupRequest { name: group.to_owned(), topic: String::new() };
    let answers = servers.ask_masters(&masters, ask.clone()).await;
    let mut queues = Vec::new();
    for (broker, answer) in known(answers)? {
        let fit = answer.queues.into_iter();
        let fit = fit.filter(|status| wanted.is_empty() || wanted.contains(&status.topic));
        queues.extend(fit.map(|status| GroupQueue { broker: broker.clone(), status }));
    }
    Ok(queues)
}

/// When the message at an offset was stored; `None` when there is none.
async fn stored_ms(servers: &Servers, masters: &[Master], queue: &GroupQueue, offset: u64) -> Option<i64> {
    let place =
        pb::QueuePlace { queue: queue.status.queue, from: Some(pb::queue_place::From::Offset(offset)) };
    let ask = pb::QueryMessagesRequest {
        topic: queue.status.topic.clone(),
        limit: 1,
        by: Some(pb::query_messages_request::By::Place(place)),
        ..Default::default()
    };
    let master = masters.iter().find(|master| master.broker == queue.broker)?;
    let asked = servers.ask_masters(std::slice::from_ref(master), ask.clone());
    let (_, answer) = asked.await.pop()?;
    answer.ok()?.messages.first().map(|message| message.store_ms)
}

/// DescribeGroupAccumulation.
pub(super) async fn describe(
    servers: &Servers,
    request: &v2::DescribeGroupAccumulationRequest,
) -> Result<v2::DescribeGroupAccumulationResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let masters = servers.masters(None)?;
    let mut all = GroupAccumulation::default();
    let mut by_topic: HashMap<String, GroupAccumulation> = HashMap::new();
    for queue in queues(servers, &group, &request.topics).await? {
        let status = &queue.status;
        let waits = status.lag > 0 && status.lite_topics.is_none();
        let oldest_ms =
            if waits { stored_ms(servers, &masters, &queue, status.consumer_offset).await } else { None };
        let of_topic = by_topic.entry(status.topic.clone()).or_default();
        for sum in [&mut all, of_topic] {
            add(sum, status, oldest_ms);
        }
    }
    let lite = match (&request.lite_topic, request.topics.as_slice()) {
        (Some(lite), [parent]) => lite_accumulation(servers, &masters, &group, parent, lite).await?,
        _ => HashMap::new(),
    };
    Ok(v2::DescribeGroupAccumulationResponse {
        status: Some(ok_status()),
        accumulation: Some(all),
        topic_accumulation: by_topic,
        lite_topic_accumulation: lite,
    })
}

fn add(sum: &mut GroupAccumulation, status: &pb::GroupQueueStatus, oldest_ms: Option<i64>) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sum.inflight_messages += number(status.in_flight);
    sum.ready_messages += number(status.lag - status.in_flight.min(status.lag));
    sum.accumulation += number(status.lag);
    if let Some(age_ms) = oldest_ms.map(|oldest_ms| now_ms().saturating_sub(oldest_ms).max(0)) {
        let known_ms = sum
            .deliver_delay_time
            .map_or(0, |delay| delay.seconds * 1000 + i64::from(delay.nanos) / 1_000_000);
        let most = u64::try_from(age_ms.max(known_ms)).unwrap_or(0);
        sum.deliver_delay_time = prost_types::Duration::try_from(std::time::Duration::from_millis(most)).ok();
    }
}

/// The lag of a group in one lite topic.
async fn lite_accumulation(
    servers: &Servers,
    masters: &[Master],
    group: &str,
    parent: &v2::Resource,
    lite: &str,
) -> Result<HashMap<String, GroupAccumulation>, Refusal> {
    let ask = pb::ListLitesRequest {
        topic: stored(Some(parent), "topic")?,
        prefix: lite.to_owned(),
        group: group.to_owned(),
        ..Default::default()
    };
    let answers = servers.ask_masters(masters, ask.clone()).await;
    let mut sum = GroupAccumulation::default();
    for (_, answer) in known(answers)? {
        for status in answer.lites.iter().filter(|status| status.name == lite) {
            let lag = i64::try_from(status.lag.unwrap_or_default()).unwrap_or(i64::MAX);
            sum.ready_messages += lag;
            sum.accumulation += lag;
        }
    }
    Ok(HashMap::from([(lite.to_owned(), sum)]))
}

/// QueryTimeSpan.
pub(super) async fn time_span(
    servers: &Servers,
    request: &v2::QueryTimeSpanRequest,
) -> Result<v2::QueryTimeSpanResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let masters = servers.masters(None)?;
    let queues = queues(servers, &group, &request.topics).await?;
    let mut spans = Vec::new();
    for queue in queues.iter().filter(|queue| queue.status.lite_topics.is_none()) {
        let status = &queue.status;
        let first = stored_ms(servers, &masters, queue, 0).await.unwrap_or(0);
        let newest = status.broker_offset.saturating_sub(1);
        let last = stored_ms(servers, &masters, queue, newest).await.unwrap_or(0);
        let consumed = stored_ms(servers, &masters, queue, status.consumer_offset).await;
        let resource = |name: &str| v2::Resource { name: name.to_owned(), ..Default::default() };
        spans.push(QueueTimeSpan {
            message_queue: Some(v2::MessageQueue {
                topic: Some(resource(&status.topic)),
                id: i32::try_from(status.queue).unwrap_or(i32::MAX),
                broker: Some(v2::Broker { name: queue.broker.clone(), ..Default::default() }),
                ..Default::default()
            }),
            min_timestamp: first,
            max_timestamp: last,
            consume_timestamp: consumed.unwrap_or(last),
            delay_time_ms: consumed.map_or(0, |consumed| now_ms().saturating_sub(consumed).max(0)),
        });
    }
    Ok(v2::QueryTimeSpanResponse { status: Some(ok_status()), queue_time_span_list: spans })
}

/// ResetGroupOffset.
pub(super) async fn reset(
    servers: &Servers,
    request: &v2::ResetGroupOffsetRequest,
) -> Result<v2::ResetGroupOffsetResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let topic = stored(request.topic.as_ref(), "topic")?;
    let time = request.reset_timestamp.ok_or_else(|| {
        Refusal::new(Code::BadRequest, "the request does not say where to go; set reset_timestamp")
    })?;
    let time_ms = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000);
    let masters = servers.masters(Some(&topic))?;
    let ask = pb::ResetOffsetsRequest {
        group,
        topic,
        to: Some(pb::reset_offsets_request::To::TimeMs(time_ms)),
        ..Default::default()
    };
    known(servers.ask_masters(&masters, ask.clone()).await)?;
    Ok(v2::ResetGroupOffsetResponse { status: Some(ok_status()) })
}
