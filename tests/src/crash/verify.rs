//! What must hold after the last crash.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kerolox_client::admin::wire;
use kerolox_client::{Client, Delivery, FilterExpression, SimpleConsumer};
use kerolox_core::record::Record;
use kerolox_log::fs::OsFolder;
use kerolox_log::{Log, LogOptions, Salt};
use tokio::task::JoinSet;

use super::ledger::{Entry, Fate, Ledger};
use super::{Check, GROUP, TOPIC, TX_TOPIC};
use kerolox_harness::ServerProcess;

/// Receives in a row that must stay empty before a topic counts as read to its end.
const EMPTY_RECEIVES: u32 = 4;
const INVISIBLE: Duration = Duration::from_secs(3600);

/// A message as it was delivered.
struct Delivered {
    label: String,
    queue: i32,
    offset: i64,
}

type Entries = HashMap<String, Entry>;

/// Consumes everything, then stops the broker and reads its log.
pub(super) async fn verify(ledger: &Ledger, address: &str, broker: &mut ServerProcess) -> Result<Vec<Check>> {
    let entries = ledger.entries();
    let client = Client::builder(address).build()?;
    let mut topics = Vec::new();
    for topic in [TOPIC, TX_TOPIC] {
        let delivered = consume(&client, topic).await.with_context(|| format!("consuming {topic}"))?;
        let ends = queue_ends(&client, address, topic).await?;
        topics.push((topic, delivered, ends));
    }
    broker.kill()?;
    Ok(vec![
        Check { name: "every acknowledged message is delivered", outcome: all_there(&entries, &topics) },
        Check { name: "nothing is delivered twice or undecided", outcome: nothing_else(&entries, &topics) },
        Check { name: "no queue offset is used twice", outcome: offsets(&entries, &topics) },
        Check { name: "the log holds every message once", outcome: log_content(&entries, &broker.data()) },
    ])
}

