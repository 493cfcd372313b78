//! AckMessage and ChangeInvisibleDuration.
//!
//! # Acknowledge
//!
//! `rpc/messaging/ack.rs` opens the handle, the engine checks its lease, and `delivery/progress.rs` logs the progress
//! that was made while the previous record was synced: one small record for many acknowledgements. A failed delivery is
//! logged when its message is handed out again, so attempts survive a restart.

use std::sync::Arc;

use kerolox_core::delivery::{DeliveryHandle, HandleError, LeaseId};
use kerolox_core::group::StartPosition;
use kerolox_core::lite::is_lite;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_gateway::relay::acks;
use kerolox_gateway::sdk::PlacedEntries;
use kerolox_model::names::in_namespace;
use kerolox_model::token::ReceiptHandle;
use kerolox_proto::v2::{self, AckMessageEntry, AckMessageResultEntry};
use kerolox_runtime::process::now_ms;

use super::receive::invisible_ms;
use super::{Context, stored_group};
use crate::delivery::{MessagePlace, TopicSubscription};

/// Shortest delay that a Node.js consumer can request for a message: its SDK mistakes the seconds of the back-off policy
/// for milliseconds, and would get the message back at once, again and again.
const NODE_BACKOFF_MS_MIN: u64 = 1_000;

/// Acknowledges deliveries of this broker group, and returns the result of each with its index in the request.
pub(super) async fn ack_message(
    context: &Context,
    client: &ClientHeaders,
    named: (Option<&v2::Resource>, Option<&v2::Resource>),
    entries: PlacedEntries<AckMessageEntry>,
) -> Result<PlacedEntries<AckMessageResultEntry>, Refusal> {
    let mut touched: Vec<Arc<TopicSubscription>> = Vec::new();
    let mut results = Vec::with_capacity(entries.len());
    for (place, entry) in entries {
        let acked = open_handle(context, &client.client_id, named, &entry.receipt_handle).await.and_then(
            |(subscription, handle)| {
                let at_ms = now_ms();
                subscription.ack(at_ms, &handle).map_err(|error| refused(&error))?;
                let (group_id, topic_id) = (subscription.group_id(), subscription.topic_id());
                let place =
                    MessagePlace { group_id, topic_id, queue: handle.queue, offset: handle.offset.get() };
                context.deliveries.acknowledged().note(place, &client.client_id, at_ms);
                if !touched.iter().any(|known| Arc::ptr_eq(known, &subscription)) {
                    touched.push(subscription);
                }
                Ok(())
            },
        );
        let status = acked.map_or_else(|refusal| refusal.to_status(client), |()| ok_status());
        results.push((place, acks::result(&entry, &status)));
    }
    // An acknowledgement counts when it is durable.
    for subscription in touched {
        context.deliveries.progress().flush(&subscription).await?;
    }
    Ok(results)
}

/// Changes when a delivered message becomes visible again.
pub(super) async fn change_invisible_duration(
    context: &Context,
    client: &ClientHeaders,
    request: v2::ChangeInvisibleDurationRequest,
) -> Result<v2::ChangeInvisibleDurationResponse, Refusal> {
    let asked_ms = invisible_ms(request.invisible_duration.as_ref(), 0)?;
    let duration_ms = if is_node(context, client) { asked_ms.max(NODE_BACKOFF_MS_MIN) } else { asked_ms };
    let named = (request.group.as_ref(), request.topic.as_ref());
    let (subscription, handle) =
        open_handle(context, &client.client_id, named, &request.receipt_handle).await?;
    let suspend = request.suspend.unwrap_or(false);
    let at_ms = now_ms();
    let changed =
        subscription.change(at_ms, |engine| engine.change_invisible(at_ms, &handle, duration_ms, suspend));
    let changed = changed.map_err(|error| refused(&error))?;
    context.deliveries.progress().flush(&subscription).await?;
    let receipt_handle = match changed {
        Some(handle) => renewed(&request.receipt_handle, &handle)?,
        None => request.receipt_handle,
    };
    Ok(v2::ChangeInvisibleDurationResponse { status: Some(ok_status()), receipt_handle })
}

