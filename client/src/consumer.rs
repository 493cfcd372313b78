//! The simple consumer: the application asks for messages and settles each of them.

use crate::client::Client;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::filter::FilterExpression;
use crate::member::{AbortOnDrop, Member, Profile, ROUTE_REFRESH};
use crate::retry::RetryPolicy;
use crate::route::Queue;
use crate::rpc::{check, messaging, server_error};
use kerolox_proto::v2;
use kerolox_proto::v2::receive_message_response::Content;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Settings of a [`SimpleConsumer`].
#[derive(Debug)]
#[must_use]
pub struct SimpleConsumerBuilder {
    client: Client,
    group: String,
    subscriptions: BTreeMap<String, FilterExpression>,
    await_duration: Duration,
    policy: RetryPolicy,
}

impl SimpleConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            client,
            group,
            subscriptions: BTreeMap::new(),
            await_duration: Duration::from_secs(20),
            policy: RetryPolicy::default(),
        }
    }

    /// Subscribes to a topic; a second subscription of the same topic replaces the first.
    pub fn subscribe(mut self, topic: impl Into<String>, filter: FilterExpression) -> Self {
        self.subscriptions.insert(topic.into(), filter);
        self
    }

    /// How long a receive waits for a first message, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.await_duration = duration;
        self
    }

    /// How acknowledgements are retried.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Reads the routes of the subscribed topics and which queues to receive from, greets the brokers and starts the
    /// background tasks.
    ///
    /// # Errors
    /// [`Error::Invalid`] without any subscription; otherwise when no access point answers or a topic does not exist.
    pub async fn start(self) -> Result<SimpleConsumer> {
        if self.subscriptions.is_empty() {
            return Err(Error::invalid(
                "the consumer has no subscription; add one with SimpleConsumerBuilder::subscribe",
            ));
        }
        let caller = self.client.caller();
        let entry = |(topic, filter): (&String, &FilterExpression)| v2::SubscriptionEntry {
            topic: Some(caller.resource(topic)),
            expression: Some(filter.to_wire()),
        };
        let subscription = v2::Subscription {
            group: Some(caller.resource(&self.group)),
            subscriptions: self.subscriptions.iter().map(entry).collect(),
            long_polling_timeout: prost_types::Duration::try_from(self.await_duration).ok(),
            ..Default::default()
        };
        let profile = Profile {
            kind: v2::ClientType::SimpleConsumer,
            group: Some(self.group.clone()),
            pub_sub: v2::settings::PubSub::Subscription(subscription),
            topics: self.subscriptions.keys().cloned().collect(),
            checker: None,
        };
        let (member, supervisor) = Member::start(caller, profile).await?;
        let consumer = SimpleConsumer {
            member,
            _supervisor: supervisor,
            group: self.group,
            subscriptions: self.subscriptions,
            await_duration: self.await_duration,
            policy: self.policy,
            assignment: Mutex::default(),
            assignment_stale: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        };
        // From here on receives need no access point. One that does not answer now is asked again by the first receive.
        if let Err(error) = consumer.assigned().await {
            tracing::debug!(%error, "no assignment yet");
        }
        Ok(consumer)
    }
}

/// Receives messages of a consumer group on demand. Share it by reference or `Arc`; all methods take `&self`, and
/// several receives may wait at the same time.
///
/// Dropping it stops its background tasks at once; [`Self::shutdown`] also tells the brokers.
pub struct SimpleConsumer {
    member: Arc<Member>,
    _supervisor: AbortOnDrop,
    group: String,
    subscriptions: BTreeMap<String, FilterExpression>,
    await_duration: Duration,
    policy: RetryPolicy,
    assignment: Mutex<Option<Assignment>>,
    assignment_stale: AtomicBool,
    turn: AtomicUsize,
}

/// The queues that the servers let this consumer receive from. Queue id -1 stands for all queues of a broker.
#[derive(Debug, Clone)]
struct Assignment {
    queues: Arc<Vec<(String, Queue)>>,
    read_at: Instant,
}

