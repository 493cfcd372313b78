//! The simple consumer: the application asks for messages and settles each of them.

use super::merged::merged;
use super::receiver::{Fetch, Receiver, Wishes};
use crate::client::Client;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::filter::FilterExpression;
use crate::member::Member;
use crate::retry::RetryPolicy;
use crate::route::Queue;
use futures_util::stream::Stream;
use kerolox_proto::v2;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Settings of a [`SimpleConsumer`].
#[derive(Debug)]
#[must_use]
pub struct SimpleConsumerBuilder {
    pub(crate) wishes: Wishes,
}

impl SimpleConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self { wishes: Wishes::new(client, group) }
    }

    /// Subscribes to a topic; a second subscription of the same topic replaces the first.
    pub fn subscribe(mut self, topic: impl Into<String>, filter: FilterExpression) -> Self {
        self.wishes.subscriptions.insert(topic.into(), filter);
        self
    }

    /// How long a receive waits for a first message, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.wishes.await_duration = duration;
        self
    }

    /// How acknowledgements are retried.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.wishes.policy = policy;
        self
    }

    /// Keeps this client id over restarts, instead of a new one each time. A member of a broadcast group (`mqadmin updateSubGroup
    /// -d true`) keeps its place that way. No other member may use this id.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.wishes.client_id = Some(id.into());
        self
    }

    /// Reads the routes of the subscribed topics and which queues to receive from, greets the brokers and starts the
    /// background tasks.
    ///
    /// # Errors
    /// [`Error::Invalid`] without any subscription; otherwise when no access point answers or a topic does not exist.
    pub async fn start(self) -> Result<SimpleConsumer> {
        self.start_as(v2::ClientType::SimpleConsumer).await
    }

    pub(crate) async fn start_as(self, kind: v2::ClientType) -> Result<SimpleConsumer> {
        let receiver = Receiver::start(kind, self.wishes).await?;
        Ok(SimpleConsumer { receiver, turn: AtomicUsize::new(0) })
    }
}

/// Receives messages of a consumer group on demand. Share it by reference or `Arc`; all methods take `&self`, and
/// several receives may wait at the same time.
///
/// Dropping it stops its background tasks at once; [`Self::shutdown`] also tells the brokers.
pub struct SimpleConsumer {
    receiver: Receiver,
    turn: AtomicUsize,
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
        let assigned = self.receiver.assigned().await?;
        let (topic, queue) = self.next_queue(&assigned).ok_or_else(|| Error::NoQueue {
            topic: self.receiver.topics().cloned().collect::<Vec<_>>().join(", "),
            purpose: "readable",
        })?;
        let fetch = Fetch { max_messages, invisible_duration, attempt_id: None };
        self.receiver.receive(topic, queue, fetch).await
    }

    /// Messages one after the other, for as long as the stream is polled. All brokers are asked at the same time, each
    /// for up to `max_messages` whenever none of its messages is left; these are invisible for `invisible_duration`
    /// from then on.
    ///
    /// Goes on by itself where a call may succeed when it is repeated. Messages that were received and not handed out
    /// when the stream is dropped are delivered again.
    ///
    /// ```no_run
    /// # async fn example(consumer: kerolox_client::SimpleConsumer) -> kerolox_client::Result<()> {
    /// use futures_util::TryStreamExt as _;
    /// use std::{pin::pin, time::Duration};
    ///
    /// let mut deliveries = pin!(consumer.deliveries(16, Duration::from_secs(30)));
    /// while let Some(delivery) = deliveries.try_next().await? {
    ///     consumer.ack(&delivery).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Self::receive`] that no repetition mends. The stream goes on after each.
    pub fn deliveries(
        &self,
        max_messages: usize,
        invisible_duration: Duration,
    ) -> impl Stream<Item = Result<Delivery>> + Send + '_ {
        merged(&self.receiver, max_messages, invisible_duration)
    }

    /// Acknowledges a delivery: the group is done with the message. Retried by the retry policy; acknowledging twice is harmless.
    ///
    /// Cancelling leaves it open whether the broker knows; the message may then be delivered again.
    ///
    /// # Errors
    /// `INVALID_RECEIPT_HANDLE` when the invisible duration has ended and another consumer has the message; otherwise
    /// when the broker cannot be reached.
    pub async fn ack(&self, delivery: &Delivery) -> Result<()> {
        self.receiver.ack(delivery).await
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
        self.receiver.change_invisible(delivery, duration).await
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.receiver.member
    }

    pub(crate) fn group(&self) -> &str {
        &self.receiver.group
    }

    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        &self.receiver.member.caller.client_id
    }

    /// Tells the brokers that this consumer goes away, and stops. A received but unacknowledged message is delivered
    /// again when its invisible duration ends.
    pub async fn shutdown(self) {
        self.receiver.member.say_goodbye().await;
    }

    /// The queue whose turn it is.
    fn next_queue<'a>(&self, assigned: &'a [(String, Queue)]) -> Option<&'a (String, Queue)> {
        let pool = &self.receiver.member.caller.pool;
        let is_healthy = |queue: &Queue| pool.link(&queue.endpoints).is_healthy();
        queue_in_turn(assigned, self.turn.fetch_add(1, Ordering::Relaxed), is_healthy)
    }
}

