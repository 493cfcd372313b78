//! Clients that write until they are told to stop, and note what the broker answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use kerolox_client::{Client, Message, Producer, Resolution, RetryPolicy};
use tokio::task::JoinHandle;

use super::{TOPIC, TX_TOPIC};
use kerolox_harness::{MessageIntent, MessageLedger, SeededRandom, SentMessage};

const CLIENTS: usize = 2;
const NORMAL_WRITERS: usize = 3;
const BODY_BYTES_MAX: u64 = 3000;
/// Pause after an error, while the broker is away.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Writers {
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Starts some clients, each with several writers of normal messages and one of transactions.
    pub(super) async fn start(
        address: &str,
        ledger: &MessageLedger,
        random: &mut SeededRandom,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for client_number in 0..CLIENTS {
            let client = Client::builder(address).request_timeout(Duration::from_secs(1)).build()?;
            let producer = Arc::new(start_producer(&client).await?);
            for writer_number in 0..=NORMAL_WRITERS {
                let writer = Writer {
                    name: format!("client-{client_number}-writer-{writer_number}"),
                    producer: Arc::clone(&producer),
                    ledger: ledger.clone(),
                    random: SeededRandom::new(random.number()),
                    stop: Arc::clone(&stop),
                };
                tasks.push(tokio::spawn(writer.run(writer_number == NORMAL_WRITERS)));
            }
        }
        Ok(Self { tasks, stop })
    }

    /// Lets every writer finish what it is doing.
    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("writers do not panic");
        }
    }
}

async fn start_producer(client: &Client) -> Result<Producer> {
    // A repeated send may store a message twice, and rightly so. Without repetition none may be there twice.
    let policy = RetryPolicy::never();
    let producer = client
        .producer()
        .topics([TOPIC, TX_TOPIC])
        .transaction_checker_sync(|_| Resolution::Unknown)
        .retry_policy(policy)
        .start()
        .await?;
    Ok(producer)
}

struct Writer {
    name: String,
    producer: Arc<Producer>,
    ledger: MessageLedger,
    random: SeededRandom,
    stop: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, transactions: bool) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let label = format!("{}-{number}", self.name);
            let sent = if transactions { self.write_half(&label).await } else { self.write(&label).await };
            let failed = sent.message_id.is_none();
            self.ledger.note_sent(&label, sent);
            if failed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn write(&mut self, label: &str) -> SentMessage {
        let message = self.message(TOPIC, label);
        match self.producer.send(message).await {
            Ok(receipt) => SentMessage {
                message_id: Some(receipt.message_id),
                offset: u64::try_from(receipt.offset).ok(),
                ..SentMessage::acknowledged(TOPIC, MessageIntent::Deliver)
            },
            Err(error) => {
                self.ledger.note_error(error);
                SentMessage::new(TOPIC, MessageIntent::Deliver)
            }
        }
    }

    /// Sends a half message and commits it, rolls it back or leaves it undecided.
    async fn write_half(&mut self, label: &str) -> SentMessage {
        let message = self.message(TX_TOPIC, label);
        let transaction = match self.producer.send_in_transaction(message).await {
            Ok(transaction) => transaction,
            Err(error) => {
                self.ledger.note_error(error);
                return SentMessage::new(TX_TOPIC, MessageIntent::Withhold);
            }
        };
        let sent = match self.random.below(4) {
            0 => SentMessage::acknowledged(TX_TOPIC, MessageIntent::Withhold),
            1 => {
                // Rolled back or, when the answer was lost, undecided: invisible either way.
                let _ = transaction.rollback().await;
                SentMessage::acknowledged(TX_TOPIC, MessageIntent::Withhold)
            }
            _ => match transaction.commit().await {
                Ok(()) => SentMessage::acknowledged(TX_TOPIC, MessageIntent::Deliver),
                Err(error) => {
                    self.ledger.note_error(error);
                    SentMessage::new(TX_TOPIC, MessageIntent::Deliver)
                }
            },
        };
        SentMessage { message_id: Some(transaction.message_id().to_owned()), ..sent }
    }

    /// A message whose body begins with its label; the rest is filled up to a random length.
    fn message(&mut self, topic: &str, label: &str) -> Message {
        let mut body = format!("{label} ").into_bytes();
        let len = body.len() + usize::try_from(self.random.below(BODY_BYTES_MAX)).expect("some thousand");
        body.resize_with(len, || b'.');
        Message::builder(topic).body(body).build()
    }
}
