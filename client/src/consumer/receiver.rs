//! What simple and push consumers have in common: which queues to ask, how to receive from one, and how to settle a delivery.

use super::acks::Acks;
use crate::client::Client;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::filter::FilterExpression;
use crate::member::{
    AbortOnDrop, LOST_REFRESH, LOST_REFRESHES, Member, Profile, ROUTE_REFRESH, has_lost_broker,
};
use crate::observer::{Noted, Operation};
use crate::retry::RetryPolicy;
use crate::route::Queue;
use crate::rpc::{Link, messaging};
use kerolox_proto::v2;
use kerolox_proto::v2::receive_message_response::Content;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument as _;

/// What a consumer asks for; what the builders collect.
#[derive(Debug)]
pub(crate) struct Wishes {
    pub(crate) client: Client,
    pub(crate) group: String,
    pub(crate) subscriptions: BTreeMap<String, FilterExpression>,
    /// How long a receive waits for a first message.
    pub(crate) await_duration: Duration,
    /// How acknowledgements are retried.
    pub(crate) policy: RetryPolicy,
    /// The client id, if it is not to be a new one.
    pub(crate) client_id: Option<String>,
    /// Gets the names of lite topics that the servers take away.
    pub(crate) evictions: Option<mpsc::UnboundedSender<String>>,
}

impl Wishes {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            client,
            group,
            subscriptions: BTreeMap::new(),
            await_duration: Duration::from_secs(20),
            policy: RetryPolicy::default(),
            client_id: None,
            evictions: None,
        }
    }
}

/// Pauses between receives that fail.
pub(crate) fn receiving() -> RetryPolicy {
    RetryPolicy::default().pauses(Duration::from_millis(20), Duration::from_secs(3))
}

/// One receive.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) max_messages: usize,
    /// For how long no other consumer gets the received messages.
    pub(crate) invisible_duration: Duration,
    /// A receive that is repeated with the same id gets the same messages of a message group again.
    pub(crate) attempt_id: Option<String>,
}

/// A member of a consumer group with its subscriptions.
pub(crate) struct Receiver {
    pub(crate) member: Arc<Member>,
    _supervisor: AbortOnDrop,
    pub(crate) group: String,
    subscriptions: BTreeMap<String, FilterExpression>,
    await_duration: Duration,
    policy: RetryPolicy,
    acks: Acks,
    assignment: Mutex<Option<Assignment>>,
    assignment_stale: AtomicBool,
}

/// The queues that the servers let this consumer receive from. Queue id -1 stands for all queues of a broker.
#[derive(Debug, Clone)]
struct Assignment {
    queues: Arc<Vec<(String, Queue)>>,
    read_at: Instant,
    /// How often it is read again soon, because it may be the picture of a change.
    looks: u32,
}

impl Assignment {
    fn new(queues: Vec<(String, Queue)>, before: Option<&Self>) -> Self {
        // Each topic for itself: another one may still have the broker.
        let brokers = |queues: &[(String, Queue)]| -> Vec<(String, String)> {
            queues.iter().map(|(topic, queue)| (topic.clone(), queue.broker.to_string())).collect()
        };
        let has_lost =
            before.is_some_and(|before| has_lost_broker(brokers(&before.queues), brokers(&queues)));
        let looks = match before {
            _ if has_lost || is_torn(&queues) => LOST_REFRESHES,
            before => before.map_or(0, |before| before.looks.saturating_sub(1)),
        };
        Self { queues: Arc::new(queues), read_at: Instant::now(), looks }
    }

    /// It could not be read again: it stays, and is read again soon.
    fn kept(self) -> Self {
        Self { read_at: Instant::now(), looks: self.looks.max(1), ..self }
    }

    fn is_fresh(&self) -> bool {
        self.read_at.elapsed() < if self.looks > 0 { LOST_REFRESH } else { ROUTE_REFRESH }
    }
}

