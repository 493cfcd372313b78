//! Lite topics: SyncLiteSubscription, and ReceiveMessage below a topic of type LITE.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kerolox_core::group::{Group, StartPosition};
use kerolox_core::lite::{self, EvictedSubscription, OverQuota, SubscriptionAction, SubscriptionChange};
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::topic::Topic;
use kerolox_gateway::access::ItemStream;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::lite::sync_everywhere;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code, LiteSubscriptionAction, offset_option};
use kerolox_runtime::process::now_ms;
use kerolox_store::StoreError;
use tonic::Request;

use super::Context;
use super::batch::Batch;
use super::other_groups::OtherGroups;
use super::receive::{Waited, Wanted, wait};
use super::receiver::{Looked, Receiver};
use crate::delivery::{LiteInbox, TopicSubscription};
use crate::metadata::LiteError;
use crate::pace::Step;
use crate::refused::refused_by_store;

/// The queues of the lite topics with these names, by name; missing ones are created.
pub(super) async fn queues<'a>(
    context: &Context,
    topic: &Topic,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<&'a str, u32>, Refusal> {
    let names: BTreeSet<&str> = names.collect();
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let made = context.metadata.put_lites(topic, &names, context.lite.max_topics).await;
    let queues = made.map_err(|error| match error {
        LiteError::TooMany { .. } | LiteError::NoNumbers => {
            Refusal::new(Code::LiteTopicQuotaExceeded, error.to_string())
        }
        LiteError::NoTopic(name) => Refusal::topic_not_found(&name),
        LiteError::Store(error) => refused_by_store(&error),
        LiteError::Log(refusal) => refusal.into(),
    })?;
    Ok(std::iter::zip(names, queues).collect())
}

/// Hands out messages of the lite topics that the client subscribes to, waiting for some if there are none.
pub(super) async fn receive(
    context: &Arc<Context>,
    client: &ClientHeaders,
    wanted: &Wanted,
    mut others: OtherGroups<'_>,
) -> Result<ItemStream<raw::ReceiveMessageResponse>, Refusal> {
    check_bound(&wanted.group, &wanted.topic)?;
    // SDKs ask only one broker group, for ever.
    if let Some(found) = others.take_turn().await {
        return Ok(found);
    }
    let client = &client.client_id;
    let inbox = context.deliveries.lite_directory().inbox(wanted.topic.id, wanted.group.id, client);
    if let Some(attempt_id) = &wanted.attempt_id {
        inbox.repeat(attempt_id);
    }
    let mut pace = context.scans.pace();
    loop {
        let (batch, is_all) = gather(context, client, wanted, &inbox)?;
        if !batch.is_empty() {
            inbox.pass_on();
            return Ok(Box::pin(batch));
        }
        let goes_on = if is_all {
            pace.stop();
            match wait(context, wanted, inbox.arrival(), &others).await {
                Waited::Arrival => true,
                Waited::Others => match others.ask().await {
                    Some(found) => {
                        inbox.pass_on();
                        return Ok(found);
                    }
                    None => true,
                },
                Waited::End => false,
            }
        } else {
            !context.shutdown.is_requested() && pace.rest(wanted.scan_until).await
        };
        if !goes_on {
            inbox.pass_on();
            return Err(Refusal::new(Code::MessageNotFound, "no new message"));
        }
    }
}

/// Takes messages of the ready lite topics, one after the other, in one step. The flag tells whether it tried all ready
/// ones.
fn gather(
    context: &Arc<Context>,
    client: &str,
    wanted: &Wanted,
    inbox: &LiteInbox,
) -> Result<(Batch, bool), Refusal> {
    let mut step = Step::begin();
    let mut is_all = true;
    let mut batch = Batch::new(context.clone(), wanted.way.clone(), wanted.deadline);
    let mut queues = Vec::new();
    let directory = context.deliveries.lite_directory();
    let is_subscribed = |queue| {
        let (topic_id, group_id) = (wanted.topic.id, wanted.group.id);
        directory.with(|table| table.is_subscribed(topic_id, group_id, client, queue))
    };
    while batch.len() < wanted.max {
        if step.is_over() {
            is_all = false;
            break;
        }
        let Some(queue) = inbox.pop() else { break };
        if !is_subscribed(queue) {
            continue;
        }
        let Some(subscription) = subscription(context, wanted, queue).inspect_err(|_| inbox.push(queue))?
        else {
            continue;
        };
        let waiter = subscription.join(now_ms(), client, &wanted.filter);
        let max = wanted.max - batch.len();
        let receiver = Receiver { context, client, wanted, subscription: &subscription, max };
        match receiver.step_here(&waiter, &mut step).inspect_err(|_| inbox.push(queue))? {
            Looked::Found(messages) => {
                queues.push(queue);
                batch.add(&subscription, messages);
            }
            Looked::NotYet => inbox.push(queue),
            Looked::Nothing => {}
        }
    }
    if let Some(attempt_id) = &wanted.attempt_id
        && !queues.is_empty()
    {
        inbox.note_attempt(attempt_id, queues);
    }
    Ok((batch, is_all))
}

