//! Producers that send and consumers that receive all the time, and note what they learn.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use kerolox_client::{Client, FilterExpression, Message, Producer, RetryPolicy, SimpleConsumer};
use kerolox_harness::MessageLedger;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use super::label::{self, Kind};
use super::official::Official;
use super::{ORDERED_GROUP, ORDERED_TOPIC, READERS_GROUP, TOPIC, TX_TOPIC};

const NORMAL_SENDERS: usize = 3;
const ORDERED_SENDERS: usize = 3;
const TRANSACTION_SENDERS: usize = 2;
/// Number of the sender of normal messages that is the official SDK.
pub(super) const OFFICIAL_SENDER: usize = NORMAL_SENDERS;
/// Consumers of each group.
const CONSUMERS: usize = 2;
/// Pause after each message: three brokers, their nameservers and the clients share few processors.
const PACE: Duration = Duration::from_millis(5);
/// Pause after an error.
const PAUSE: Duration = Duration::from_millis(50);
/// A message that was received and not acknowledged comes again after this time.
const INVISIBLE: Duration = Duration::from_secs(10);
const BATCH: usize = 16;
/// Longest poll of a receive.
const POLL: Duration = Duration::from_secs(1);
/// What a client waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(1_500);

/// All clients. Dropping them ends them.
pub(super) struct Clients {
    tasks: Vec<JoinHandle<()>>,
    /// Senders hold it while they send; who holds it alone has silence.
    gate: Arc<RwLock<()>>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Clients {
    /// Starts them, with a producer of the official SDK if there is one.
    pub(super) async fn start(
        client: &Client,
        ledger: &MessageLedger,
        official: Option<Official>,
    ) -> Result<Self> {
        let gate = Arc::new(RwLock::new(()));
        let mut tasks = Vec::new();
        let policy = RetryPolicy::default().attempts(4);
        let producer = client
            .producer()
            .topics([TOPIC, ORDERED_TOPIC, TX_TOPIC])
            .transaction_checker_sync(|half| label::resolution(&label::of(half.message().body())))
            .retry_policy(policy)
            .start()
            .await?;
        let sender = Sender { producer: Arc::new(producer), ledger: ledger.clone(), gate: gate.clone() };
        let kinds = [
            (Work::Normal, NORMAL_SENDERS),
            (Work::Ordered, ORDERED_SENDERS),
            (Work::Transactions, TRANSACTION_SENDERS),
        ];
        for (work, count) in kinds {
            tasks.extend((0..count).map(|number| tokio::spawn(sender.clone().run(work, number))));
        }
        tasks.extend(official.map(|official| tokio::spawn(sender.clone().run_official(official))));
        let subscriptions = [(READERS_GROUP, vec![TOPIC, TX_TOPIC]), (ORDERED_GROUP, vec![ORDERED_TOPIC])];
        for (group, topics) in subscriptions {
            for _ in 0..CONSUMERS {
                let mut builder = client.simple_consumer(group).await_duration(POLL);
                for topic in &topics {
                    builder = builder.subscribe(*topic, FilterExpression::all());
                }
                tasks.push(tokio::spawn(receive(group, builder.start().await?, ledger.clone())));
            }
        }
        Ok(Self { tasks, gate })
    }

    /// Waits until no message is on its way, and lets none leave until the guard is dropped.
    pub(super) async fn silence(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Normal,
    Ordered,
    Transactions,
}

#[derive(Clone)]
struct Sender {
    producer: Arc<Producer>,
    ledger: MessageLedger,
    gate: Arc<RwLock<()>>,
}

impl Sender {
    async fn run(self, work: Work, number: usize) {
        for turn in 0_u64.. {
            let guard = self.gate.read().await;
            let kind = match work {
                Work::Normal => Kind::Normal,
                Work::Ordered => Kind::Ordered,
                Work::Transactions => [Kind::Commit, Kind::Rollback, Kind::Commit, Kind::Late]
                    [usize::try_from(turn % 4).expect("small")],
            };
            let label = kind.label(number, turn);
            let topic = match work {
                Work::Normal => TOPIC,
                Work::Ordered => ORDERED_TOPIC,
                Work::Transactions => TX_TOPIC,
            };
            self.ledger.note_sent(&label, label::message(&label, topic));
            let sent = if kind.is_transaction() {
                self.transaction(kind, &label).await
            } else {
                self.message(kind, number, &label).await
            };
            drop(guard);
            self.rest_after(sent).await;
        }
    }

    async fn run_official(self, official: Official) {
        for turn in 0_u64.. {
            let guard = self.gate.read().await;
            let label = Kind::Normal.label(OFFICIAL_SENDER, turn);
            self.ledger.note_sent(&label, label::message(&label, TOPIC));
            let sent = official.send(&label::body(&label)).await;
            if sent.is_ok() {
                self.ledger.note_acknowledged(&label);
            }
            drop(guard);
            self.rest_after(sent).await;
        }
    }

    async fn rest_after<E: ToString>(&self, sent: std::result::Result<(), E>) {
        let pause = if sent.is_ok() { PACE } else { PAUSE };
        if let Err(error) = sent {
            self.ledger.note_error(error);
        }
        tokio::time::sleep(pause).await;
    }

    async fn message(&self, kind: Kind, number: usize, label: &str) -> kerolox_client::Result<()> {
        let message = if kind == Kind::Ordered {
            Message::builder(ORDERED_TOPIC).message_group(format!("group-{number}"))
        } else {
            Message::builder(TOPIC)
        };
        self.producer.send(message.body(label::body(label)).build()).await?;
        self.ledger.note_acknowledged(label);
        Ok(())
    }

    /// Sends a half message and decides about it as its label says.
    async fn transaction(&self, kind: Kind, label: &str) -> kerolox_client::Result<()> {
        let message = Message::builder(TX_TOPIC).body(label::body(label)).build();
        let transaction = self.producer.send_in_transaction(message).await?;
        self.ledger.note_acknowledged(label);
        match kind {
            Kind::Commit => {
                transaction.commit().await?;
                self.ledger.note_committed(label);
            }
            Kind::Rollback => transaction.rollback().await?,
            _ => {}
        }
        Ok(())
    }
}

async fn receive(group: &'static str, consumer: SimpleConsumer, ledger: MessageLedger) {
    loop {
        match consumer.receive(BATCH, INVISIBLE).await {
            Ok(deliveries) => {
                for delivery in &deliveries {
                    let body = delivery.message().body();
                    let label = label::of(body);
                    if label::body(&label) != *body {
                        ledger.note_spoilt(&label);
                    }
                    ledger.note_received(group, &label);
                }
                // Together: one after the other, each waits for the disk, and consumers fall far behind the senders.
                let acks = join_all(deliveries.iter().map(|delivery| consumer.ack(delivery))).await;
                // What could not be acknowledged comes again.
                acks.into_iter().filter_map(Result::err).for_each(|error| ledger.note_error(error));
            }
            Err(error) => {
                ledger.note_error(error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
