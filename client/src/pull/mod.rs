//! The pull consumer: the application says where to read, and keeps its place itself.

mod reading;

use crate::client::Client;
use crate::consumer::receiver::wire_duration;
use crate::delivery::PulledMessage;
use crate::error::{Error, Result};
use crate::filter::FilterExpression;
use crate::member::{AbortOnDrop, Member, Profile};
use crate::observer::{Noted, Operation};
use crate::queue::{MessageQueue, Position};
use crate::retry::RetryPolicy;
use crate::route::Queue;
use crate::rpc::{Link, messaging};
use kerolox_proto::v2;
use kerolox_proto::v2::pull_message_response::Content;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Settings of a [`PullConsumer`].
#[derive(Debug)]
#[must_use]
pub struct PullConsumerBuilder {
    client: Client,
    group: String,
    filters: BTreeMap<String, FilterExpression>,
    await_duration: Duration,
    policy: RetryPolicy,
}

impl PullConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            client,
            group,
            filters: BTreeMap::new(),
            await_duration: Duration::from_secs(20),
            policy: RetryPolicy::default(),
        }
    }

    /// Reads only some messages of a topic; all of them without it.
    pub fn subscribe(mut self, topic: impl Into<String>, filter: FilterExpression) -> Self {
        self.filters.insert(topic.into(), filter);
        self
    }

    /// How long a pull waits for a first message, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.await_duration = duration;
        self
    }

    /// How questions about offsets, and answers, are retried. Pulls are not.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Reads the routes of the topics with filters, greets their brokers and starts the background tasks.
    ///
    /// # Errors
    /// When no access point answers or a topic does not exist.
    pub async fn start(self) -> Result<PullConsumer> {
        let caller = self.client.caller();
        let entry = |(topic, filter): (&String, &FilterExpression)| v2::SubscriptionEntry {
            topic: Some(caller.resource(topic)),
            expression: Some(filter.to_wire()),
        };
        let subscription = v2::Subscription {
            group: Some(caller.resource(&self.group)),
            subscriptions: self.filters.iter().map(entry).collect(),
            long_polling_timeout: Some(wire_duration(self.await_duration)?),
            ..Default::default()
        };
        let profile = Profile {
            kind: v2::ClientType::PullConsumer,
            group: Some(self.group.clone()),
            pub_sub: v2::settings::PubSub::Subscription(subscription),
            topics: self.filters.keys().cloned().collect(),
            checker: None,
            evictions: None,
        };
        let (member, _supervisor) = Member::start(caller, profile).await?;
        let Self { group, filters, await_duration, policy, .. } = self;
        Ok(PullConsumer { member, _supervisor, group, filters, await_duration, policy })
    }
}

/// Reads messages from an offset on. Nothing is acknowledged, and other consumers can read the same messages.
///
/// ```no_run
/// use futures_util::TryStreamExt as _;
/// use kerolox_client::{Client, Position};
/// use std::pin::pin;
///
/// # async fn example() -> kerolox_client::Result<()> {
/// let client = Client::builder("127.0.0.1:9876").build()?;
/// let consumer = client.pull_consumer("auditors").start().await?;
/// let mut messages = pin!(consumer.read("orders", Position::Earliest).await?);
/// while let Some(message) = messages.try_next().await? {
///     println!("{} {}: {:?}", message.queue(), message.offset(), message.message().body());
/// }
/// # Ok(())
/// # }
/// ```
///
/// Dropping it stops its background tasks.
pub struct PullConsumer {
    member: Arc<Member>,
    _supervisor: AbortOnDrop,
    group: String,
    filters: BTreeMap<String, FilterExpression>,
    await_duration: Duration,
    policy: RetryPolicy,
}

/// The outcome of one pull.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pulled {
    /// The messages, by offset.
    pub messages: Vec<PulledMessage>,
    /// The offset to go on at. More than one past the last message where others were filtered out.
    pub next_offset: u64,
}

