//! The driver with the Rust client.

mod consuming;
mod end_to_end;
mod meter;
mod sending;

use std::time::Duration;

use anyhow::{Result, bail};
use kerolox_client::{Client, MessageQueue, Position, PullConsumer};

use crate::leg::LegName;
use crate::task::{DriverResult, DriverTask, GROUP, TOPIC, TRANSACTION_TOPIC};

/// How long it may take until committed messages are visible.
const VISIBLE_LIMIT: Duration = Duration::from_secs(10);

/// Drives a leg; its result is the last line of the output.
///
/// # Errors
/// When a call fails: a rate with failures says nothing.
#[tokio::main]
pub(crate) async fn drive(task: &DriverTask) -> Result<()> {
    let client = Client::builder(&*task.address).build()?;
    let result = match task.leg {
        LegName::Single => sending::single(&client, task).await?,
        LegName::Batch10 | LegName::Batch100 | LegName::Batch1k => sending::batches(&client, task).await?,
        LegName::Auto => sending::automatic(&client, task).await?,
        LegName::Transactions => sending::transactions(&client, task).await?,
        LegName::Read => consuming::read(&client, task).await?,
        LegName::Receive => consuming::receive(&client, task).await?,
        LegName::EndToEnd => end_to_end::run(&client, task).await?,
    };
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

/// Stores the backlog for a driver that cannot.
///
/// # Errors
/// When it is not stored.
#[tokio::main]
pub(crate) async fn fill(task: &DriverTask) -> Result<()> {
    sending::fill(&Client::builder(&*task.address).build()?, task).await
}

/// Counts for a driver that cannot: messages that the server has, once they are as many as were acknowledged.
///
/// # Errors
/// When the server does not tell.
#[tokio::main]
pub(crate) async fn count(task: &DriverTask, acknowledged: u64) -> Result<u64> {
    stored(&Client::builder(&*task.address).build()?, topic_of(task.leg), acknowledged).await
}

/// The topic of a leg.
fn topic_of(leg: LegName) -> &'static str {
    if leg == LegName::Transactions { TRANSACTION_TOPIC } else { TOPIC }
}

/// First offset and end of each queue.
async fn bounds(consumer: &PullConsumer, topic: &str) -> Result<Vec<(MessageQueue, u64, u64)>> {
    let mut bounds = Vec::new();
    for queue in consumer.queues(topic).await? {
        let first = consumer.offset(&queue, Position::Earliest).await?;
        let end = consumer.offset(&queue, Position::Latest).await?;
        bounds.push((queue, first, end));
    }
    Ok(bounds)
}

/// Messages that the server has of a topic, once they are as many as were acknowledged.
async fn stored(client: &Client, topic: &str, acknowledged: u64) -> Result<u64> {
    let consumer = client.pull_consumer(GROUP).start().await?;
    let asked = tokio::time::Instant::now();
    loop {
        let stored = bounds(&consumer, topic).await?.iter().map(|(_, first, end)| end - first).sum();
        if stored >= acknowledged || asked.elapsed() > VISIBLE_LIMIT {
            return Ok(stored);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All receipts of a batch, or its first error.
fn all_stored(results: Vec<kerolox_client::Result<kerolox_client::SendReceipt>>) -> Result<u64> {
    let count = results.len();
    for result in results {
        if let Err(error) = result {
            bail!("a message of a batch of {count} was not stored: {error}");
        }
    }
    Ok(count as u64)
}

impl From<&DriverTask> for kerolox_client::Message {
    fn from(task: &DriverTask) -> Self {
        Self::builder(topic_of(task.leg)).body(vec![b'x'; task.bytes]).build()
    }
}

/// The result of a leg that sends.
async fn sent(
    client: &Client,
    task: &DriverTask,
    tally: &meter::Tally,
    window: Duration,
) -> Result<DriverResult> {
    let stored = stored(client, topic_of(task.leg), tally.total).await?;
    Ok(tally.result(window, tally.total, stored))
}
