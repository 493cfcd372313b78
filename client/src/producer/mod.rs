//! Producers: normal, FIFO, delayed and transactional messages.

pub(crate) mod batching;
pub(crate) mod local;
mod recall;
mod room;
mod send;
pub(crate) mod transaction;

use crate::address::Endpoints;
use crate::client::Client;
use crate::delivery::HalfMessage;
use crate::error::{Error, Result};
use crate::member::{AbortOnDrop, Checker, Member, Profile};
use crate::message::{Message, Stamp};
use crate::retry::RetryPolicy;
use crate::route::Target;
use kerolox_proto::v2;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;
use transaction::{Ending, Resolution, Transaction};

/// Settings of a [`Producer`].
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    topics: BTreeSet<String>,
    checker: Option<Checker>,
    policy: RetryPolicy,
    may_duplicate: bool,
    compress_from: Option<usize>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            topics: BTreeSet::new(),
            checker: None,
            policy: RetryPolicy::default(),
            may_duplicate: false,
            compress_from: None,
        }
    }

    /// Declares a topic. Necessary for transactions, because brokers check back with producers that declared the topic;
    /// otherwise it saves the first message the look-up of the route.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.insert(topic.into());
        self
    }

    /// Declares several topics.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Sets who answers when a broker asks about an undecided transaction. Any producer of the topic may be asked, also
    /// about transactions of others, so look the answer up where all of them can find it.
    pub fn transaction_checker<F, Fut>(mut self, checker: F) -> Self
    where
        F: Fn(HalfMessage) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Resolution> + Send + 'static,
    {
        self.checker = Some(Arc::new(move |half| Box::pin(checker(half))));
        self
    }

    /// Like [`Self::transaction_checker`] for answers that need no waiting; the closure must not block.
    pub fn transaction_checker_sync<F>(self, checker: F) -> Self
    where
        F: Fn(&HalfMessage) -> Resolution + Send + Sync + 'static,
    {
        self.transaction_checker(move |half| std::future::ready(checker(&half)))
    }

    /// How sends and decisions are retried.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether a message that one broker group may have stored, though its answer was lost, may be sent to another group. By
    /// default it may not: the repetition goes to the same group, which stores the message once where its topic has
    /// `dedup=id`, and waits for that group to come back. With `true` it is stored sooner, perhaps twice.
    pub fn may_duplicate(mut self, may_duplicate: bool) -> Self {
        self.may_duplicate = may_duplicate;
        self
    }

    /// Compresses bodies of `bytes` bytes or more with gzip, where that makes them smaller; all of RocketMQ's SDKs decompress them.
    /// No body is compressed by default, and none that goes out together with others: Apache's proxy (5.4.0) forgets
    /// which messages of a batch were compressed.
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.compress_from = Some(bytes);
        self
    }

    /// Reads the routes of the declared topics, greets their brokers and starts the background tasks.
    ///
    /// # Errors
    /// When no access point answers or a declared topic does not exist.
    pub async fn start(self) -> Result<Producer> {
        let caller = self.client.caller();
        let publishing = v2::Publishing {
            topics: self.topics.iter().map(|topic| caller.resource(topic)).collect(),
            ..Default::default()
        };
        let profile = Profile {
            kind: v2::ClientType::Producer,
            group: None,
            pub_sub: v2::settings::PubSub::Publishing(publishing),
            topics: self.topics.iter().cloned().collect(),
            checker: self.checker,
            evictions: None,
        };
        let (member, supervisor) = Member::start(caller, profile).await?;
        Ok(Producer {
            client: self.client,
            declared: self.topics,
            policy: self.policy,
            may_duplicate: self.may_duplicate,
            compress_from: self.compress_from,
            turn: AtomicUsize::new(0),
            member,
            _supervisor: supervisor,
        })
    }
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerBuilder").field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// Sends messages. Share it by reference or `Arc`; all methods take `&self`.
///
/// Dropping it stops its background tasks at once; [`Self::shutdown`] also tells the brokers.
pub struct Producer {
    client: Client,
    declared: BTreeSet<String>,
    policy: RetryPolicy,
    may_duplicate: bool,
    compress_from: Option<usize>,
    /// Grows by one with every attempt; spreads messages over queues.
    turn: AtomicUsize,
    member: Arc<Member>,
    _supervisor: AbortOnDrop,
}

/// What a broker said about a stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReceipt {
    /// Id of the message, the same over all attempts.
    pub message_id: String,
    /// Id of the transaction, for half messages.
    pub transaction_id: Option<String>,
    /// Offset in its queue. Half messages and delayed messages get theirs later; what this says about them is up to the server.
    pub offset: i64,
    /// Broker group that stored it.
    pub broker: String,
    /// Queue that was asked for.
    pub queue_id: i32,
    /// Handle that takes a delayed message back, see [`Producer::recall`].
    pub recall_handle: Option<String>,
    /// Where that broker group was reached.
    pub(crate) endpoints: Endpoints,
}

