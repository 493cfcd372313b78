//! `message export`.

use super::bar::Bar;
use super::file::{Form, Next, Reader as FileReader, Writer, summary};
use super::item::{Item, SCHEDULED};
use crate::command::message::read::{Reader, Start, Wanted};
use crate::command::offset::parse_time;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use prost::Message as _;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Write the messages of topics to a file, without consuming them
///
/// Queue by queue, without the progress of consumers. Messages that become visible after it began are left out, and so
/// are undecided ones: half messages. An interrupted export goes on with --resume.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the topic; several separated by ','
    #[arg(short = 't', long = "topic", value_delimiter = ',', required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// The file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// How it is written [default: lines of JSON if its name ends in .jsonl, else binary]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Only messages that became visible at or after this time: milliseconds since 1970, 2026-01-31T08:00:00Z
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    from: Option<i64>,
    /// Only messages that became visible before this time
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    until: Option<i64>,
    /// Also scheduled messages that are not visible yet
    #[arg(long)]
    scheduled: bool,
    /// Go on with a file that an export left
    #[arg(long)]
    resume: bool,
    /// Read the file once more at the end, and check it
    #[arg(long)]
    verify: bool,
}

/// The content of an unfinished file.
#[derive(Default)]
struct Held {
    /// Where each queue goes on, by topic, broker and queue.
    next: HashMap<(String, String, u32), u64>,
    /// Ids of scheduled messages.
    scheduled: HashSet<String>,
    items: u64,
    /// Bytes of whole items.
    length: u64,
    /// Offsets that do not come in order.
    disorder: u64,
}

impl Held {
    fn read(path: &std::path::Path, form: Form) -> Result<Self> {
        let mut reader = FileReader::open(path, form)?;
        let mut held = Self::default();
        while let Next::Item(item) = reader.next()? {
            held.items += 1;
            if item.is_scheduled() {
                let is_new = held.scheduled.insert(item.system().message_id);
                held.disorder += u64::from(!is_new);
                continue;
            }
            let key = (item.topic().to_owned(), item.broker.clone(), item.queue);
            let next = held.next.entry(key).or_default();
            held.disorder += u64::from(item.offset < *next);
            *next = item.offset + 1;
        }
        held.length = reader.good;
        Ok(held)
    }
}

impl Export {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let form = self.form.unwrap_or_else(|| Form::of(&self.file));
        let held = match self.resume && self.file.exists() {
            true => Held::read(&self.file, form)?,
            false => Held::default(),
        };
        let mut writer = match self.resume && self.file.exists() {
            true => Writer::resume(&self.file, form, held.length)?,
            false => Writer::create(&self.file, form)?,
        };
        let until_ms = self.until.unwrap_or_else(now_ms);
        let mut written = held.items;
        let (mut damaged, mut undecided) = (0, 0);
        for topic in &self.topics {
            let wanted = Wanted {
                topic: topic.clone(),
                start: self.from.map_or(Start::Earliest, Start::TimeMs),
                until_ms: Some(until_ms),
                broker: None,
                queue: None,
                lite: None,
            };
            let mut reader = Reader::open(&self.common, &self.place, wanted).await?;
            for place in &mut reader.places {
                let key = (topic.clone(), place.broker.info.group.clone(), place.queue);
                place.next = held.next.get(&key).copied().or(place.next);
            }
            let (total, half) = self.expected(topic).await?;
            undecided += half;
            let bar = Bar::new(&format!("export {topic}"), total);
            for at in 0..reader.places.len() {
                loop {
                    let page = reader.page(at).await?;
                    if page.is_empty() {
                        break;
                    }
                    for found in page {
                        writer.put(&Item::new(found))?;
                        written += 1;
                        bar.step();
                    }
                }
                // An interrupted export has at least whole queues.
                writer.flush()?;
            }
            bar.done();
            damaged += reader.damaged();
            if self.scheduled {
                written += self.scheduled(topic, &held, &mut writer).await?;
            }
        }
        writer.flush()?;
        let mut report = CommandReport::ok(
            format!("{written} messages in {}", self.file.display()),
            summary(&self.file, written),
        );
        if self.verify {
            let again = Held::read(&self.file, form)?;
            if again.items != written || again.disorder > 0 {
                return Err(CommandFailure::failed(format!(
                    "{} holds {} messages, {} of them out of order, in place of {written}",
                    self.file.display(),
                    again.items,
                    again.disorder
                )));
            }
            report.text.push_str(", verified");
            report.json["verified"] = json!(true);
        }
        if damaged > 0 {
            report.warnings.push(CommandFailure::failed(format!(
                "{damaged} messages cannot be read: the log is damaged where they lie"
            )));
        }
        if undecided > 0 {
            report.warnings.push(CommandFailure::failed(format!(
                "{undecided} undecided half messages are left out; see `mqadmin transaction list`"
            )));
        }
        Ok(report)
    }

    /// Messages of a topic, and its undecided half messages.
    async fn expected(&self, topic: &str) -> Result<(u64, u64)> {
        let (admin, brokers) = self.place.brokers(&self.common, Some(topic)).await?;
        let (mut total, mut half) = (0, 0);
        for broker in brokers {
            let request = wire::DescribeTopicRequest { name: topic.to_owned() };
            let said = admin.broker(&broker.address).describe_topic(request).await?;
            total += said.queues.iter().map(|queue| queue.max_offset - queue.min_offset).sum::<u64>();
            half += said.undecided_transactions;
        }
        Ok((total, half))
    }

    /// Writes the scheduled messages; returns their number.
    async fn scheduled(&self, topic: &str, held: &Held, writer: &mut Writer) -> Result<u64> {
        let (admin, brokers) = self.place.brokers(&self.common, Some(topic)).await?;
        let mut written = 0;
        for broker in brokers {
            let mut request = wire::ListTimersRequest { topic: topic.to_owned(), ..Default::default() };
            loop {
                let page = admin.broker(&broker.address).list_timers(request.clone()).await?;
                for timer in page.messages {
                    let message = v2::Message::decode(timer.message.as_slice()).map_err(|error| {
                        CommandFailure::failed(format!(
                            "broker {} answered with a malformed message: {error}",
                            broker.info.group
                        ))
                    })?;
                    if held.scheduled.contains(&timer.message_id) {
                        continue;
                    }
                    let (queue, offset) = SCHEDULED;
                    let broker = broker.info.group.clone();
                    writer.put(&Item {
                        broker,
                        queue,
                        offset,
                        store_ms: timer.store_ms,
                        message: Some(message),
                    })?;
                    written += 1;
                }
                request.next = page.next;
                if request.next.is_none() {
                    break;
                }
            }
        }
        Ok(written)
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
