//! What the clients of a run know of its messages, and what was found in the queues afterwards.
//!
//! A message goes by its label, which is its body or the beginning of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::ServerProcess;

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What must become of a message when the broker has acknowledged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageIntent {
    /// Consumers get it: a plain message, or one whose transaction is committed.
    Deliver,
    /// No consumer gets it: its transaction is rolled back, or never decided.
    Withhold,
    /// Its transaction is parked, because no checker can decide it.
    Park,
}

/// A message that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Where it was sent to.
    pub topic: &'static str,
    /// What must become of it.
    pub intent: MessageIntent,
    /// The broker said that it is stored or, when that is what its sender waits for, committed. Without that it may be there or not.
    pub is_acknowledged: bool,
    /// The broker said that its transaction is committed.
    pub is_committed: bool,
    /// Id of the message, when the broker said that it is stored.
    pub message_id: Option<String>,
    /// Offset that the broker answered.
    pub offset: Option<u64>,
    /// Its message group and its number there, in the order in which the group's messages were sent.
    pub place: Option<(String, u64)>,
}

impl SentMessage {
    /// A message that is not acknowledged yet.
    pub fn new(topic: &'static str, intent: MessageIntent) -> Self {
        Self {
            topic,
            intent,
            is_acknowledged: false,
            is_committed: false,
            message_id: None,
            offset: None,
            place: None,
        }
    }

    /// One that was acknowledged.
    pub fn acknowledged(topic: &'static str, intent: MessageIntent) -> Self {
        Self { is_acknowledged: true, ..Self::new(topic, intent) }
    }

    /// Gives it a number in a message group.
    #[must_use]
    pub fn in_group(mut self, group: &str, number: u64) -> Self {
        self.place = Some((group.to_owned(), number));
        self
    }

    /// Whether consumers must get it.
    pub fn is_owed(&self) -> bool {
        self.is_acknowledged && self.intent == MessageIntent::Deliver
    }
}

/// What a consumer got of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageReception {
    /// Place of the first time among everything that was received.
    pub turn: u64,
    /// How often it came.
    pub times: u64,
}

/// A message where consumers can get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingMessage {
    /// Its topic.
    pub topic: &'static str,
    /// Its queue.
    pub queue: u32,
    /// Its offset there.
    pub offset: u64,
    /// What it is.
    pub label: String,
}

/// Where a queue ends: the offset that its next message gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEnd {
    /// Its topic.
    pub topic: &'static str,
    /// Its number.
    pub queue: u32,
    /// The offset.
    pub offset: u64,
}

/// All that is known; [`crate::properties`] are held against it.
#[derive(Debug, Clone, Default)]
pub struct MessageHistory {
    /// By label.
    pub sent: BTreeMap<String, SentMessage>,
    /// By consumer, or consumer group, and label.
    pub received: BTreeMap<&'static str, BTreeMap<String, MessageReception>>,
    /// Labels of messages that came with another body than they were sent with.
    pub spoilt: Vec<String>,
    /// What was found in the queues in the end.
    pub standing: Vec<StandingMessage>,
    /// Where the queues ended then.
    pub ends: Vec<QueueEnd>,
    /// Labels of the messages whose transactions were parked in the end.
    pub parked: BTreeSet<String>,
    /// Ids of the messages in the log, in its order.
    pub log: Vec<String>,
    turns: u64,
}

impl MessageHistory {
    /// A consumer got a message.
    pub fn receive(&mut self, consumer: &'static str, label: &str) {
        let turn = self.turns;
        self.turns += 1;
        let received = self.received.entry(consumer).or_default();
        received.entry(label.to_owned()).or_insert(MessageReception { turn, times: 0 }).times += 1;
    }

    /// Messages of a topic that a consumer must get and has not got.
    pub fn missing(&self, consumer: &str, topic: &str) -> Vec<String> {
        let received = self.received.get(consumer);
        let has_come = |label: &String| received.is_some_and(|received| received.contains_key(label));
        let owed = self.sent.iter().filter(|(_, sent)| sent.topic == topic && sent.is_owed());
        owed.map(|(label, _)| label).filter(|label| !has_come(label)).cloned().collect()
    }