/// Whether a broker has other addresses for one topic than for another: it changed between two questions.
fn is_torn(queues: &[(String, Queue)]) -> bool {
    let differs = |one: &Queue, other: &Queue| one.broker == other.broker && one.endpoints != other.endpoints;
    queues.iter().any(|(_, one)| queues.iter().any(|(_, other)| differs(one, other)))
}

impl Receiver {
    /// Reads the routes of the subscribed topics and which queues to receive from, greets the brokers and starts the
    /// background tasks.
    pub(crate) async fn start(kind: v2::ClientType, wishes: Wishes) -> Result<Self> {
        let Wishes { client, group, subscriptions, await_duration, policy, client_id, evictions } = wishes;
        if subscriptions.is_empty() {
            return Err(Error::invalid("the consumer has no subscription; add one with subscribe()"));
        }
        let caller = match client_id {
            Some(id) => client.caller_named(check_client_id(id)?),
            None => client.caller(),
        };
        let entry = |(topic, filter): (&String, &FilterExpression)| v2::SubscriptionEntry {
            topic: Some(caller.resource(topic)),
            expression: Some(filter.to_wire()),
        };
        let subscription = v2::Subscription {
            group: Some(caller.resource(&group)),
            subscriptions: subscriptions.iter().map(entry).collect(),
            long_polling_timeout: prost_types::Duration::try_from(await_duration).ok(),
            ..Default::default()
        };
        let profile = Profile {
            kind,
            group: Some(group.clone()),
            pub_sub: v2::settings::PubSub::Subscription(subscription),
            topics: subscriptions.keys().cloned().collect(),
            checker: None,
            evictions,
        };
        let (member, supervisor) = Member::start(caller, profile).await?;
        let receiver = Self {
            acks: Acks::start(Arc::clone(&member), group.clone()),
            member,
            _supervisor: supervisor,
            group,
            subscriptions,
            await_duration,
            policy,
            assignment: Mutex::default(),
            assignment_stale: AtomicBool::new(false),
        };
        // From here on receives need no access point. One that does not answer now is asked again by the first receive.
        if let Err(error) = receiver.assigned().await {
            tracing::debug!(%error, "no assignment yet");
        }
        Ok(receiver)
    }