fn subscription(
    context: &Context,
    wanted: &Wanted,
    queue: u32,
) -> Result<Option<Arc<TopicSubscription>>, Refusal> {
    context.deliveries.lite_subscription(&wanted.group, &wanted.topic, queue, StartPosition::Earliest)
}

/// Changes which lite topics a client subscribes to, here and on the other brokers of their parent.
pub(super) async fn sync_lite_subscription(
    context: &Context,
    client: &ClientHeaders,
    request: Request<v2::SyncLiteSubscriptionRequest>,
) -> Result<v2::SyncLiteSubscriptionResponse, Refusal> {
    let (metadata, _, message) = request.into_parts();
    sync_here(context, client, &message).await?;
    // A new topic may not be in the routes yet; clients repeat their subscriptions.
    let owners = context.routes.readable_groups(message.topic.as_ref()).unwrap_or_default();
    let others = owners.into_iter().filter(|owner| context.is_foreign(owner)).collect::<Vec<_>>();
    sync_everywhere(&context.relay, others, metadata, &message).await?;
    Ok(v2::SyncLiteSubscriptionResponse { status: Some(ok_status()) })
}

async fn sync_here(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::SyncLiteSubscriptionRequest,
) -> Result<(), Refusal> {
    let topic = context.topic(request.topic.as_ref())?;
    if !topic.has_lites() {
        return Err(Refusal::new(
            Code::IllegalTopic,
            format!(
                "topic {name} accepts {types} messages and has no lite topics; subscribe below one of type LITE: mqadmin updateTopic -t {name} -a +message.type=LITE",
                name = topic.name,
                types = topic.type_words()
            ),
        ));
    }
    let group = super::stored_group(request.group.as_ref())?;
    let group = context.deliveries.consuming(&group, &client.client_id).await?;
    check_bound(&group, &topic)?;
    let names = names(request)?;
    let change = SubscriptionChange {
        topic_id: topic.id,
        group_id: group.id,
        client: &client.client_id,
        action: match request.action() {
            LiteSubscriptionAction::PartialAdd => SubscriptionAction::Add,
            LiteSubscriptionAction::CompleteAdd => SubscriptionAction::Replace,
            LiteSubscriptionAction::PartialRemove => SubscriptionAction::Remove,
            LiteSubscriptionAction::CompleteRemove => SubscriptionAction::RemoveAll,
        },
        names: Vec::new(),
        version: request.version,
        model: lite::model(&group),
        quota: lite::client_quota(&group),
    };
    let (found, evicted) = change_subscriptions(context, change, names)?;
    for EvictedSubscription { client, lite_topic } in evicted {
        tell_evicted(context, &client, lite_topic);
    }
    if matches!(request.action(), LiteSubscriptionAction::PartialAdd | LiteSubscriptionAction::CompleteAdd) {
        for queue in found {
            begin(context, &group, &topic, queue, request.offset_option.as_ref()).await?;
        }
    }
    Ok(())
}

/// The lite topics of a request, without duplicates.
fn names(request: &v2::SyncLiteSubscriptionRequest) -> Result<HashSet<&str>, Refusal> {
    let names: HashSet<&str> = request.lite_topic_set.iter().map(String::as_str).collect();
    for name in &names {
        lite::check_name(name).map_err(|reason| Refusal::new(Code::IllegalLiteTopic, reason))?;
    }
    Ok(names)
}

