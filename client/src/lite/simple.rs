//! The simple consumer of lite topics.

use super::LiteTopics;
use crate::consumer::{SimpleConsumer, SimpleConsumerBuilder};
use crate::delivery::Delivery;
use crate::error::Result;
use crate::filter::FilterExpression;
use crate::member::AbortOnDrop;
use crate::retry::RetryPolicy;
use kerolox_proto::v2;
use std::time::Duration;
use tokio::sync::mpsc;

/// Settings of a [`LiteSimpleConsumer`].
#[derive(Debug)]
#[must_use]
pub struct LiteSimpleConsumerBuilder {
    inner: SimpleConsumerBuilder,
    parent: String,
}

impl LiteSimpleConsumerBuilder {
    pub(crate) fn new(inner: SimpleConsumerBuilder, parent: String) -> Self {
        Self { inner: inner.subscribe(parent.clone(), FilterExpression::all()), parent }
    }

    /// How long a receive waits for a first message, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.inner = self.inner.await_duration(duration);
        self
    }

    /// How acknowledgements are retried.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.inner = self.inner.retry_policy(policy);
        self
    }

    /// Reads the route of the topic, greets the brokers and starts the background tasks. Nothing comes before a lite topic is
    /// subscribed to.
    ///
    /// # Errors
    /// When no access point answers or the topic does not exist.
    pub async fn start(mut self) -> Result<LiteSimpleConsumer> {
        let (evictions, evicted) = mpsc::unbounded_channel();
        self.inner.wishes.evictions = Some(evictions);
        let consumer = self.inner.start_as(v2::ClientType::LiteSimpleConsumer).await?;
        let topics = LiteTopics::new(consumer.member(), consumer.group(), self.parent);
        let _keeping = topics.keep(evicted);
        Ok(LiteSimpleConsumer { consumer, topics, _keeping })
    }
}

/// Receives messages of lite topics on demand, as a [`SimpleConsumer`] does of topics. Messages of one lite topic come in order.
///
/// ```no_run
/// use kerolox_client::Client;
/// use std::time::Duration;
///
/// # async fn example() -> kerolox_client::Result<()> {
/// let client = Client::builder("127.0.0.1:9876").build()?;
/// let consumer = client.lite_simple_consumer("agents", "sessions").start().await?;
/// consumer.topics().subscribe("session-4711").await?;
/// for delivery in consumer.receive(16, Duration::from_secs(30)).await? {
///     println!("{:?} says {:?}", delivery.message().lite_topic(), delivery.message().body());
///     consumer.ack(&delivery).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LiteSimpleConsumer {
    consumer: SimpleConsumer,
    topics: LiteTopics,
    _keeping: AbortOnDrop,
}

impl LiteSimpleConsumer {
    /// The lite topics that this consumer subscribes to.
    pub fn topics(&self) -> &LiteTopics {
        &self.topics
    }

    /// See [`SimpleConsumer::receive`].
    ///
    /// # Errors
    /// When the broker refuses or cannot be reached.
    pub async fn receive(&self, max_messages: usize, invisible_duration: Duration) -> Result<Vec<Delivery>> {
        self.consumer.receive(max_messages, invisible_duration).await
    }

    /// See [`SimpleConsumer::ack`].
    ///
    /// # Errors
    /// `INVALID_RECEIPT_HANDLE` when the invisible duration has ended; otherwise when the broker cannot be reached.
    pub async fn ack(&self, delivery: &Delivery) -> Result<()> {
        self.consumer.ack(delivery).await
    }

    /// See [`SimpleConsumer::change_invisible`].
    ///
    /// # Errors
    /// `INVALID_RECEIPT_HANDLE` when the invisible duration has ended; otherwise when the broker cannot be reached.
    pub async fn change_invisible(&self, delivery: &mut Delivery, duration: Duration) -> Result<()> {
        self.consumer.change_invisible(delivery, duration).await
    }

    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        self.consumer.client_id()
    }

    /// Tells the brokers that this consumer goes away, and stops.
    pub async fn shutdown(self) {
        self.consumer.shutdown().await;
    }
}
