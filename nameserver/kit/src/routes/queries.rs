//! Answers to clients out of the route table, in the form that every official SDK can use.
//!
//! Two SDKs take every queue of an answer for usable, whatever its permission or broker id; so slaves are never
//! listed, and neither are read-only queues of a topic that can be written elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kerolox_model::names::{in_namespace, may_be_auto_created, validate_topic};
use kerolox_proto::kerolox::TopicRoute;
use kerolox_proto::v2::{self, Code, Permission};

use super::registration::{MemberId, Registration};
use crate::refusal::Refusal;

/// Queue id that stands for all queues of a broker.
pub const ALL_QUEUES: i32 = -1;

const WRITE_BIT: u32 = 2;
const READ_BIT: u32 = 4;

/// Types of which the first message of a topic may be that is made with it.
const AUTO_CREATED_TYPES: [i32; 5] = [
    v2::MessageType::Normal as i32,
    v2::MessageType::Fifo as i32,
    v2::MessageType::Delay as i32,
    v2::MessageType::Transaction as i32,
    v2::MessageType::Priority as i32,
];

type Brokers<'a> = BTreeMap<MemberId, &'a Registration>;

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

/// The queues of a topic, ordered by broker group and queue number.
///
/// # Errors
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, or FORBIDDEN when no queue may be read or written.
pub fn message_queues(brokers: &Brokers<'_>, topic: &v2::Resource) -> Result<Vec<v2::MessageQueue>, Refusal> {
    let stored = stored_topic(Some(topic))?;
    let mut queues = Vec::new();
    for (broker, route) in masters_of(brokers, topic, &stored)? {
        for id in 0..route.read_queues.max(route.write_queues) {
            let permission = permission(id < route.read_queues, id < route.write_queues, route.perm);
            if permission != Permission::None {
                queues.push(message_queue(topic, broker, &route, queue_number(id), permission));
            }
        }
    }
    let is_writable =
        |queue: &v2::MessageQueue| matches!(queue.permission(), Permission::Write | Permission::ReadWrite);
    if queues.iter().any(is_writable) {
        queues.retain(is_writable);
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

/// What a consumer is to receive from: every readable broker of the topic, as one queue with the id [`ALL_QUEUES`].
///
/// All members of a group get the same list; brokers share out the messages among them.
///
/// # Errors
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, or FORBIDDEN when the topic may not be read.
pub fn assignments(brokers: &Brokers<'_>, topic: &v2::Resource) -> Result<Vec<v2::Assignment>, Refusal> {
    let stored = stored_topic(Some(topic))?;
    let mut assignments = Vec::new();
    for (broker, route) in masters_of(brokers, topic, &stored)? {
        let permission = permission(route.read_queues > 0, route.write_queues > 0, route.perm);
        if matches!(permission, Permission::Read | Permission::ReadWrite) {
            let queue = message_queue(topic, broker, &route, ALL_QUEUES, permission);
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
/// ILLEGAL_TOPIC, TOPIC_NOT_FOUND, or FORBIDDEN when the topic may not be written.
pub fn writable_groups(brokers: &Brokers<'_>, topic: Option<&v2::Resource>) -> Result<Vec<String>, Refusal> {
    let stored = stored_topic(topic)?;
    let masters = masters_of(brokers, &topic.cloned().unwrap_or_default(), &stored)?;
    let is_writable = |route: &TopicRoute| route.perm & WRITE_BIT != 0 && route.write_queues > 0;
    let writable = masters.into_iter().filter(|(_, route)| is_writable(route));
    let groups: Vec<String> = writable.map(|(broker, _)| broker.group().to_owned()).collect();
    if groups.is_empty() {
        return Err(Refusal::new(
            Code::Forbidden,
            format!("the topic {stored:?} may not be written; change its perm with `mqadmin updateTopic`"),
        ));
    }
    Ok(groups)
}

/// The masters that have a topic, each with what it says of it. Those that make topics with their first message count as if
/// they had it, unless it is a topic that somebody made on other brokers on purpose.
///
/// Nothing is made by asking: a query does not tell a producer from a consumer.
fn masters_of<'a>(
    brokers: &'a Brokers<'_>,
    topic: &v2::Resource,
    stored: &str,
) -> Result<Vec<(&'a Registration, Cow<'a, TopicRoute>)>, Refusal> {
    let masters = || brokers.values().filter(|broker| broker.is_master());
    let known: Vec<_> = masters().filter_map(|broker| Some((*broker, broker.topic(stored)?))).collect();
    let promised = |broker: &Registration| match known.first() {
        None if may_be_auto_created(&topic.name) => broker.promise(stored, AUTO_CREATED_TYPES.to_vec()),
        Some((owner, route)) if route.auto_created && owner.cluster() == broker.cluster() => {
            broker.promise(stored, route.message_types.clone())
        }
        _ => None,
    };
    let route = |broker: &'a Registration| match broker.topic(stored) {
        Some(route) => Some((broker, Cow::Borrowed(route))),
        None => Some((broker, Cow::Owned(promised(broker)?))),
    };
    let found: Vec<_> = masters().filter_map(|broker| route(broker)).collect();
    if found.is_empty() { Err(Refusal::topic_not_found(stored)) } else { Ok(found) }
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
    broker: &Registration,
    route: &TopicRoute,
    id: i32,
    permission: Permission,
) -> v2::MessageQueue {
    v2::MessageQueue {
        topic: Some(topic.clone()),
        id,
        permission: permission.into(),
        broker: Some(broker.to_v2()),
        accept_message_types: route.message_types.clone(),
    }
}

fn queue_number(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}