impl SimpleConsumer {
    /// Waits for messages and returns up to `max_messages` of them (at most 32); none when the await duration passes without any.
    /// They stay invisible to the rest of the group for `invisible_duration` (10 s to 12 h): acknowledge each before it ends.
    ///
    /// Each call asks one broker (or one queue, where the server assigns single queues) in turn.
    ///
    /// Cancelling this future may lose sight of messages that were on their way; they are delivered again.
    ///
    /// # Errors
    /// When the broker refuses or cannot be reached. The next call turns to another broker where there is one.
    pub async fn receive(&self, max_messages: usize, invisible_duration: Duration) -> Result<Vec<Delivery>> {
        let assigned = self.assigned().await?;
        let (topic, queue) = self.next_queue(&assigned).ok_or_else(|| Error::NoQueue {
            topic: self.subscriptions.keys().cloned().collect::<Vec<_>>().join(", "),
            purpose: "readable",
        })?;
        let result = self.receive_from(topic, queue, max_messages, invisible_duration).await;
        if let Err(error) = &result {
            self.member.learn_from(error);
            self.assignment_stale.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Acknowledges a delivery: the group is done with the message. Retried by the retry policy; acknowledging twice is harmless.
    ///
    /// Cancelling leaves it open whether the broker knows; the message may then be delivered again.
    ///
    /// # Errors
    /// `INVALID_RECEIPT_HANDLE` when the invisible duration has ended and the message belongs to somebody else; otherwise when the broker
    /// cannot be reached.
    pub async fn ack(&self, delivery: &Delivery) -> Result<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Err(error) = self.ack_once(delivery).await else {
                return Ok(());
            };
            self.member.learn_from(&error);
            match self.policy.next(attempt, &error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Makes the message visible again in `duration` from now; zero gives it back at once. The delivery keeps the new
    /// receipt handle.
    ///
    /// Not retried, and not to be cancelled: if the answer is lost, so is the new handle, and the message comes back
    /// by itself after the longer of the two durations.
    ///
    /// # Errors
    /// `INVALID_RECEIPT_HANDLE` when the invisible duration has ended; otherwise when the broker cannot be reached.
    pub async fn change_invisible(&self, delivery: &mut Delivery, duration: Duration) -> Result<()> {
        let caller = &self.member.caller;
        let request = v2::ChangeInvisibleDurationRequest {
            group: Some(caller.resource(&self.group)),
            topic: Some(caller.resource(delivery.message().topic())),
            receipt_handle: delivery.receipt_handle.clone(),
            invisible_duration: Some(wire_duration(duration)?),
            message_id: delivery.message_id().to_owned(),
            lite_topic: None,
            suspend: None,
        };
        let link = self.link_for(delivery);
        let answer: v2::ChangeInvisibleDurationResponse = caller
            .call(&link, request, |mut client, request| async move {
                client.change_invisible_duration(request).await
            })
            .await?;
        if !answer.receipt_handle.is_empty() {
            delivery.receipt_handle = answer.receipt_handle;
        }
        Ok(())
    }

    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        &self.member.caller.client_id
    }

    /// Tells the brokers that this consumer goes away, and stops. What was received and not acknowledged is delivered
    /// again when its invisible duration ends.
    pub async fn shutdown(self) {
        self.member.say_goodbye().await;
    }

    /// Healthy brokers' queues take turns; the others only when there is nothing else.
    fn next_queue<'a>(&self, assigned: &'a [(String, Queue)]) -> Option<&'a (String, Queue)> {
        let pool = &self.member.caller.pool;
        let healthy: Vec<_> =
            assigned.iter().filter(|(_, queue)| pool.link(&queue.endpoints).is_healthy()).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match healthy.len() {
            0 if assigned.is_empty() => None,
            0 => Some(&assigned[turn % assigned.len()]),
            count => Some(healthy[turn % count]),
        }
    }