impl Producer {
    /// Sends a message and waits until it is stored as safely as the broker promises.
    ///
    /// Retryable failures are retried with the same message id, on another broker group where there is one. A message that may
    /// be stored already is repeated to the same group, and is stored once where its topic has `dedup=id`; see
    /// [`ProducerBuilder::may_duplicate`]. Cancelling this future leaves it open whether the message was stored.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn send(&self, message: Message) -> Result<SendReceipt> {
        let group = message.together().map(str::to_owned);
        let target = group.as_deref().map_or(Target::Any, Target::Group);
        self.send_one(message, target).await
    }

    /// Sends a message to a given broker group, and there to a given queue if one is named.
    ///
    /// # Errors
    /// As for [`Self::send`]; [`Error::NoQueue`] when the broker or queue does not take messages of the topic.
    pub async fn send_to(&self, broker: &str, queue: Option<i32>, message: Message) -> Result<SendReceipt> {
        self.send_one(message, Target::Broker { name: broker, queue }).await
    }

    /// Sends several messages of one topic, and of one message group if they have one, in one request. Returns one result per message in
    /// their order; only failed messages are retried. An empty batch is not sent.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<SendReceipt>> {
        let Some(first) = messages.first() else {
            return Vec::new();
        };
        let topic = first.topic().to_owned();
        let group = first.together().map(str::to_owned);
        if let Err(error) = check_alike(&messages) {
            return vec![Err(error); messages.len()];
        }
        let target = group.as_deref().map_or(Target::Any, Target::Group);
        let compress_from = self.compress_from.filter(|_| messages.len() == 1);
        let stamp = |message| self.stamped(message, false, compress_from);
        let messages = messages.into_iter().map(stamp).collect();
        self.dispatch(&topic, messages, target, false).await
    }

    /// Sends a half message: stored, but invisible until the returned transaction is committed.
    ///
    /// Only failures that surely stored nothing are retried. Cancelling this future leaves it open whether the half
    /// message was stored; if so, its check-back decides.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the producer has no transaction checker or did not declare the topic, otherwise as for
    /// [`Self::send`].
    pub async fn send_in_transaction(&self, message: Message) -> Result<Transaction> {
        self.send_all_in_transaction(vec![message]).await
    }

    /// Sends half messages of one topic, and of one message group if they have one, that are decided together: consumers get all
    /// of them or none. They go out in one request, so together they are at most as large as one may be. The transaction's
    /// receipt is that of the last message, which is also the one that a check-back shows.
    ///
    /// The broker has to keep several messages in one transaction, which RocketMQ's does not.
    ///
    /// # Errors
    /// As for [`Self::send_in_transaction`]; [`Error::Invalid`] without a message, or when they differ in topic or message group;
    /// [`Error::Protocol`] when the server gave them transactions of their own, which nothing decides then.
    pub async fn send_all_in_transaction(&self, messages: Vec<Message>) -> Result<Transaction> {
        let first = messages.first().ok_or_else(|| Error::invalid("a transaction needs a message"))?;
        let topic = first.topic().to_owned();
        if self.member.checker.is_none() {
            return Err(Error::invalid(
                "transactions need a transaction checker; set one with ProducerBuilder::transaction_checker",
            ));
        }
        if !self.declared.contains(&topic) {
            return Err(Error::invalid(format!(
                "transactions need a declared topic; add {topic:?} with ProducerBuilder::topic"
            )));
        }
        let group = first.together().map(str::to_owned);
        check_alike(&messages)?;
        let target = group.as_deref().map_or(Target::Any, Target::Group);
        let compress_from = self.compress_from.filter(|_| messages.len() == 1);
        let stamp = |message| self.stamped(message, true, compress_from);
        let stamped = messages.into_iter().map(stamp).collect();
        let receipts = self.dispatch(&topic, stamped, target, true).await;
        let mut receipts = receipts.into_iter().collect::<Result<Vec<_>>>()?;
        let wrong =
            |receipt: &SendReceipt, what| Error::Protocol { endpoint: receipt.endpoints.to_string(), what };
        let receipt = receipts.pop().expect("one for each message");
        let Some(transaction_id) = receipt.transaction_id.clone() else {
            return Err(wrong(&receipt, "a half message got no transaction id"));
        };
        if receipts.iter().any(|other| other.transaction_id != receipt.transaction_id) {
            return Err(wrong(&receipt, "messages that belong together got different transaction ids"));
        }
        let ending = Ending {
            topic,
            message_id: receipt.message_id.clone(),
            transaction_id,
            source: v2::TransactionSource::SourceClient,
        };
        Ok(Transaction { member: Arc::clone(&self.member), policy: self.policy.clone(), ending, receipt })
    }

    /// The id under which the servers know this producer.
    pub fn client_id(&self) -> &str {
        &self.member.caller.client_id
    }

    /// Tells the brokers that this producer goes away, and stops. Await your sends before.
    pub async fn shutdown(self) {
        self.member.say_goodbye().await;
    }

    async fn send_one(&self, message: Message, target: Target<'_>) -> Result<SendReceipt> {
        let topic = message.topic().to_owned();
        only_one(
            self.dispatch(&topic, vec![self.stamped(message, false, self.compress_from)], target, false)
                .await,
        )
    }

    fn stamped(&self, message: Message, transactional: bool, compress_from: Option<usize>) -> v2::Message {
        let born = SystemTime::now();
        message.into_wire(Stamp {
            message_id: self.client.shared.message_ids.next(born),
            namespace: &self.member.caller.namespace,
            host: &self.client.shared.host,
            born,
            transactional,
            compress_from,
        })
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("client_id", &self.client_id()).finish_non_exhaustive()
    }
}

/// What one request carries goes to one place.
fn check_alike(messages: &[Message]) -> Result<()> {
    let is_alike =
        |pair: &[Message]| pair[0].topic() == pair[1].topic() && pair[0].together() == pair[1].together();
    if messages.windows(2).all(is_alike) {
        return Ok(());
    }
    Err(Error::invalid(
        "the messages of a batch differ in topic, message group or lite topic; send one batch for each of them",
    ))
}

fn only_one(mut results: Vec<Result<SendReceipt>>) -> Result<SendReceipt> {
    results.pop().expect("one message gives one result")
}
