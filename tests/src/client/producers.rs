//! Producers of all kinds, each as an application would write it: a send that fails is not repeated by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use kerolox_client::{Batcher, Batching, Client, Message, Producer, Resolution, TransactionError};
use kerolox_harness::{MessageIntent, SentMessage};
use tokio::task::JoinSet;

use super::ledger::ClientLedger;
use super::{CALM, ORDERED, TRANSACTIONS, UNIQUE};

/// Pause after each message: brokers and clients share few processors.
const PACE: Duration = Duration::from_millis(5);
const SENDERS: usize = 2;
const MESSAGE_GROUPS: usize = 3;

/// They answer check-backs until this is dropped.
pub(super) struct Producers {
    _producer: Arc<Producer>,
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Producers {
    pub(super) async fn start(client: &Client, ledger: &ClientLedger) -> Result<Self> {
        let producer = client
            .producer()
            .topics([UNIQUE, ORDERED, TRANSACTIONS])
            .transaction_checker_sync(|half| fate(&text(half.message())).1)
            .start()
            .await?;
        let producer = Arc::new(producer);
        let batcher = Batcher::new(Arc::clone(&producer), Batching::default())?;
        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let shared = || (Arc::clone(&producer), ledger.clone(), Arc::clone(&is_over));
        for number in 0..SENDERS {
            tasks.spawn(send_one_by_one(shared(), number));
            tasks.spawn(transact(shared(), number));
        }
        for number in 0..MESSAGE_GROUPS {
            tasks.spawn(send_in_order(shared(), number));
        }
        tasks.spawn(send_in_batches(batcher, ledger.clone(), Arc::clone(&is_over)));
        Ok(Self { _producer: producer, is_over, tasks })
    }

    /// Lets them end what they began; how many do not.
    pub(super) async fn stop(&mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Who is left is counted.
        let _ = tokio::time::timeout(CALM, all).await;
        self.tasks.len()
    }
}

type Shared = (Arc<Producer>, ClientLedger, Arc<AtomicBool>);

fn unique() -> SentMessage {
    SentMessage::new(UNIQUE, MessageIntent::Deliver)
}

async fn send_one_by_one((producer, ledger, is_over): Shared, sender: usize) {
    for number in (0_u64..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let body = format!("single-{sender} {number}");
        let started = Instant::now();
        let result = producer.send(Message::builder(UNIQUE).body(body.clone()).build()).await;
        ledger.sent_one(unique(), &body, started.elapsed(), &result);
        tokio::time::sleep(PACE).await;
    }
}

async fn send_in_order((producer, ledger, is_over): Shared, group: usize) {
    for number in (0_u64..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let group = format!("group-{group}");
        let body = format!("{group} {number}");
        let noted = SentMessage::new(ORDERED, MessageIntent::Deliver).in_group(&group, number);
        let message = Message::builder(ORDERED).body(body.clone()).message_group(group).build();
        let started = Instant::now();
        let result = producer.send(message).await;
        ledger.sent_one(noted, &body, started.elapsed(), &result);
        tokio::time::sleep(PACE).await;
    }
}

async fn send_in_batches(batcher: Batcher, ledger: ClientLedger, is_over: Arc<AtomicBool>) {
    let mut answers = JoinSet::new();
    for number in (0_u64..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let body = format!("batched {number}");
        let started = Instant::now();
        match batcher.send(Message::builder(UNIQUE).body(body.clone()).build()).await {
            Ok(pending) => {
                let ledger = ledger.clone();
                answers.spawn(async move {
                    let result = pending.await;
                    ledger.sent_one(unique(), &body, started.elapsed(), &result);
                });
            }
            failed => ledger.sent_one(unique(), &body, started.elapsed(), &failed),
        }
        while answers.try_join_next().is_some() {}
        tokio::time::sleep(PACE / 4).await;
    }
    batcher.flush().await;
    while answers.join_next().await.is_some() {}
}

/// What the application does with a transaction, and what its checker says of it.
fn fate(body: &str) -> (Does, Resolution) {
    let number: u64 = body.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    match number % 4 {
        0 | 1 => (Does::Commit, Resolution::Commit),
        2 => (Does::RollBack, Resolution::Rollback),
        _ => (Does::Forget, Resolution::Commit),
    }
}

enum Does {
    Commit,
    RollBack,
    Forget,
}

async fn transact((producer, ledger, is_over): Shared, sender: usize) {
    for number in (0_u64..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let body = format!("transaction-{sender} {number}");
        let message = Message::builder(TRANSACTIONS).body(body.clone()).build();
        let note = |intent, is_acknowledged| {
            let sent = SentMessage { is_acknowledged, ..SentMessage::new(TRANSACTIONS, intent) };
            ledger.messages.note_sent(&body, sent);
        };
        match fate(&body).0 {
            Does::Forget => {
                let begun = producer.send_in_transaction(message).await;
                note(MessageIntent::Deliver, begun.is_ok());
                ledger.notes().not_begun += usize::from(begun.is_err());
            }
            Does::Commit => {
                match producer.in_transaction(message, async |_| Ok::<_, std::io::Error>(())).await {
                    Ok(_) => note(MessageIntent::Deliver, true),
                    Err(error) => {
                        note(MessageIntent::Deliver, false);
                        not_ended(&ledger, &body, &error);
                    }
                }
            }
            Does::RollBack => {
                let fails = async |_| Err::<(), _>(std::io::Error::other("rolled back"));
                let ended = producer.in_transaction(message, fails).await;
                note(MessageIntent::Withhold, matches!(ended, Err(TransactionError::Failed { .. })));
                match ended {
                    Err(TransactionError::Failed { .. }) => {}
                    Err(error) => not_ended(&ledger, &body, &error),
                    Ok(_) => {
                        ledger.notes().failures.push(format!("{body}: its work failed and it is committed"))
                    }
                }
            }
        }
        tokio::time::sleep(4 * PACE).await;
    }
}

fn not_ended<E: std::fmt::Display>(ledger: &ClientLedger, body: &str, error: &TransactionError<E>)
where
    TransactionError<E>: std::fmt::Display,
{
    match error {
        TransactionError::NotBegun(_) => ledger.notes().not_begun += 1,
        error => ledger.notes().failures.push(format!("{body}: {error}")),
    }
}

pub(super) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}