    /// The assignment, read again when it is old or a receive failed. An old one is better than none.
    async fn assigned(&self) -> Result<Arc<Vec<(String, Queue)>>> {
        let known = self.assignment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stale = self.assignment_stale.swap(false, Ordering::Relaxed);
        if let Some(assignment) = &known
            && !stale
            && assignment.read_at.elapsed() < ROUTE_REFRESH
        {
            return Ok(Arc::clone(&assignment.queues));
        }
        match (self.query_assignment().await, known) {
            (Ok(queues), _) => {
                let queues = Arc::new(queues);
                let assignment = Assignment { queues: Arc::clone(&queues), read_at: Instant::now() };
                *self.assignment.lock().unwrap_or_else(PoisonError::into_inner) = Some(assignment);
                Ok(queues)
            }
            (Err(error), Some(known)) => {
                tracing::debug!(%error, "keeping the old assignment");
                Ok(known.queues)
            }
            (Err(error), None) => Err(error),
        }
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

    async fn receive_from(
        &self,
        topic: &str,
        queue: &Queue,
        max_messages: usize,
        invisible_duration: Duration,
    ) -> Result<Vec<Delivery>> {
        let caller = &self.member.caller;
        let request = v2::ReceiveMessageRequest {
            group: Some(caller.resource(&self.group)),
            message_queue: Some(queue.wire.clone()),
            filter_expression: self.subscriptions.get(topic).map(|filter| filter.to_wire()),
            batch_size: i32::try_from(max_messages).unwrap_or(i32::MAX),
            invisible_duration: Some(wire_duration(invisible_duration)?),
            auto_renew: false,
            long_polling_timeout: Some(wire_duration(self.await_duration)?),
            attempt_id: None,
        };
        let limit = self.await_duration + caller.request_timeout;
        let link = caller.pool.link(&queue.endpoints);
        let (address, channel) = link.current();
        let address = address.to_string();
        let mut deliveries = Vec::new();
        let poll = async {
            let mut client = messaging(channel);
            let grpc = |status| Error::from_grpc(&address, limit, &status);
            let answer = client.receive_message(caller.request(request, Some(limit))).await.map_err(grpc)?;
            let mut stream = answer.into_inner();
            while let Some(item) = stream.message().await.map_err(grpc)? {
                match item.content {
                    Some(Content::Message(message)) => deliveries.push(Delivery::from_wire(message, queue)?),
                    Some(Content::Status(status)) => empty_or_ok(&address, status)?,
                    Some(Content::DeliveryTimestamp(_)) | None => {}
                }
            }
            Ok(())
        };
        let timeout = || Error::Timeout { endpoint: address.clone(), after: limit };
        let result = tokio::time::timeout(limit, poll).await.unwrap_or_else(|_| Err(timeout()));
        link.note(&result);
        match result {
            // What arrived before the stream broke is ours to settle.
            Err(error) if !deliveries.is_empty() => {
                tracing::debug!(%error, received = deliveries.len(), "receive broke off");
                Ok(deliveries)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(deliveries),
        }
    }

    async fn ack_once(&self, delivery: &Delivery) -> Result<()> {
        let caller = &self.member.caller;
        let entry = v2::AckMessageEntry {
            message_id: delivery.message_id().to_owned(),
            receipt_handle: delivery.receipt_handle.clone(),
            lite_topic: None,
        };
        let request = v2::AckMessageRequest {
            group: Some(caller.resource(&self.group)),
            topic: Some(caller.resource(delivery.message().topic())),
            entries: vec![entry],
        };
        let link = self.link_for(delivery);
        let answer: v2::AckMessageResponse = caller
            .call(&link, request, |mut client, request| async move { client.ack_message(request).await })
            .await?;
        // Without entries the status above them was OK, or the call would have failed.
        answer.entries.into_iter().try_for_each(|entry| check(&delivery.endpoints.to_string(), entry.status))
    }

    fn link_for(&self, delivery: &Delivery) -> Arc<crate::rpc::Link> {
        self.member.link_to(delivery.message().topic(), delivery.broker(), &delivery.endpoints)
    }
}

impl fmt::Debug for SimpleConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleConsumer")
            .field("group", &self.group)
            .field("client_id", &self.client_id())
            .finish_non_exhaustive()
    }
}

/// The status of a receive: "no new message" is no error.
fn empty_or_ok(endpoint: &str, status: v2::Status) -> Result<()> {
    match status.code {
        code if code == i32::from(v2::Code::Ok) || code == i32::from(v2::Code::MessageNotFound) => Ok(()),
        _ => Err(server_error(endpoint, status)),
    }
}

fn wire_duration(duration: Duration) -> Result<prost_types::Duration> {
    prost_types::Duration::try_from(duration)
        .map_err(|_| Error::invalid(format!("a duration of {duration:?} is too long; stay below 12 hours")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_new_message_is_no_error() {
        let status = |code: v2::Code| v2::Status { code: code.into(), message: String::new() };
        assert!(empty_or_ok("b:1", status(v2::Code::Ok)).is_ok());
        assert!(empty_or_ok("b:1", status(v2::Code::MessageNotFound)).is_ok());
        let error = empty_or_ok("b:1", status(v2::Code::ConsumerGroupNotFound)).unwrap_err();
        assert!(error.code().unwrap().is_not_found());
    }
}
