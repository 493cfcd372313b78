//! Legs that send.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kerolox_client::{Batcher, Batching, Client, Message, Pending, Producer, Resolution};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::meter::{Clock, Tally};
use super::{all_stored, sent, topic_of};
use crate::leg::BATCH;
use crate::task::{DriverResult, DriverTask};

/// Runs callers that do the same until the window is over; `call` returns how many messages it sent.
async fn callers<F>(
    producer: Producer,
    task: &DriverTask,
    call: F,
) -> Result<(Tally, std::time::Duration, Arc<Producer>)>
where
    F: AsyncCall,
{
    let (clock, producer, call) = (Clock::default(), Arc::new(producer), Arc::new(call));
    let mut callers = JoinSet::new();
    for _ in 0..task.callers {
        let (clock, producer, call) = (clock.clone(), Arc::clone(&producer), Arc::clone(&call));
        let message = Message::from(task);
        callers.spawn(async move {
            let mut tally = Tally::new();
            while !clock.is_over() {
                let began = Instant::now();
                let count = call.call(&producer, &message).await?;
                tally.note(&clock, began, count);
            }
            Ok(tally)
        });
    }
    let window = clock.run(task.warm_up(), task.window()).await;
    Ok((Tally::of(callers).await?, window, producer))
}

/// One call of a caller.
trait AsyncCall: Send + Sync + 'static {
    fn call(&self, producer: &Producer, message: &Message) -> impl Future<Output = Result<u64>> + Send;
}

struct SingleSend;

impl AsyncCall for SingleSend {
    async fn call(&self, producer: &Producer, message: &Message) -> Result<u64> {
        producer.send(message.clone()).await?;
        Ok(1)
    }
}

struct BatchSend;

impl AsyncCall for BatchSend {
    async fn call(&self, producer: &Producer, message: &Message) -> Result<u64> {
        all_stored(producer.send_batch(vec![message.clone(); BATCH]).await)
    }
}

struct TransactionCommit;

impl AsyncCall for TransactionCommit {
    async fn call(&self, producer: &Producer, message: &Message) -> Result<u64> {
        producer.send_in_transaction(message.clone()).await?.commit().await?;
        Ok(1)
    }
}

/// Single sends.
pub(super) async fn single(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    let producer = client.producer().topic(topic_of(task.leg)).start().await?;
    let (tally, window, _producer) = callers(producer, task, SingleSend).await?;
    sent(client, task, &tally, window).await
}

/// Explicit batches.
pub(super) async fn batches(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    let producer = client.producer().topic(topic_of(task.leg)).start().await?;
    let (tally, window, _producer) = callers(producer, task, BatchSend).await?;
    sent(client, task, &tally, window).await
}

/// Transactions, each with its commit.
pub(super) async fn transactions(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    let builder = client.producer().topic(topic_of(task.leg));
    let producer = builder.transaction_checker_sync(|_| Resolution::Unknown).start().await?;
    let (tally, window, _producer) = callers(producer, task, TransactionCommit).await?;
    sent(client, task, &tally, window).await
}

/// Batches that the client makes; a latency is the time from handing a message over to its answer.
pub(super) async fn automatic(client: &Client, task: &DriverTask) -> Result<DriverResult> {
    let producer = Arc::new(client.producer().topic(topic_of(task.leg)).start().await?);
    let batcher = Batcher::new(producer, Batching::default())?;
    let clock = Clock::default();
    let (answers, waiting) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(answered(clock.clone(), waiting));
    let (callers_clock, message) = (clock.clone(), Message::from(task));
    tasks.spawn(async move {
        while !callers_clock.is_over() {
            let began = Instant::now();
            answers.send((began, batcher.send(message.clone()).await?))?;
        }
        Ok(Tally::new())
    });
    let window = clock.run(task.warm_up(), task.window()).await;
    let tally = Tally::of(tasks).await?;
    sent(client, task, &tally, window).await
}

/// Waits for answers in the order of the messages, which is that of their batches.
async fn answered(clock: Clock, mut waiting: mpsc::UnboundedReceiver<(Instant, Pending)>) -> Result<Tally> {
    let mut tally = Tally::new();
    while let Some((began, pending)) = waiting.recv().await {
        pending.await?;
        tally.note(&clock, began, 1);
    }
    Ok(tally)
}

/// Stores a backlog.
pub(super) async fn fill(client: &Client, task: &DriverTask) -> Result<()> {
    let producer = Arc::new(client.producer().topic(topic_of(task.leg)).start().await?);
    let callers = task.callers as u64;
    let batches = task.backlog / BATCH as u64;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (producer, message) = (Arc::clone(&producer), Message::from(task));
        tasks.spawn(async move {
            for _ in (caller..batches).step_by(callers as usize) {
                all_stored(producer.send_batch(vec![message.clone(); BATCH]).await)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
