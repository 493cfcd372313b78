//! `message import`.

use super::bar::Bar;
use super::file::{Form, Next, Reader as FileReader};
use super::item::Item;
use crate::command::message::copied;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_client::{Batcher, Batching, Message, Producer, Resolution};
use kerolox_proto::v2::MessageType;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Messages between two notes of how far it is. After an interruption so many are looked up before they are sent again.
const CHUNK: usize = 1_000;
/// Messages that are looked up at the same time.
const LOOKUPS: usize = 64;
/// Transactions at the same time.
const TRANSACTIONS: usize = 32;

/// Send the messages of a file that was exported
///
/// Each keeps its id, keys, tag, properties, message group, delivery time and priority; messages of one message group keep their order, and
/// those of transactions are sent as transactions and committed. The topics must be there (see `mqadmin config restore`).
/// How far it is is noted beside the file, and the same command goes on from there: nothing is sent twice.
#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// The file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// How it is written [default: lines of JSON if its name ends in .jsonl, else binary]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Send everything to this topic in place of its own
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Begin anew, whatever was imported before
    #[arg(long)]
    restart: bool,
    /// Look every message up at the end
    #[arg(long)]
    verify: bool,
    /// Only say what would be sent
    #[arg(long)]
    dry_run: bool,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// Messages that were sent and acknowledged, from the beginning of the file.
    done: u64,
    /// Messages behind them that may have been sent.
    doubtful: u64,
}

impl Progress {
    fn path(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(".imported");
        PathBuf::from(name)
    }

    fn load(file: &Path) -> Result<Self> {
        let path = Self::path(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                CommandFailure::failed(format!(
                    "{} does not say how far the import is ({error}); pass --restart, or mend it",
                    path.display()
                ))
            }),
            Err(_) => Ok(Self::default()),
        }
    }

    fn save(self, file: &Path) -> Result<()> {
        let path = Self::path(file);
        let draft = path.with_extension("imported.new");
        let written =
            std::fs::write(&draft, json!(self).to_string()).and_then(|()| std::fs::rename(&draft, &path));
        written.map_err(|error| CommandFailure::failed(format!("cannot write {}: {error}", path.display())))
    }
}