impl PullConsumer {
    /// The queues of a topic that can be read, on all brokers.
    ///
    /// # Errors
    /// When no access point answers, or there is no such topic.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>> {
        let route = self.member.route(topic).await?;
        let readable = route.queues().iter().filter(|queue| queue.is_readable());
        let mut queues: Vec<MessageQueue> =
            readable.map(|queue| MessageQueue::new(topic, queue.broker.clone(), queue.id())).collect();
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    /// The offset of a position in a queue.
    ///
    /// # Errors
    /// [`Error::NoQueue`] when the queue is none of its topic; otherwise when the broker refuses or cannot be reached.
    pub async fn offset(&self, queue: &MessageQueue, position: Position) -> Result<u64> {
        use v2::QueryOffsetPolicy::{Beginning, End, Timestamp};
        match position {
            Position::Earliest => self.query(queue, Beginning, None).await,
            Position::Latest => self.query(queue, End, None).await,
            Position::Since(time) => self.query(queue, Timestamp, Some(time.into())).await,
            Position::Offset(offset) => Ok(offset),
            Position::Tail(count) => {
                let first = self.query(queue, Beginning, None).await?;
                let end = self.query(queue, End, None).await?;
                Ok(end.saturating_sub(count).max(first))
            }
            Position::Committed => match self.committed(queue).await? {
                Some(offset) => Ok(offset),
                None => self.query(queue, Beginning, None).await,
            },
        }
    }

    async fn query(
        &self,
        queue: &MessageQueue,
        policy: v2::QueryOffsetPolicy,
        timestamp: Option<prost_types::Timestamp>,
    ) -> Result<u64> {
        let query = || async {
            let (wire, link) = self.locate(queue).await?;
            let request = v2::QueryOffsetRequest {
                message_queue: Some(wire.wire.clone()),
                query_offset_policy: policy.into(),
                timestamp,
            };
            let answer: v2::QueryOffsetResponse = self
                .member
                .caller
                .call(&link, request, |mut client, request| async move { client.query_offset(request).await })
                .await?;
            offset_from_wire(&link, answer.offset)
        };
        self.policy.persist(&self.member, query).await
    }

    /// Where the group has come to in a queue: the offset that was committed last; `None` when none was.
    ///
    /// # Errors
    /// As for [`Self::offset`].
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<u64>> {
        let get = || async {
            let (wire, link) = self.locate(queue).await?;
            let group = Some(self.member.caller.resource(&self.group));
            let request = v2::GetOffsetRequest { group, message_queue: Some(wire.wire.clone()) };
            let answer: v2::GetOffsetResponse = self
                .member
                .caller
                .call(&link, request, |mut client, request| async move { client.get_offset(request).await })
                .await?;
            offset_from_wire(&link, answer.offset).map(Some)
        };
        match self.policy.persist(&self.member, get).await {
            // The group comes into being with its first offset.
            Err(error)
                if error.code().is_some_and(|code| {
                    code == v2::Code::OffsetNotFound || code == v2::Code::ConsumerGroupNotFound
                }) =>
            {
                Ok(None)
            }
            result => result,
        }
    }

    /// Says where the group has come to in a queue: everything below `offset` is done. Durable when this returns.
    ///
    /// Cancelling leaves it open whether the broker knows.
    ///
    /// # Errors
    /// `ILLEGAL_OFFSET` behind the end of the queue; otherwise as for [`Self::offset`].
    pub async fn commit(&self, queue: &MessageQueue, offset: u64) -> Result<()> {
        let offset = offset_to_wire(offset)?;
        let update = || async {
            let (wire, link) = self.locate(queue).await?;
            let group = Some(self.member.caller.resource(&self.group));
            let request = v2::UpdateOffsetRequest { group, message_queue: Some(wire.wire.clone()), offset };
            let _: v2::UpdateOffsetResponse = self
                .member
                .caller
                .call(
                    &link,
                    request,
                    |mut client, request| async move { client.update_offset(request).await },
                )
                .await?;
            Ok(())
        };
        self.policy.persist(&self.member, update).await
    }

