//! Lite topics for administrators.

use kerolox_core::group::Group;
use kerolox_core::record::LiteTopic;
use kerolox_core::topic::Topic;
use kerolox_proto::kerolox as pb;
use kerolox_store::Store;

use super::admin_error::AdminError;
use super::groups::group_named;
use super::query::topic_named;
use crate::delivery::{DeliveryDirectory, cursors};

/// Lite topics of one page, at the most.
const PAGE_MAX: usize = 1_000;

/// A page of lite topics, by name. Reads the index: call it where blocking is fine.
pub(super) fn list(
    store: &Store,
    deliveries: &DeliveryDirectory,
    request: &pb::ListLitesRequest,
) -> Result<pb::ListLitesResponse, AdminError> {
    let topic = topic_named(store, &request.topic)?;
    let total = store.state().queues.lite_len(topic.id);
    if !topic.has_lites() && total == 0 {
        return Err(AdminError::invalid(format!(
            "topic {name} accepts {types} messages and has no lite topics; one of type LITE has: mqadmin updateTopic -t {name} -a +message.type=LITE",
            name = topic.name,
            types = topic.type_words()
        )));
    }
    let group = match request.group.as_str() {
        "" => None,
        name => {
            let group = group_named(store, name)?;
            Some(cursors(store, &group))
        }
    };
    let limit = match request.limit {
        0 => PAGE_MAX,
        limit => PAGE_MAX.min(limit as usize),
    };
    let page = store.state().lites.with_prefix(topic.id, &request.prefix, &request.after, limit)?;
    let next = page.last().filter(|_| page.len() == limit).map(|lite| lite.name.clone());
    let lites = page.into_iter().map(|lite| status(store, deliveries, &topic, group.as_deref(), lite));
    Ok(pb::ListLitesResponse {
        lites: lites.collect::<Result<_, AdminError>>()?,
        next: next.unwrap_or_default(),
        total,
    })
}

fn status(
    store: &Store,
    deliveries: &DeliveryDirectory,
    topic: &Topic,
    cursors: Option<&[Group]>,
    lite: LiteTopic,
) -> Result<pb::LiteTopicStatus, AdminError> {
    let bounds = store.state().queues.bounds(topic.id, lite.queue);
    let count = |group_id| {
        deliveries.lite_directory().with(|table| table.count(topic.id, lite.queue, group_id)) as u64
    };
    let mut lag = None;
    for cursor in cursors.into_iter().flatten() {
        if let Some(own) = deliveries.lite_lag(cursor, topic, lite.queue)? {
            lag = Some(lag.unwrap_or(0) + own);
        }
    }
    Ok(pb::LiteTopicStatus {
        queue: lite.queue,
        min_offset: bounds.min,
        max_offset: bounds.next,
        created_ms: lite.created_ms,
        last_store_ms: bounds.newest_ms,
        subscribers: match cursors {
            Some(cursors) => cursors.iter().map(|cursor| count(Some(cursor.id))).sum(),
            None => count(None),
        },
        lag,
        name: lite.name,
    })
}