impl Import {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let form = self.form.unwrap_or_else(|| Form::of(&self.file));
        let (topics, total) = self.contents(form)?;
        let before = if self.restart { Progress::default() } else { Progress::load(&self.file)? };
        if self.dry_run {
            let text = format!(
                "dry run, nothing was sent: would send {} messages to {}, behind {} that were sent before",
                total.saturating_sub(before.done),
                topics.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
                before.done
            );
            let json =
                json!({ "dryRun": true, "messages": total, "sentBefore": before.done, "topics": topics });
            return Ok(CommandReport::ok(text, json));
        }
        let mut targets = Vec::new();
        for topic in &topics {
            targets.push(Target::open(&self, topic).await?);
        }
        let mut reader = FileReader::open(&self.file, form)?;
        let bar = Bar::new("import", total);
        let (mut at, mut found_again) = (0, 0);
        while at < before.done && matches!(reader.next()?, Next::Item(_)) {
            at += 1;
        }
        bar.advance(at);
        let mut doubtful = before.doubtful;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            while chunk.len() < CHUNK
                && let Next::Item(item) = reader.next()?
            {
                chunk.push(*item);
            }
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len() as u64;
            let known = (doubtful > 0).then_some(&mut found_again);
            doubtful = doubtful.saturating_sub(length);
            Progress { done: at, doubtful: length.max(doubtful) }.save(&self.file)?;
            self.send(&targets, chunk, known).await?;
            at += length;
            bar.advance(length);
            Progress { done: at, doubtful: 0 }.save(&self.file)?;
        }
        bar.done();
        let sent = at - before.done - found_again;
        let mut report = CommandReport::ok(
            format!("{sent} messages were sent, {} had been before", before.done + found_again),
            json!({ "file": self.file.display().to_string(), "sent": sent, "sentBefore": before.done + found_again }),
        );
        if self.verify {
            let missing = self.missing(form, &targets).await?;
            if !missing.is_empty() {
                let shown = missing.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(CommandFailure::failed(format!(
                    "{} of {total} messages cannot be found, such as {shown}",
                    missing.len()
                )));
            }
            report.text.push_str(", all are found");
            report.json["verified"] = json!(true);
        }
        Ok(report)
    }

    /// The topics that messages go to, and how many messages there are.
    fn contents(&self, form: Form) -> Result<(BTreeSet<String>, u64)> {
        let mut reader = FileReader::open(&self.file, form)?;
        let (mut topics, mut total) = (BTreeSet::new(), 0);
        while let Next::Item(item) = reader.next()? {
            topics.insert(self.to.clone().unwrap_or_else(|| item.topic().to_owned()));
            total += 1;
        }
        Ok((topics, total))
    }

    async fn send(&self, targets: &[Target], chunk: Vec<Item>, known: Option<&mut u64>) -> Result<()> {
        let mut pending = Vec::new();
        let mut transactions = Vec::new();
        let mut known = known;
        for item in chunk {
            let topic = self.to.clone().unwrap_or_else(|| item.topic().to_owned());
            let target = targets.iter().find(|target| target.topic == topic);
            let target = target.ok_or_else(|| CommandFailure::failed("the file has changed meanwhile"))?;
            let id = item.system().message_id;
            if let Some(found) = known.as_deref_mut()
                && target.has(&id).await?
            {
                *found += 1;
                continue;
            }
            let is_transaction = item.system().message_type == i32::from(MessageType::Transaction);
            let message = message(&topic, &item);
            if is_transaction {
                transactions.push((target, message));
            } else {
                pending.push(target.batcher.send(message).await?);
            }
        }
        for group in transactions.chunks(TRANSACTIONS) {
            let sends = group.iter().map(|(target, message)| {
                let message = message.clone();
                async move {
                    let half = target.producer.send_in_transaction(message).await?;
                    half.commit().await
                }
            });
            for sent in futures_util::future::join_all(sends).await {
                sent?;
            }
        }
        for answer in pending {
            answer.await?;
        }
        Ok(())
    }

    /// Ids of messages that no broker has.
    async fn missing(&self, form: Form, targets: &[Target]) -> Result<Vec<String>> {
        let mut reader = FileReader::open(&self.file, form)?;
        let mut missing = Vec::new();
        loop {
            let mut some = Vec::with_capacity(LOOKUPS);
            while some.len() < LOOKUPS
                && let Next::Item(item) = reader.next()?
            {
                let topic = self.to.clone().unwrap_or_else(|| item.topic().to_owned());
                some.push((topic, item.system().message_id));
            }
            if some.is_empty() {
                return Ok(missing);
            }
            let looked_up = some.iter().map(async |(topic, id)| {
                match targets.iter().find(|target| target.topic == *topic) {
                    Some(target) => target.has(id).await,
                    None => Ok(false),
                }
            });
            let looked_up = futures_util::future::join_all(looked_up).await;
            for ((_, id), has) in some.into_iter().zip(looked_up) {
                if !has? {
                    missing.push(id);
                }
            }
        }
    }
}

/// A topic that messages are sent to.
struct Target {
    topic: String,
    producer: Arc<Producer>,
    batcher: Batcher,
    admin: Admin,
    brokers: Vec<Master>,
}

impl Target {
    async fn open(import: &Import, topic: &str) -> Result<Self> {
        let (admin, brokers) = import.place.brokers(&import.common, Some(topic)).await?;
        let client = import.place.client(&import.common)?;
        let producer = client.producer().topic(topic).transaction_checker(|_| async { Resolution::Commit });
        let producer = Arc::new(producer.start().await?);
        let batcher = Batcher::new(Arc::clone(&producer), Batching::default())?;
        Ok(Self { topic: topic.to_owned(), producer, batcher, admin, brokers })
    }

    /// Whether some broker has a message of this id.
    async fn has(&self, id: &str) -> Result<bool> {
        for broker in &self.brokers {
            let request = wire::QueryMessagesRequest {
                topic: self.topic.clone(),
                by: Some(wire::query_messages_request::By::MessageId(id.to_owned())),
                limit: 1,
                ..Default::default()
            };
            if !self.admin.broker(&broker.address).query_messages(request).await?.messages.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The message with its id and its delivery time.
fn message(topic: &str, item: &Item) -> Message {
    let system = item.system();
    let mut message = copied(topic, item.message.clone().unwrap_or_default());
    if !system.message_id.is_empty() {
        message = message.message_id(system.message_id);
    }
    if let Some(time) = system.delivery_timestamp.and_then(|time| time_of(&time)) {
        message = message.delivery_timestamp(time);
    }
    message.build()
}

fn time_of(time: &prost_types::Timestamp) -> Option<SystemTime> {
    let since_epoch = Duration::new(u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_noted_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("messages.jsonl");
        assert_eq!(Progress::load(&file).unwrap(), Progress::default());
        let progress = Progress { done: 7, doubtful: 3 };
        progress.save(&file).unwrap();
        assert_eq!(Progress::load(&file).unwrap(), progress);
        std::fs::write(Progress::path(&file), "?").unwrap();
        assert!(Progress::load(&file).unwrap_err().message.contains("--restart"));
    }
}