type Topics = [(&'static str, Vec<Delivered>, HashMap<i32, i64>)];

fn all_there(entries: &Entries, topics: &Topics) -> Result<String, String> {
    let delivered: HashSet<&str> = all(topics).map(|found| found.label.as_str()).collect();
    let expected = entries.iter().filter(|(_, entry)| entry.fate == Fate::Delivered);
    let lost: Vec<&String> = expected
        .clone()
        .map(|(label, _)| label)
        .filter(|label| !delivered.contains(label.as_str()))
        .collect();
    none_of(&lost, "acknowledged but lost")?;
    Ok(format!("{} messages", expected.count()))
}

fn nothing_else(entries: &Entries, topics: &Topics) -> Result<String, String> {
    let mut seen = HashSet::new();
    let twice: Vec<&str> =
        all(topics).map(|found| found.label.as_str()).filter(|&label| !seen.insert(label)).collect();
    none_of(&twice, "delivered twice")?;
    let wrong: Vec<&str> = seen
        .iter()
        .copied()
        .filter(|&label| entries.get(label).is_none_or(|entry| entry.fate == Fate::Never))
        .collect();
    none_of(&wrong, "delivered although never committed, or never sent")?;
    Ok(format!("{} messages", seen.len()))
}

fn offsets(entries: &Entries, topics: &Topics) -> Result<String, String> {
    for (topic, delivered, ends) in topics {
        let mut used = HashSet::new();
        let twice: Vec<String> = delivered
            .iter()
            .filter(|found| !used.insert((found.queue, found.offset)))
            .map(|found| format!("{topic} queue {} offset {}", found.queue, found.offset))
            .collect();
        none_of(&twice, "used twice")?;
        for (&queue, &end) in ends {
            let missing: Vec<i64> = (0..end).filter(|&offset| !used.contains(&(queue, offset))).collect();
            none_of(&missing, &format!("offsets of {topic} queue {queue} without a message"))?;
        }
        let moved: Vec<&str> = delivered
            .iter()
            .filter(|found| {
                let promised = entries.get(&found.label).and_then(|entry| entry.offset);
                promised.is_some_and(|offset| offset != found.offset)
            })
            .map(|found| found.label.as_str())
            .collect();
        none_of(&moved, "delivered from another offset than was answered to the producer")?;
    }
    Ok(format!("{} offsets", all(topics).count()))
}

/// Reads the log of the broker, which must not run: every message is in it once, and every acknowledged one is.
fn log_content(entries: &Entries, data: &Path) -> Result<String, String> {
    let stored = read_log(data).map_err(|error| format!("{error:#}"))?;
    let mut seen = HashSet::new();
    let twice: Vec<&String> = stored.iter().filter(|id| !seen.insert(*id)).collect();
    none_of(&twice, "in the log twice")?;
    let lost: Vec<&String> =
        entries.values().filter_map(|entry| entry.stored.as_ref()).filter(|id| !seen.contains(id)).collect();
    none_of(&lost, "acknowledged but not in the log")?;
    Ok(format!("{} records", stored.len()))
}

/// Ids of all messages in the log, in its order.
fn read_log(data: &Path) -> Result<Vec<String>> {
    let folder = Arc::new(OsFolder::create(&data.join("log")).context("opening the log's folder")?);
    // The log has a salt of its own. Opening may make a segment, for which the disk need not have much room.
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(Salt::new(0)) };
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
async fn consume(client: &Client, topic: &str) -> Result<Vec<Delivered>> {
    let consumer = client
        .simple_consumer(GROUP)
        .subscribe(topic, FilterExpression::all())
        .await_duration(Duration::from_millis(500))
        .start()
        .await?;
    let consumer = Arc::new(consumer);
    let mut delivered = Vec::new();
    let mut empty = 0;
    while empty < EMPTY_RECEIVES {
        let batch = consumer.receive(32, INVISIBLE).await?;
        empty = if batch.is_empty() { empty + 1 } else { 0 };
        delivered.extend(batch.iter().map(to_delivered));
        acknowledge(&consumer, batch).await?;
    }
    Ok(delivered)
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

fn to_delivered(delivery: &Delivery) -> Delivered {
    let body = delivery.message().body();
    let label = body.split(|&byte| byte == b' ').next().unwrap_or_default();
    Delivered {
        label: String::from_utf8_lossy(label).into_owned(),
        queue: delivery.queue_id(),
        offset: delivery.offset(),
    }
}

/// The next offset of every queue.
async fn queue_ends(client: &Client, address: &str, topic: &str) -> Result<HashMap<i32, i64>> {
    let admin = client.admin().broker(&address.parse()?);
    let described = admin.describe_topic(wire::DescribeTopicRequest { name: topic.to_owned() }).await?;
    if described.queues.is_empty() {
        bail!("{topic} has no queues");
    }
    described
        .queues
        .iter()
        .map(|status| Ok((i32::try_from(status.queue)?, i64::try_from(status.max_offset)?)))
        .collect()
}

fn all(topics: &Topics) -> impl Iterator<Item = &Delivered> {
    topics.iter().flat_map(|(_, delivered, _)| delivered)
}

/// An error that counts and names some of `found`, unless it is empty.
fn none_of(found: &[impl std::fmt::Debug], what: &str) -> Result<(), String> {
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{} {what}: {:?}", found.len(), &found[..found.len().min(10)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fate: Fate, offset: Option<i64>) -> Entry {
        Entry { fate, stored: None, offset }
    }

    fn found(label: &str, queue: i32, offset: i64) -> Delivered {
        Delivered { label: label.to_owned(), queue, offset }
    }

    fn entries() -> Entries {
        HashMap::from([
            ("a".to_owned(), entry(Fate::Delivered, Some(0))),
            ("b".to_owned(), entry(Fate::Never, None)),
            ("c".to_owned(), entry(Fate::Open, None)),
        ])
    }

    fn outcomes(delivered: Vec<Delivered>, end: i64) -> [bool; 3] {
        let topics = [("t", delivered, HashMap::from([(0, end)]))];
        [
            all_there(&entries(), &topics).is_ok(),
            nothing_else(&entries(), &topics).is_ok(),
            offsets(&entries(), &topics).is_ok(),
        ]
    }

    #[test]
    fn a_right_outcome_passes_with_and_without_the_open_message() {
        assert_eq!(outcomes(vec![found("a", 0, 0)], 1), [true, true, true]);
        assert_eq!(outcomes(vec![found("a", 0, 0), found("c", 0, 1)], 2), [true, true, true]);
    }

    #[test]
    fn each_kind_of_damage_is_noticed() {
        assert_eq!(outcomes(vec![], 0), [false, true, true], "a lost message");
        assert!(!outcomes(vec![found("a", 0, 0), found("a", 0, 1)], 2)[1], "a doubled message");
        assert!(!outcomes(vec![found("a", 0, 0), found("b", 0, 1)], 2)[1], "an uncommitted message");
        assert!(!outcomes(vec![found("a", 0, 0), found("x", 0, 1)], 2)[1], "an unknown message");
        assert!(!outcomes(vec![found("a", 0, 0), found("c", 0, 0)], 1)[2], "a doubled offset");
        assert!(!outcomes(vec![found("a", 0, 0)], 2)[2], "an empty offset");
        assert!(!outcomes(vec![found("c", 0, 0), found("a", 0, 1)], 2)[2], "a moved message");
    }
}