/// The queues take turns, those of healthy brokers only; but no topic is left out: a broker counts as unhealthy at the addresses
/// that one topic was assigned with, while another topic already has its new ones.
fn queue_in_turn(
    assigned: &[(String, Queue)],
    turn: usize,
    is_healthy: impl Fn(&Queue) -> bool,
) -> Option<&(String, Queue)> {
    let healthy: Vec<bool> = assigned.iter().map(|(_, queue)| is_healthy(queue)).collect();
    let has_healthy = |topic: &str| assigned.iter().zip(&healthy).any(|((of, _), well)| *well && of == topic);
    let wanted = assigned.iter().zip(&healthy).filter(|((topic, _), well)| **well || !has_healthy(topic));
    let wanted: Vec<&(String, Queue)> = wanted.map(|(source, _)| source).collect();
    (!wanted.is_empty()).then(|| wanted[turn % wanted.len()])
}

impl fmt::Debug for SimpleConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleConsumer")
            .field("group", &self.receiver.group)
            .field("client_id", &self.client_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::receiver::queue_at;

    #[test]
    fn healthy_brokers_are_asked_in_turn_and_no_topic_is_left_out() {
        let assigned = [
            ("orders", "a", "old:1"),
            ("orders", "b", "b:1"),
            ("payments", "a", "new:1"),
            ("refunds", "a", "old:1"),
        ]
        .map(|(topic, broker, address)| (topic.to_owned(), queue_at(broker, address)));
        let asked = |well: &[&str]| -> Vec<(String, String)> {
            let is_healthy = |queue: &Queue| well.contains(&queue.endpoints.to_string().as_str());
            let picks = (0..4).map(|turn| queue_in_turn(&assigned, turn, is_healthy).unwrap());
            picks.map(|(topic, queue)| (topic.clone(), queue.endpoints.to_string())).collect()
        };
        let named = |picks: [(&str, &str); 4]| picks.map(|(topic, at)| (topic.to_owned(), at.to_owned()));
        let all = [("orders", "old:1"), ("orders", "b:1"), ("payments", "new:1"), ("refunds", "old:1")];
        assert_eq!(asked(&["old:1", "b:1", "new:1"]), named(all));
        assert_eq!(asked(&[]), named(all), "there is nothing better");
        let some = [("orders", "b:1"), ("payments", "new:1"), ("refunds", "old:1"), ("orders", "b:1")];
        assert_eq!(asked(&["b:1", "new:1"]), named(some));
        assert!(queue_in_turn(&[], 3, |_| true).is_none());
    }
}
