//! Answers to clients out of the route table, in the form that every official SDK can use.
//!
//! Two SDKs take every queue of an answer for usable, whatever its permission or broker id; so slaves are never
//! listed as brokers of their own, and neither are read-only queues of a topic that can be written elsewhere. Queues of a group
//! that withholds permissions are: their messages are to be consumed, and the group passes on late sends.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kerolox_model::names::{in_namespace, may_be_auto_created, validate_topic};
use kerolox_proto::kerolox::TopicRoute;
use kerolox_proto::v2::{self, Code, MessageType, Permission};

use super::registration::{BrokerIdentity, BrokerRegistration};
use super::view::GroupView;
use crate::refusal::Refusal;

/// Queue id that stands for all queues of a broker.
pub const ALL_QUEUES: i32 = -1;

const WRITE_BIT: u32 = 2;
const READ_BIT: u32 = 4;

/// Types of which the first message of a topic may be that is made with it.
const AUTO_CREATED_TYPES: [i32; 5] = [
    MessageType::Normal as i32,
    MessageType::Fifo as i32,
    MessageType::Delay as i32,
    MessageType::Transaction as i32,
    MessageType::Priority as i32,
];

type Brokers<'a> = BTreeMap<BrokerIdentity, &'a BrokerRegistration>;

/// Checks the topic that a client names and gives the name under which brokers store it.
///
/// # Errors
/// ILLEGAL_TOPIC.
pub fn stored_topic(topic: Option<&v2::Resource>) -> Result<String, Refusal> {
    let topic = topic.ok_or_else(|| {
        Refusal::new(
            Code::IllegalTopic,
            "the request names no topic; set its `topic` field to the topic's name",
        )
    })?;
    validate_topic(&topic.name).map_err(|error| Refusal::illegal_topic(&error))?;
    Ok(in_namespace(&topic.resource_namespace, &topic.name))
}

/// The queues of a topic. Broker groups take turns, so that a client that goes through the queues is not long at one of them; where
/// SDKs find the queue of a message group or lite topic by its place in the list, each group has its queues together, an order that
/// topics keep from their first day. `instead` stands for the addresses of
/// groups with slaves: for clients that can use only one.
///
/// # Errors
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, INTERNAL_SERVER_ERROR when a broker group that may have it has no master, or FORBIDDEN when no queue may be read or written.
pub fn message_queues(
    brokers: &Brokers<'_>,
    topic: &v2::Resource,
    instead: Option<&v2::Endpoints>,
) -> Result<Vec<v2::MessageQueue>, Refusal> {
    let stored = stored_topic(Some(topic))?;
    let mut queues = Vec::new();
    for (group, route) in groups_of(brokers, topic, &stored)? {
        let (broker, withholds) = (group.to_v2(instead), group.speaker().withholds());
        for id in 0..route.read_queues.max(route.write_queues) {
            let permission = permission(id < route.read_queues, id < route.write_queues, route.perm);
            if permission != Permission::None {
                let queue = message_queue(topic, broker.clone(), &route, queue_number(id), permission);
                queues.push((queue, withholds));
            }
        }
    }
    let is_writable =
        |queue: &v2::MessageQueue| matches!(queue.permission(), Permission::Write | Permission::ReadWrite);
    if queues.iter().any(|(queue, _)| is_writable(queue)) {
        queues.retain(|(queue, withholds)| *withholds || is_writable(queue));
    }
    let mut queues: Vec<_> = queues.into_iter().map(|(queue, _)| queue).collect();
    if !queues.iter().any(is_chosen_by_place) {
        // The sort is stable: queues of one number stay in the order of the groups.
        queues.sort_by_key(|queue| queue.id);
    }
    if queues.is_empty() {
        return Err(Refusal::new(
            Code::Forbidden,
            format!(
                "the topic {stored:?} may be neither read nor written; change its perm with `mqadmin updateTopic`"
            ),
        ));
    }
    Ok(queues)
}

/// The queues that a consumer is to receive from: every readable broker of the topic, as one queue with the id
/// [`ALL_QUEUES`].
///
/// All members of a consumer group get the same list; brokers share out the messages among them. For `instead` see
/// [`message_queues`].
///
/// # Errors
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, INTERNAL_SERVER_ERROR when a broker group that may have it has no master, or FORBIDDEN when the topic may not be read.
pub fn assignments(
    brokers: &Brokers<'_>,
    topic: &v2::Resource,
    instead: Option<&v2::Endpoints>,
) -> Result<Vec<v2::Assignment>, Refusal> {
    let stored = stored_topic(Some(topic))?;
    let mut assignments = Vec::new();
    for (group, route) in groups_of(brokers, topic, &stored)? {
        let permission = permission(route.read_queues > 0, route.write_queues > 0, route.perm);
        if matches!(permission, Permission::Read | Permission::ReadWrite) {
            let queue = message_queue(topic, group.to_v2(instead), &route, ALL_QUEUES, permission);
            assignments.push(v2::Assignment { message_queue: Some(queue) });
        }
    }
    if assignments.is_empty() {
        return Err(Refusal::new(
            Code::Forbidden,
            format!("the topic {stored:?} may not be read; change its perm with `mqadmin updateTopic`"),
        ));
    }
    Ok(assignments)
}