    /// The subscribed topics.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &String> {
        self.subscriptions.keys()
    }

    /// The assignment, read again when it is old or a receive failed. An old one is better than none.
    pub(crate) async fn assigned(&self) -> Result<Arc<Vec<(String, Queue)>>> {
        let known = self.assignment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stale = self.assignment_stale.swap(false, Ordering::Relaxed);
        if let Some(assignment) = &known
            && !stale
            && assignment.is_fresh()
        {
            return Ok(Arc::clone(&assignment.queues));
        }
        let assignment = match (self.query_assignment().await, known) {
            (Ok(queues), known) => Assignment::new(queues, known.as_ref()),
            (Err(error), Some(known)) => {
                tracing::debug!(%error, "keeping the old assignment");
                known.kept()
            }
            (Err(error), None) => return Err(error),
        };
        let queues = Arc::clone(&assignment.queues);
        *self.assignment.lock().unwrap_or_else(PoisonError::into_inner) = Some(assignment);
        Ok(queues)
    }

    async fn query_assignment(&self) -> Result<Vec<(String, Queue)>> {
        let caller = &self.member.caller;
        let mut queues = Vec::new();
        for topic in self.subscriptions.keys() {
            let request = v2::QueryAssignmentRequest {
                topic: Some(caller.resource(topic)),
                group: Some(caller.resource(&self.group)),
                endpoints: Some(caller.access_points.to_wire()),
            };
            let answer: v2::QueryAssignmentResponse = caller
                .call_access_point(request, |mut client, request| async move {
                    client.query_assignment(request).await
                })
                .await?;
            let assigned = answer
                .assignments
                .into_iter()
                .filter_map(|assignment| Queue::from_wire(assignment.message_queue?));
            queues.extend(assigned.map(|queue| (topic.clone(), queue)));
        }
        Ok(queues)
    }

    /// Receives from one queue. A failure has routes and assignment read again.
    pub(crate) async fn receive(&self, topic: &str, queue: &Queue, fetch: Fetch) -> Result<Vec<Delivery>> {
        let span = tracing::debug_span!("receive", group = self.group, topic);
        let started = Instant::now();
        let result = self.receive_from(topic, queue, fetch).instrument(span).await;
        let count = result.as_ref().map_or(0, Vec::len);
        self.note(Operation::Receive, topic, count, started, &result);
        if let Err(error) = &result {
            self.member.learn_from(error);
            self.assignment_stale.store(true, Ordering::Relaxed);
        }
        result
    }

    async fn receive_from(&self, topic: &str, queue: &Queue, fetch: Fetch) -> Result<Vec<Delivery>> {
        let caller = &self.member.caller;
        let request = v2::ReceiveMessageRequest {
            group: Some(caller.resource(&self.group)),
            message_queue: Some(queue.wire.clone()),
            filter_expression: self.subscriptions.get(topic).map(|filter| filter.to_wire()),
            batch_size: i32::try_from(fetch.max_messages).unwrap_or(i32::MAX),
            invisible_duration: Some(wire_duration(fetch.invisible_duration)?),
            // A message that the server renews and that gets lost on its way here would be lost to the group for hours.
            auto_renew: false,
            long_polling_timeout: Some(wire_duration(self.await_duration)?),
            attempt_id: fetch.attempt_id,
        };
        let mut deliveries = Vec::new();
        let call = async |channel, request| messaging(channel).receive_message(request).await;
        let take = |item: v2::ReceiveMessageResponse| {
            match item.content {
                Some(Content::Message(message)) => deliveries.push(Delivery::from_wire(message, queue)?),
                Some(Content::Status(status)) => return Ok(Some(status)),
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
            Ok(None)
        };
        let link = caller.pool.link(&queue.endpoints);
        match caller.poll(&link, request, self.await_duration, call, take).await {
            // What arrived before the stream broke is ours to settle.
            Err(error) if !deliveries.is_empty() => {
                tracing::debug!(%error, received = deliveries.len(), "receive broke off");
                Ok(deliveries)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(deliveries),
        }
    }

    /// Acknowledges a delivery, repeatedly if need be.
    pub(crate) async fn ack(&self, delivery: &Delivery) -> Result<()> {
        let ack = || self.acks.ack(delivery, self.link_for(delivery).endpoints.clone());
        self.policy.persist(&self.member, ack).await
    }

    /// Makes the message visible again in `duration` from now. The delivery keeps the new receipt handle.
    pub(crate) async fn change_invisible(&self, delivery: &mut Delivery, duration: Duration) -> Result<()> {
        let caller = &self.member.caller;
        let request = v2::ChangeInvisibleDurationRequest {
            group: Some(caller.resource(&self.group)),
            topic: Some(caller.resource(delivery.message().topic())),
            receipt_handle: delivery.receipt_handle.clone(),
            invisible_duration: Some(wire_duration(duration)?),
            message_id: delivery.message_id().to_owned(),
            lite_topic: lite_topic(delivery),
            suspend: None,
        };
        let started = Instant::now();
        let answer: Result<v2::ChangeInvisibleDurationResponse> = caller
            .call(&self.link_for(delivery), request, |mut client, request| async move {
                client.change_invisible_duration(request).await
            })
            .await;
        self.note(Operation::ChangeInvisible, delivery.message().topic(), 1, started, &answer);
        let answer = answer?;
        if !answer.receipt_handle.is_empty() {
            delivery.receipt_handle = answer.receipt_handle;
        }
        Ok(())
    }

    /// Gives a message up: it goes to the dead letters of the group. `max_attempts` are those that it had, as the server is told.
    pub(crate) async fn give_up(&self, delivery: &Delivery, max_attempts: u32) -> Result<()> {
        let caller = &self.member.caller;
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let request = v2::ForwardMessageToDeadLetterQueueRequest {
            group: Some(caller.resource(&self.group)),
            topic: Some(caller.resource(delivery.message().topic())),
            receipt_handle: delivery.receipt_handle.clone(),
            message_id: delivery.message_id().to_owned(),
            delivery_attempt: number(delivery.attempt()),
            max_delivery_attempts: number(max_attempts),
            lite_topic: lite_topic(delivery),
        };
        let started = Instant::now();
        let answer: Result<v2::ForwardMessageToDeadLetterQueueResponse> = caller
            .call(&self.link_for(delivery), request, |mut client, request| async move {
                client.forward_message_to_dead_letter_queue(request).await
            })
            .await;
        self.note(Operation::GiveUp, delivery.message().topic(), 1, started, &answer);
        answer.map(drop)
    }

    fn note<T>(
        &self,
        operation: Operation,
        topic: &str,
        messages: usize,
        started: Instant,
        result: &Result<T>,
    ) {
        let noted = Noted { operation, topic, group: Some(&self.group) };
        self.member.caller.observed.note(noted, messages, started.elapsed(), result);
    }

    fn link_for(&self, delivery: &Delivery) -> Arc<Link> {
        self.member.link_to(delivery.message().topic(), delivery.broker(), &delivery.endpoints)
    }
}

fn lite_topic(delivery: &Delivery) -> Option<String> {
    delivery.message().lite_topic().map(str::to_owned)
}

/// A client id that headers can carry.
fn check_client_id(id: String) -> Result<String> {
    if !id.is_empty() && id.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(id);
    }
    Err(Error::invalid(format!(
        "the client id {id:?} must be printable ASCII without blanks; choose another"
    )))
}

