//! What must hold after the last crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kerolox_client::admin::wire;
use kerolox_client::{Client, Delivery, FilterExpression, SimpleConsumer};
use kerolox_core::record::Record;
use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{MessageHistory, MessageLedger, QueueEnd, ServerProcess, StandingMessage, properties};
use kerolox_log::fs::OsFolder;
use kerolox_log::{FrameSalt, Log, LogOptions};
use tokio::task::JoinSet;

use super::{GROUP, TOPIC, TX_TOPIC};

/// Receives in a row that must stay empty before a topic counts as read to its end.
const EMPTY_RECEIVES: u32 = 4;
const INVISIBLE: Duration = Duration::from_secs(3600);

/// Consumes everything, then stops the broker and reads its log.
pub(super) async fn verify(
    ledger: &MessageLedger,
    address: &str,
    broker: &mut ServerProcess,
) -> Result<Vec<CheckedProperty>> {
    let mut history = ledger.history();
    let client = Client::builder(address).build()?;
    for topic in [TOPIC, TX_TOPIC] {
        consume(&client, topic, &mut history).await.with_context(|| format!("consuming {topic}"))?;
        history.ends.extend(queue_ends(&client, address, topic).await?);
    }
    broker.kill()?;
    let log = read_log(&broker.log_folder()).map(|log| history.log = log);
    let log = log.map_err(|error| format!("{error:#}"));
    Ok(vec![
        (
            "every acknowledged message is delivered",
            properties::nothing_lost(&history, &[(GROUP, TOPIC), (GROUP, TX_TOPIC)]),
        ),
        ("nothing is delivered twice", properties::delivered_once(&history, GROUP)),
        ("nothing undecided is delivered", properties::nothing_else_received(&history)),
        ("no queue offset is used twice", properties::offsets_are_whole(&history)),
        (
            "the log holds every message once",
            log.and_then(|()| properties::log_has_everything_once(&history)),
        ),
    ])
}

/// Ids of all messages in the log, in its order.
fn read_log(folder: &Path) -> Result<Vec<String>> {
    let folder = Arc::new(OsFolder::create(folder).context("opening the log's folder")?);
    // The log has a salt of its own. Opening may make a segment, for which the disk need not have much room.
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(FrameSalt::new(0)) };
    let (log, _) = Log::open(folder, options).context("opening the log")?;
    let reader = log.reader();
    let mut ids = Vec::new();
    for frame in reader.scan(reader.start()) {
        let frame = frame.context("reading the log")?;
        if let Record::Message(message) = Record::decode(frame.kind, frame.body)? {
            ids.push(message.header.message_id);
        }
    }
    Ok(ids)
}

/// Everything in `topic`, acknowledged as it comes.
async fn consume(client: &Client, topic: &'static str, history: &mut MessageHistory) -> Result<()> {
    let consumer = client
        .simple_consumer(GROUP)
        .subscribe(topic, FilterExpression::all())
        .await_duration(Duration::from_millis(500))
        .start()
        .await?;
    let consumer = Arc::new(consumer);
    let mut empty = 0;
    while empty < EMPTY_RECEIVES {
        let batch = consumer.receive(32, INVISIBLE).await?;
        empty = if batch.is_empty() { empty + 1 } else { 0 };
        for delivery in &batch {
            let (label, queue) = (label_of(delivery), u32::try_from(delivery.queue_id())?);
            history.receive(GROUP, &label);
            history.standing.push(StandingMessage {
                topic,
                queue,
                offset: u64::try_from(delivery.offset())?,
                label,
            });
        }
        acknowledge(&consumer, batch).await?;
    }
    Ok(())
}

async fn acknowledge(consumer: &Arc<SimpleConsumer>, batch: Vec<Delivery>) -> Result<()> {
    let mut pending = JoinSet::new();
    for delivery in batch {
        let consumer = Arc::clone(consumer);
        pending.spawn(async move { consumer.ack(&delivery).await });
    }
    while let Some(done) = pending.join_next().await {
        done.context("acknowledging")??;
    }
    Ok(())
}

fn label_of(delivery: &Delivery) -> String {
    let label = delivery.message().body().split(|&byte| byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(label).into_owned()
}

/// The next offset of every queue.
async fn queue_ends(client: &Client, address: &str, topic: &'static str) -> Result<Vec<QueueEnd>> {
    let admin = client.admin().broker(&address.parse()?);
    let described = admin.describe_topic(wire::DescribeTopicRequest { name: topic.to_owned() }).await?;
    if described.queues.is_empty() {
        bail!("{topic} has no queues");
    }
    let ends = described.queues.iter();
    Ok(ends.map(|status| QueueEnd { topic, queue: status.queue, offset: status.max_offset }).collect())
}