    /// Reads up to `max_messages` messages (a broker may hand out fewer) from `offset` on; none when the await duration passes
    /// without any. Cancelling this future loses nothing.
    ///
    /// # Errors
    /// `ILLEGAL_OFFSET` when messages are no longer kept at that offset, or it is behind the end of the queue; otherwise as for
    /// [`Self::offset`].
    pub async fn pull(&self, queue: &MessageQueue, offset: u64, max_messages: usize) -> Result<Pulled> {
        let span = tracing::debug_span!("pull", group = self.group, %queue, offset);
        let started = Instant::now();
        let result = self.pull_from(queue, offset, max_messages).instrument(span).await;
        if let Err(error) = &result {
            self.member.learn_from(error);
        }
        let count = result.as_ref().map_or(0, |pulled| pulled.messages.len());
        let noted = Noted { operation: Operation::Pull, topic: queue.topic(), group: Some(&self.group) };
        self.member.caller.observed.note(noted, count, started.elapsed(), &result);
        result
    }

    async fn pull_from(&self, queue: &MessageQueue, offset: u64, max_messages: usize) -> Result<Pulled> {
        let caller = &self.member.caller;
        let (wire, link) = self.locate(queue).await?;
        let request = v2::PullMessageRequest {
            group: Some(caller.resource(&self.group)),
            message_queue: Some(wire.wire.clone()),
            offset: offset_to_wire(offset)?,
            batch_size: i32::try_from(max_messages).unwrap_or(i32::MAX),
            filter_expression: self.filters.get(queue.topic()).map(FilterExpression::to_wire),
            long_polling_timeout: Some(wire_duration(self.await_duration)?),
        };
        let mut pulled = Pulled { messages: Vec::new(), next_offset: offset };
        let call = async |channel, request| messaging(channel).pull_message(request).await;
        let take = |item: v2::PullMessageResponse| {
            match item.content {
                Some(Content::Message(message)) => {
                    pulled.messages.push(PulledMessage::from_wire(message, queue.broker()));
                }
                Some(Content::NextOffset(next)) => pulled.next_offset = offset_from_wire(&link, next)?,
                Some(Content::Status(status)) => return Ok(Some(status)),
                None => {}
            }
            Ok(None)
        };
        caller.poll(&link, request, self.await_duration, call, take).await?;
        Ok(pulled)
    }

    /// The queue as the servers know it, and the way to it.
    async fn locate(&self, queue: &MessageQueue) -> Result<(Queue, Arc<Link>)> {
        let route = self.member.route(queue.topic()).await?;
        let is_it = |known: &&Queue| {
            known.is_readable() && known.broker == queue.broker() && known.id() == queue.id()
        };
        let known = route.queues().iter().find(is_it).cloned();
        let known =
            known.ok_or_else(|| Error::NoQueue { topic: queue.topic().to_owned(), purpose: "readable" })?;
        let link = self.member.caller.pool.link(&known.endpoints);
        Ok((known, link))
    }

    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        &self.member.caller.client_id
    }

    /// Tells the brokers that this consumer goes away, and stops.
    pub async fn shutdown(self) {
        self.member.say_goodbye().await;
    }
}

impl fmt::Debug for PullConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullConsumer")
            .field("group", &self.group)
            .field("client_id", &self.client_id())
            .finish_non_exhaustive()
    }
}

fn offset_to_wire(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Error::invalid(format!("{offset} is no offset; it is too large")))
}

fn offset_from_wire(link: &Link, offset: i64) -> Result<u64> {
    u64::try_from(offset).map_err(|_| Error::Protocol {
        endpoint: link.endpoints.to_string(),
        what: "it has a negative offset",
    })
}