    /// How many messages came to any consumer more than once.
    pub fn duplicates(&self) -> usize {
        let receptions = self.received.values().flat_map(BTreeMap::values);
        receptions.filter(|reception| reception.times > 1).count()
    }

    /// How many messages stand in queues beside another one of their label: a client that heard nothing sent them again.
    pub fn stored_again(&self) -> usize {
        let labels: BTreeSet<&str> = self.standing.iter().map(|message| message.label.as_str()).collect();
        self.standing.len() - labels.len()
    }
}

/// A history that clients write at the same time. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MessageLedger(Arc<Mutex<LedgerContent>>);

#[derive(Debug, Default)]
struct LedgerContent {
    history: MessageHistory,
    acknowledgements: Vec<Instant>,
    last_error: String,
}

impl MessageLedger {
    /// Notes the state of a message that is being sent, or was sent.
    pub fn note_sent(&self, label: &str, message: SentMessage) {
        let mut content = self.lock();
        if message.is_acknowledged || message.message_id.is_some() {
            content.acknowledgements.push(Instant::now());
        }
        content.history.sent.insert(label.to_owned(), message);
    }

    /// Notes that the broker acknowledged a message that was noted before.
    pub fn note_acknowledged(&self, label: &str) {
        let mut content = self.lock();
        content.acknowledgements.push(Instant::now());
        if let Some(message) = content.history.sent.get_mut(label) {
            message.is_acknowledged = true;
        }
    }

    /// Notes that the broker said that a transaction is committed.
    pub fn note_committed(&self, label: &str) {
        if let Some(message) = self.lock().history.sent.get_mut(label) {
            message.is_committed = true;
        }
    }

    /// Notes a message that a consumer got, before it acknowledges it.
    pub fn note_received(&self, consumer: &'static str, label: &str) {
        self.lock().history.receive(consumer, label);
    }

    /// Notes a message that came with another body than it was sent with.
    pub fn note_spoilt(&self, label: &str) {
        self.lock().history.spoilt.push(label.to_owned());
    }

    /// Notes what went wrong, for the report of a run that stands still.
    pub fn note_error(&self, error: impl ToString) {
        self.lock().last_error = error.to_string();
    }

    /// How many messages the broker has said that it stored.
    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledgements.len()
    }

    /// When it said so.
    pub fn acknowledgements(&self) -> Vec<Instant> {
        self.lock().acknowledgements.clone()
    }

    /// How many messages have come, each time counted.
    pub fn receptions(&self) -> u64 {
        self.lock().history.turns
    }

    /// See [`MessageHistory::missing`].
    pub fn missing(&self, consumer: &str, topic: &str) -> Vec<String> {
        self.lock().history.missing(consumer, topic)
    }

    /// Waits until `wanted` more messages are acknowledged by `broker` than there were.
    ///
    /// # Errors
    /// When the broker ends by itself, or after `limit`; with the end of its log.
    pub async fn wait_for_more(
        &self,
        wanted: usize,
        limit: Duration,
        broker: &mut ServerProcess,
    ) -> Result<()> {
        let before = self.acknowledged();
        let started = Instant::now();
        while self.acknowledged() < before + wanted {
            if !broker.is_running() {
                bail!("the broker ended by itself; the end of its log:\n{}", broker.log_tail());
            }
            if started.elapsed() > limit {
                bail!(
                    "only {} acknowledgements within {limit:?}; last error of a client: {}; the end of the broker's log:\n{}",
                    self.acknowledged() - before,
                    self.last_error(),
                    broker.log_tail()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What went wrong last.
    pub fn last_error(&self) -> String {
        self.lock().last_error.clone()
    }

    /// All that was noted so far.
    pub fn history(&self) -> MessageHistory {
        self.lock().history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LedgerContent> {
        // Every change leaves the content whole, also when a writer panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
