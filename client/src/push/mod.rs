//! The push consumer: messages come to a listener.

mod plan;
mod room;
mod work;

use crate::client::Client;
use crate::consumer::receiver::{Receiver, Wishes};
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::filter::FilterExpression;
use crate::member::{AbortOnDrop, Member};
use crate::retry::RetryPolicy;
use kerolox_proto::v2;
use room::Room;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use work::Work;

/// Messages that listeners work on at the same time, by default: RocketMQ's figure.
const CONCURRENCY: usize = 20;
/// Messages that may wait for a listener, by default, and their bytes: RocketMQ's figures.
const CACHED_MESSAGES: usize = 1024;
const CACHED_BYTES: usize = 64 << 20;
/// For how long no other consumer gets a message that is with a listener, by default; renewed again and again. After so
/// long it comes again if this process died.
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long a shutdown waits for messages that are on their way.
const ARRIVING: Duration = Duration::from_millis(300);
/// How long an acknowledgement is tried, by default.
const SETTLING: Duration = Duration::from_secs(30);

/// What a listener makes of a message.
///
/// A `Result` is as good: an error is logged, and the message comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The group is done with it.
    Done,
    /// It is to come again after the delay that the group's back-off gives, and becomes a dead letter after the group's
    /// last attempt.
    Again,
    /// It is to come again after this delay, and becomes a dead letter after the group's last attempt.
    AgainIn(Duration),
    /// It is to become a dead letter now.
    GiveUp,
}

impl<E: fmt::Display> From<std::result::Result<(), E>> for Verdict {
    fn from(result: std::result::Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => {
                tracing::warn!(%error, "a listener failed; the message comes again");
                Self::Again
            }
        }
    }
}

type Listening = Pin<Box<dyn Future<Output = Verdict> + Send>>;
type Listener = Box<dyn Fn(Arc<Delivery>) -> Listening + Send + Sync>;

/// Settings of a [`PushConsumer`].
#[derive(Debug)]
#[must_use]
pub struct PushConsumerBuilder {
    pub(crate) wishes: Wishes,
    concurrency: usize,
    cached_messages: usize,
    cached_bytes: usize,
    invisible_duration: Duration,
}