/// Changes the subscriptions; returns the queues of the lite topics that exist, and the subscriptions that others lost.
fn change_subscriptions(
    context: &Context,
    change: SubscriptionChange<'_>,
    names: HashSet<&str>,
) -> Result<(Vec<u32>, Vec<EvictedSubscription>), Refusal> {
    // Held until the change is made: a lite topic that is created meanwhile then finds its subscribers.
    let index = context.log.store().state();
    let found = names.into_iter().map(|name| {
        let queue = index.lites.get(change.topic_id, name)?.map(|lite| lite.queue);
        Ok((name.to_owned(), queue))
    });
    let names = found.collect::<Result<Vec<_>, StoreError>>().map_err(|error| refused_by_store(&error))?;
    let queues = names.iter().filter_map(|(_, queue)| *queue).collect();
    let synced = context
        .deliveries
        .lite_directory()
        .sync(&SubscriptionChange { names, ..change }, context.lite.max_subscriptions);
    drop(index);
    let evicted = synced.map_err(|over| {
        let text = match over {
            OverQuota::Client(quota) => format!(
                "the client may subscribe to {quota} lite topics; unsubscribe from some, or raise the group's lite.sub.client.quota"
            ),
            OverQuota::Broker(quota) => format!(
                "the clients of broker {} subscribe to {quota} lite topics, which is the limit; have the operator raise lite.max-subscriptions",
                context.broker
            ),
        };
        Refusal::new(Code::LiteSubscriptionQuotaExceeded, text)
    })?;
    Ok((queues, evicted))
}

/// Tells a client that another one of its group now has a lite topic exclusively.
fn tell_evicted(context: &Context, client: &str, lite_topic: String) {
    tracing::debug!(client, lite_topic, "another client took over an exclusive lite topic");
    let command = v2::NotifyUnsubscribeLiteCommand { lite_topic };
    let command = v2::TelemetryCommand {
        status: Some(ok_status()),
        command: Some(v2::telemetry_command::Command::NotifyUnsubscribeLiteCommand(command)),
    };
    // The new subscriber need not wait for that.
    let (reach, client) = (context.reach.clone(), client.to_owned());
    tokio::spawn(async move {
        if !reach.tell(&client, command).await {
            tracing::debug!(client, "the client cannot be notified that it lost a lite topic");
        }
    });
}

/// The start of the group in a lite topic, if it is new to it or requests an offset.
async fn begin(
    context: &Context,
    group: &Group,
    topic: &Topic,
    queue: u32,
    option: Option<&v2::OffsetOption>,
) -> Result<(), Refusal> {
    let start = group.start();
    let place = option.and_then(|option| option.offset_type);
    let is_last = matches!(place, None | Some(offset_option::OffsetType::Policy(0)));
    if is_last && start == StartPosition::Earliest {
        return Ok(());
    }
    let Some(subscription) = context.deliveries.lite_subscription(group, topic, queue, start)? else {
        return Ok(());
    };
    if let Some(offset) = offset_of(context, topic, queue, place).map_err(|error| refused_by_store(&error))? {
        subscription.change(now_ms(), |engine| engine.reset(queue, QueueOffset::new(offset)));
    }
    Ok(context.deliveries.progress().flush(&subscription).await?)
}

/// The offset of an option; `None` for the group's own position.
fn offset_of(
    context: &Context,
    topic: &Topic,
    queue: u32,
    place: Option<offset_option::OffsetType>,
) -> Result<Option<u64>, StoreError> {
    use offset_option::{OffsetType, Policy};
    let index = context.log.store().state();
    let bounds = index.queues.bounds(topic.id, queue);
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let offset = match place {
        Some(OffsetType::Policy(policy)) => match Policy::try_from(policy) {
            Ok(Policy::Min) => bounds.min,
            Ok(Policy::Max) => bounds.next,
            Ok(Policy::Last) | Err(_) => return Ok(None),
        },
        Some(OffsetType::Offset(offset)) => number(offset),
        Some(OffsetType::TailN(count)) => bounds.next.saturating_sub(number(count)),
        Some(OffsetType::Timestamp(time_ms)) => index.offset_at(topic.id, queue, time_ms)?,
        None => return Ok(None),
    };
    Ok(Some(offset.clamp(bounds.min, bounds.next)))
}

/// Refuses a parent other than the one that the group is bound to.
fn check_bound(group: &Group, topic: &Topic) -> Result<(), Refusal> {
    match lite::bound_to(group) {
        Some(bound) if bound != topic.name => Err(Refusal::new(
            Code::IllegalConsumerGroup,
            format!(
                "the group {group} consumes lite topics of {bound} only, not of {topic}; change it with mqadmin updateSubGroup -g {group} --attributes +{key}={topic}",
                group = group.public_name(),
                topic = topic.name,
                key = lite::BIND_ATTRIBUTE,
            ),
        )),
        _ => Ok(()),
    }
}