/// Names of the broker groups that accept messages of the topic, in stable order.
///
/// # Errors
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, INTERNAL_SERVER_ERROR when a broker group that may have it has no master, or FORBIDDEN when the topic may not be written.
pub fn writable_groups(brokers: &Brokers<'_>, topic: Option<&v2::Resource>) -> Result<Vec<String>, Refusal> {
    let stored = stored_topic(topic)?;
    let groups = groups_of(brokers, &topic.cloned().unwrap_or_default(), &stored)?;
    let is_writable = |route: &TopicRoute| route.perm & WRITE_BIT != 0 && route.write_queues > 0;
    let writable = groups.into_iter().filter(|(_, route)| is_writable(route));
    let names: Vec<String> = writable.map(|(group, _)| group.speaker().group().to_owned()).collect();
    if names.is_empty() {
        return Err(Refusal::new(
            Code::Forbidden,
            format!("the topic {stored:?} may not be written; change its perm with `mqadmin updateTopic`"),
        ));
    }
    Ok(names)
}

/// The route of a topic by the groups that are believed to be there: from the speaker of a group that has it.
pub(super) fn topic<'a>(brokers: &Brokers<'a>, stored: &str) -> Option<&'a TopicRoute> {
    GroupView::all(brokers).iter().find_map(|group| group.speaker().topic(stored))
}

/// The broker groups that have a topic, each with what it says of it. Those that make topics with their first message count as
/// if they had it, unless the topic was made on other brokers on purpose.
///
/// Nothing is made by asking: a query does not tell a producer from a consumer.
fn groups_of<'a>(
    brokers: &Brokers<'a>,
    topic: &v2::Resource,
    stored: &str,
) -> Result<Vec<(GroupView<'a>, Cow<'a, TopicRoute>)>, Refusal> {
    let groups = GroupView::all(brokers);
    let known = groups.iter().find_map(|group| Some((group.speaker(), group.speaker().topic(stored)?)));
    let promised = |broker: &BrokerRegistration| match known {
        None if may_be_auto_created(&topic.name) => broker.promise(stored, AUTO_CREATED_TYPES.to_vec()),
        Some((owner, route)) if route.auto_created && owner.cluster() == broker.cluster() => {
            broker.promise(stored, route.message_types.clone())
        }
        _ => None,
    };
    let is_unknown = groups.is_empty();
    let masterless = |group: &&GroupView<'a>| !group.speaker().is_master();
    let without: Vec<&str> = groups.iter().filter(masterless).map(|group| group.speaker().group()).collect();
    let route = |group: GroupView<'a>| match group.speaker().topic(stored) {
        Some(route) => Some((group, Cow::Borrowed(route))),
        None => {
            let route = promised(group.speaker())?;
            Some((group, Cow::Owned(route)))
        }
    };
    let found: Vec<_> = groups.into_iter().filter_map(route).collect();
    match found.is_empty() {
        false => Ok(found),
        true if is_unknown => Err(Refusal::no_broker(stored)),
        true if !without.is_empty() => Err(Refusal::no_master(stored, &without)),
        true => Err(Refusal::topic_not_found(stored)),
    }
}

fn permission(has_read_queue: bool, has_write_queue: bool, perm: u32) -> Permission {
    match (has_read_queue && perm & READ_BIT != 0, has_write_queue && perm & WRITE_BIT != 0) {
        (true, true) => Permission::ReadWrite,
        (true, false) => Permission::Read,
        (false, true) => Permission::Write,
        (false, false) => Permission::None,
    }
}

fn message_queue(
    topic: &v2::Resource,
    broker: v2::Broker,
    route: &TopicRoute,
    id: i32,
    permission: Permission,
) -> v2::MessageQueue {
    v2::MessageQueue {
        topic: Some(topic.clone()),
        id,
        permission: permission.into(),
        broker: Some(broker),
        accept_message_types: route.message_types.clone(),
    }
}

/// Whether producers compute a queue from its place among all of the topic.
fn is_chosen_by_place(queue: &v2::MessageQueue) -> bool {
    queue.accept_message_types().any(|kind| matches!(kind, MessageType::Fifo | MessageType::Lite))
}

fn queue_number(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}