pub(crate) fn wire_duration(duration: Duration) -> Result<prost_types::Duration> {
    prost_types::Duration::try_from(duration)
        .map_err(|_| Error::invalid(format!("a duration of {duration:?} is too long; stay below 12 hours")))
}

#[cfg(test)]
pub(super) fn queue_at(broker: &str, address: &str) -> Queue {
    let addresses = crate::address::parse_addresses(address).unwrap();
    let endpoints = Some(crate::address::Endpoints::new(addresses).unwrap().to_wire());
    let broker = v2::Broker { name: broker.to_owned(), id: 0, endpoints };
    Queue::from_wire(v2::MessageQueue { broker: Some(broker), id: -1, ..Default::default() }).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(sources: &[(&str, &str, &str)]) -> Vec<(String, Queue)> {
        sources.iter().map(|(topic, broker, at)| ((*topic).to_owned(), queue_at(broker, at))).collect()
    }

    #[test]
    fn the_picture_of_a_change_is_read_again_soon() {
        let whole = || queues(&[("t", "a", "m:1,s:1"), ("u", "a", "m:1,s:1"), ("t", "b", "b:1")]);
        let first = Assignment::new(whole(), None);
        assert_eq!(first.looks, 0);
        let torn = queues(&[("t", "a", "s:1"), ("u", "a", "m:1,s:1"), ("t", "b", "b:1")]);
        assert_eq!(Assignment::new(torn.clone(), None).looks, LOST_REFRESHES, "a broker at two addresses");
        assert_eq!(Assignment::new(torn, Some(&first)).looks, LOST_REFRESHES);
        let without = queues(&[("u", "a", "m:1,s:1"), ("t", "b", "b:1")]);
        let lost = Assignment::new(without, Some(&first));
        assert_eq!(lost.looks, LOST_REFRESHES, "a topic lost a broker that another one has");
        assert_eq!(Assignment::new(whole(), Some(&lost)).looks, LOST_REFRESHES - 1, "for a while");
        assert_eq!(Assignment::new(whole(), Some(&first)).looks, 0);
        assert_eq!(first.kept().looks, 1, "it could not be read");
    }
}