impl PushConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        let policy = RetryPolicy::default().within(SETTLING);
        let wishes = Wishes { policy, ..Wishes::new(client, group) };
        Self {
            wishes,
            concurrency: CONCURRENCY,
            cached_messages: CACHED_MESSAGES,
            cached_bytes: CACHED_BYTES,
            invisible_duration: INVISIBLE,
        }
    }

    /// Subscribes to a topic; a second subscription of the same topic replaces the first.
    pub fn subscribe(mut self, topic: impl Into<String>, filter: FilterExpression) -> Self {
        self.wishes.subscriptions.insert(topic.into(), filter);
        self
    }

    /// How many messages listeners work on at the same time, 20 by default. Messages of one message group never are.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages;
        self
    }

    /// How many messages may wait for a listener, 1024 by default. Nothing more is received while so many wait;
    /// messages that are on their way then, up to 32 for each broker and topic, are taken.
    pub fn cached_messages(mut self, messages: usize) -> Self {
        self.cached_messages = messages;
        self
    }

    /// How many bytes of bodies may wait for a listener, 64 MiB by default.
    pub fn cached_bytes(mut self, bytes: usize) -> Self {
        self.cached_bytes = bytes;
        self
    }

    /// For how long a message is received, 60 s by default (10 s to 12 h). It is renewed until the message is settled, so listeners
    /// may take longer; a message comes again after so long when this process or its answer is lost.
    pub fn invisible_duration(mut self, duration: Duration) -> Self {
        self.invisible_duration = duration;
        self
    }

    /// How long one receive waits at the broker, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.wishes.await_duration = duration;
        self
    }

    /// How acknowledgements are retried; by default for half a minute, so that they outlive an election.
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

    /// Reads the routes, greets the brokers and begins to hand messages to `listener`.
    ///
    /// No other consumer gets a message that is not settled, however long the listener takes, as long as the broker can
    /// be reached before its invisible duration ends. A listener that panics has failed. Where the group is delivered
    /// in order, messages of one message group come one after the other: one that fails is handed over again, after its
    /// delay, before the next one.
    /// A message with a damaged body is not handed over; it comes again, and becomes a dead letter at last.
    ///
    /// Administrators may show the listener a message that is not in flight (`mqadmin message verify`), to see what becomes of it;
    /// its receipt handle is empty. Groups that are delivered in order are spared that.
    ///
    /// # Errors
    /// [`Error::Invalid`] without any subscription or with a limit of zero; otherwise when no access point answers or a
    /// topic does not exist.
    pub async fn start<F, Fut, V>(self, listener: F) -> Result<PushConsumer>
    where
        F: Fn(Arc<Delivery>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = V> + Send + 'static,
        V: Into<Verdict>,
    {
        self.start_as(v2::ClientType::PushConsumer, listener).await
    }

    pub(crate) async fn start_as<F, Fut, V>(self, kind: v2::ClientType, listener: F) -> Result<PushConsumer>
    where
        F: Fn(Arc<Delivery>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = V> + Send + 'static,
        V: Into<Verdict>,
    {
        if self.concurrency == 0 || self.cached_messages == 0 || self.cached_bytes == 0 {
            return Err(Error::invalid("concurrency and cache limits must be larger than zero"));
        }
        let listener: Listener = Box::new(move |delivery| {
            let listening = listener(delivery);
            Box::pin(async move { listening.await.into() })
        });
        let receiver = Receiver::start(kind, self.wishes).await?;
        let room = Room::new(self.cached_messages, self.cached_bytes);
        let work = Work::new(receiver, listener, self.concurrency, room, self.invisible_duration);
        let work = Arc::new(work);
        work::offer_verification(&work);
        let feeding = AbortOnDrop::spawn(work::feed(Arc::clone(&work)));
        Ok(PushConsumer { work, feeding: Some(feeding) })
    }
}

/// Hands messages of a consumer group to a listener, until it is shut down or dropped.
///
/// ```no_run
/// use kerolox_client::{Client, FilterExpression};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let consumer = Client::builder("127.0.0.1:9876")
///     .build()?
///     .push_consumer("billing")
///     .subscribe("orders", FilterExpression::all())
///     .start(|delivery| async move {
///         // An error has the message delivered again, later.
///         let order: u64 = std::str::from_utf8(delivery.message().body())?.parse()?;
///         println!("order {order}, attempt {}", delivery.attempt());
///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
///     })
///     .await?;
/// tokio::signal::ctrl_c().await?;
/// consumer.shutdown(Duration::from_secs(30)).await;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it stops receiving; listeners at work go on to their end and what they did is acknowledged.
pub struct PushConsumer {
    work: Arc<Work>,
    feeding: Option<AbortOnDrop>,
}

impl PushConsumer {
    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        &self.work.member().caller.client_id
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        self.work.member()
    }

    pub(crate) fn group(&self) -> &str {
        self.work.group()
    }

    /// How many messages wait for a listener or are with one.
    pub fn cached_messages(&self) -> usize {
        self.work.cached_messages()
    }

    /// Receives no more, gives back what no listener has begun, waits up to `patience` until the listeners at work are done and what
    /// they did is acknowledged, and says goodbye to the brokers. Returns how many messages were with listeners still; those
    /// listeners go on, and what they do is acknowledged.
    ///
    /// Messages that are on their way here still arrive and are given back; those that take longer than a moment come
    /// to other consumers when their invisible duration ends.
    pub async fn shutdown(mut self, patience: Duration) -> usize {
        self.work.stop();
        tokio::time::sleep(ARRIVING).await;
        self.feeding = None;
        let left = self.work.finished(patience).await;
        self.work.say_goodbye().await;
        left
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.work.stop();
    }
}

impl fmt::Debug for PushConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushConsumer").field("client_id", &self.client_id()).finish_non_exhaustive()
    }
}