/// Gives a message up on behalf of its consumer. It becomes a dead letter of the group, or stays and blocks its message
/// group, as the group is configured.
pub(super) async fn forward_to_dead_letter_queue(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::ForwardMessageToDeadLetterQueueRequest,
) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Refusal> {
    let named = (request.group.as_ref(), request.topic.as_ref());
    let (subscription, handle) =
        open_handle(context, &client.client_id, named, &request.receipt_handle).await?;
    let at_ms = now_ms();
    let given_up = subscription.change(at_ms, |engine| engine.give_up(at_ms, &handle));
    given_up.map_err(|error| refused(&error))?;
    context.deliveries.progress().flush(&subscription).await?;
    Ok(v2::ForwardMessageToDeadLetterQueueResponse { status: Some(ok_status()) })
}

/// Resolves a receipt handle to its subscription and delivery. The request names its group and, optionally, its topic.
async fn open_handle(
    context: &Context,
    client: &str,
    (group, topic): (Option<&v2::Resource>, Option<&v2::Resource>),
    text: &str,
) -> Result<(Arc<TopicSubscription>, DeliveryHandle), Refusal> {
    let handle = ReceiptHandle::from_text(text).map_err(|error| Refusal::invalid_receipt_handle(&error))?;
    let invalid = |reason: String| Refusal::invalid_receipt_handle(reason);
    let group_name = stored_group(group)?;
    if group_name != handle.group {
        return Err(invalid(format!(
            "the receipt handle belongs to consumer group {:?}, not {group_name:?}; acknowledge in the group that received",
            handle.group
        )));
    }
    if let Some(named) = topic.map(|topic| in_namespace(&topic.resource_namespace, &topic.name))
        && named != handle.topic
    {
        return Err(invalid(format!(
            "the receipt handle belongs to topic {:?}, not {named:?}; name the topic that the message came from",
            handle.topic
        )));
    }
    let topic = context.log.store().state().topics.by_id(handle.topic_id);
    let topic = topic.ok_or_else(|| {
        invalid(format!("topic {:?}, which the receipt handle belongs to, was deleted", handle.topic))
    })?;
    let group = context.deliveries.holding(&group_name, client).await?;
    let group = group.ok_or_else(|| {
        invalid(format!(
            "client {client:?} has received nothing as a member of the broadcast group {group_name:?}; acknowledge with the client id that received"
        ))
    })?;
    if handle.group_id != 0 && handle.group_id != group.id {
        return Err(invalid(format!(
            "the receipt handle was given to another client of the broadcast group {group_name:?}, or before the group was deleted or made a broadcast group; acknowledge what this client received"
        )));
    }
    let subscription = if is_lite(handle.queue) {
        let found =
            context.deliveries.lite_subscription(&group, &topic, handle.queue, StartPosition::Earliest)?;
        found.ok_or_else(|| {
            invalid("the lite topic, which the receipt handle belongs to, was removed".into())
        })?
    } else {
        context.deliveries.subscription(&group, &topic)?
    };
    let opened = DeliveryHandle {
        queue: handle.queue,
        offset: QueueOffset::new(handle.offset),
        attempt: handle.attempt,
        lease: LeaseId::new(handle.lease),
        visible_ms: handle.invisible_until_ms,
    };
    Ok((subscription, opened))
}

fn renewed(text: &str, renewed: &DeliveryHandle) -> Result<String, Refusal> {
    let handle = ReceiptHandle::from_text(text).map_err(|error| Refusal::invalid_receipt_handle(&error))?;
    Ok(ReceiptHandle { lease: renewed.lease.get(), invisible_until_ms: renewed.visible_ms, ..handle }
        .to_text())
}

fn is_node(context: &Context, client: &ClientHeaders) -> bool {
    let settings = context.clients.settings(&client.client_id);
    let language = settings.and_then(|settings| settings.user_agent.as_ref().map(v2::Ua::language));
    language == Some(v2::Language::NodeJs)
}

fn refused(error: &HandleError) -> Refusal {
    Refusal::invalid_receipt_handle(error)
}
