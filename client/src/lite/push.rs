//! The push consumer of lite topics.

use super::LiteTopics;
use crate::delivery::Delivery;
use crate::error::Result;
use crate::filter::FilterExpression;
use crate::member::AbortOnDrop;
use crate::push::{PushConsumer, PushConsumerBuilder, Verdict};
use kerolox_proto::v2;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Settings of a [`LitePushConsumer`].
#[derive(Debug)]
#[must_use]
pub struct LitePushConsumerBuilder {
    inner: PushConsumerBuilder,
    parent: String,
}

impl LitePushConsumerBuilder {
    pub(crate) fn new(inner: PushConsumerBuilder, parent: String) -> Self {
        Self { inner: inner.subscribe(parent.clone(), FilterExpression::all()), parent }
    }

    /// How many messages listeners work on at the same time, 20 by default. Messages of one lite topic never are.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.inner = self.inner.concurrency(messages);
        self
    }

    /// How many messages may wait for a listener, 1024 by default.
    pub fn cached_messages(mut self, messages: usize) -> Self {
        self.inner = self.inner.cached_messages(messages);
        self
    }

    /// For how long a message is received, 60 s by default; see [`PushConsumerBuilder::invisible_duration`].
    pub fn invisible_duration(mut self, duration: Duration) -> Self {
        self.inner = self.inner.invisible_duration(duration);
        self
    }

    /// How long one receive waits at the broker, 20 s by default.
    pub fn await_duration(mut self, duration: Duration) -> Self {
        self.inner = self.inner.await_duration(duration);
        self
    }

    /// Reads the route of the topic, greets the brokers and begins to hand messages to `listener`, see
    /// [`PushConsumerBuilder::start`]. Nothing comes before a lite topic is subscribed to.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with a limit of zero; otherwise when no access point answers or the topic does
    /// not exist.
    pub async fn start<F, Fut, V>(mut self, listener: F) -> Result<LitePushConsumer>
    where
        F: Fn(Arc<Delivery>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = V> + Send + 'static,
        V: Into<Verdict>,
    {
        let (evictions, evicted) = mpsc::unbounded_channel();
        self.inner.wishes.evictions = Some(evictions);
        let consumer = self.inner.start_as(v2::ClientType::LitePushConsumer, listener).await?;
        let topics = LiteTopics::new(consumer.member(), consumer.group(), self.parent);
        let _keeping = topics.keep(evicted);
        Ok(LitePushConsumer { consumer, topics, _keeping })
    }
}

/// Hands messages of lite topics to a listener, as a [`PushConsumer`] does with those of topics. Messages of one lite topic come one
/// after the other.
#[derive(Debug)]
pub struct LitePushConsumer {
    consumer: PushConsumer,
    topics: LiteTopics,
    _keeping: AbortOnDrop,
}

impl LitePushConsumer {
    /// The lite topics that this consumer subscribes to.
    pub fn topics(&self) -> &LiteTopics {
        &self.topics
    }

    /// The id under which the servers know this consumer.
    pub fn client_id(&self) -> &str {
        self.consumer.client_id()
    }

    /// See [`PushConsumer::shutdown`].
    pub async fn shutdown(self, patience: Duration) -> usize {
        self.consumer.shutdown(patience).await
    }
}
