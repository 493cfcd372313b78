//! `browse` and `tail`: messages on the standard output, without consuming them.

use super::read::{Reader, Start, Wanted};
use super::show::{Template, Writing};
use crate::command::offset::parse_time;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_core::filter::Filter;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

/// How long is waited for more.
const POLL: Duration = Duration::from_millis(200);

/// Which messages, and how they are written.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    pub(super) place: Where,
    /// Name of the topic
    #[arg(short = 't', long)]
    pub(super) topic: String,
    /// Only messages with one of these tags: 'a || b'
    #[arg(long, default_value = "*", value_name = "TAGS")]
    pub(super) tags: String,
    /// Only messages whose properties satisfy this SQL-92 condition
    #[arg(long, conflicts_with = "tags", value_name = "CONDITION")]
    pub(super) sql: Option<String>,
    /// Only this broker group
    #[arg(long, value_name = "BROKER_NAME")]
    broker_name: Option<String>,
    /// Only this queue
    #[arg(short = 'i', long = "queue-id", alias = "queueId", value_name = "QUEUE")]
    queue: Option<u32>,
    /// Only this lite topic, of a topic of type LITE
    #[arg(long, value_name = "NAME")]
    lite: Option<String>,
    /// Stop after so many messages
    #[arg(long = "max-num", alias = "maxNum", short = 'm', value_name = "COUNT")]
    pub(super) most: Option<u64>,
    /// Write each message so: %b body, %t topic, %i id, %g tag, %k keys, %p{NAME} property, %G message group, %l lite topic,
    /// %P priority, %B broker, %q queue, %o offset, %s store time; \n and \t
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Template>,
}

/// Show messages of a topic without consuming them
#[derive(Debug, Args)]
pub(crate) struct Browse {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    selection: Selection,
    /// Where to begin: earliest, a time (milliseconds since 1970, 2026-01-31T08:00:00Z), or offset:N
    #[arg(long, default_value = "earliest", value_name = "PLACE")]
    from: Start,
    /// Only messages that became visible before this time
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    until: Option<i64>,
}

/// Show messages of a topic as they come, without consuming them
#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    selection: Selection,
    /// Where to begin: latest, earliest, a time (milliseconds since 1970, 2026-01-31T08:00:00Z), or offset:N
    #[arg(long, default_value = "latest", value_name = "PLACE")]
    from: Start,
}

/// Show messages of a topic without consuming them; browse can do more
#[derive(Debug, Args)]
pub(crate) struct PrintMsg {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Accepted and without meaning: bodies are taken for UTF-8
    #[arg(short = 'c', long = "charset-name", alias = "charsetName", value_name = "CHARSET")]
    charset: Option<String>,
    /// Only messages with one of these tags: 'a || b'
    #[arg(
        short = 's',
        long = "sub-expression",
        alias = "subExpression",
        default_value = "*",
        value_name = "TAGS"
    )]
    tags: String,
    /// At or after this time: milliseconds since 1970, or yyyy-MM-dd#HH:mm:ss:SSS
    #[arg(short = 'b', long = "begin-timestamp", alias = "beginTimestamp", value_parser = parse_time, value_name = "TIME")]
    begin: Option<i64>,
    /// Before this time
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_parser = parse_time, value_name = "TIME")]
    end: Option<i64>,
    /// Whether to show bodies
    #[arg(short = 'd', long = "print-body", alias = "printBody", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    body: Option<bool>,
    /// Only this lite topic, of a topic of type LITE
    #[arg(short = 'l', long = "lmq-parent-topic", alias = "lmqParentTopic", value_name = "NAME")]
    lite: Option<String>,
}

impl PrintMsg {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let without_body = "%s %B/%q %o %i [%g] [%k]\n";
        let wanted = Wanted {
            topic: self.topic,
            start: self.begin.map_or(Start::Earliest, Start::TimeMs),
            until_ms: self.end,
            broker: None,
            queue: None,
            lite: self.lite,
        };
        let template = match self.body {
            Some(false) => Some(without_body.parse().map_err(CommandFailure::usage)?),
            _ => None,
        };
        let printing = Printing {
            place: &Where::default(),
            wanted,
            filter: Filter::tags(&self.tags).map_err(CommandFailure::usage)?,
            most: None,
            writing: Writing::new(self.common.output, template.as_ref()),
        };
        printing.print(&self.common, None).await
    }
}

impl Browse {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.selection.print(&self.common, self.from, self.until, None).await
    }
}

impl Tail {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let printing = self.selection.print(&self.common, self.from, None, Some(Duration::MAX));
        tokio::select! {
            printed = printing => printed,
            _ = tokio::signal::ctrl_c() => Ok(CommandReport::ok(String::new(), Value::Null)),
        }
    }
}

impl Selection {
    /// How each message is written.
    pub(super) fn writing(&self, common: &Common) -> Writing {
        Writing::new(common.output, self.format.as_ref())
    }

    pub(super) async fn print(
        &self,
        common: &Common,
        start: Start,
        until_ms: Option<i64>,
        follow: Option<Duration>,
    ) -> Result<CommandReport> {
        let filter = match &self.sql {
            Some(condition) => {
                Filter::sql(condition).map_err(|error| CommandFailure::usage(error.to_string()))?
            }
            None => Filter::tags(&self.tags).map_err(CommandFailure::usage)?,
        };
        let wanted = Wanted {
            topic: self.topic.clone(),
            start,
            until_ms,
            broker: self.broker_name.clone(),
            queue: self.queue,
            lite: self.lite.clone(),
        };
        let writing = self.writing(common);
        let printing = Printing { place: &self.place, wanted, filter, most: self.most, writing };
        printing.print(common, follow).await
    }
}

/// The messages to print, and their form.
pub(super) struct Printing<'a> {
    pub(super) place: &'a Where,
    pub(super) wanted: Wanted,
    pub(super) filter: Filter,
    pub(super) most: Option<u64>,
    pub(super) writing: Writing,
}

impl Printing<'_> {
    /// Goes on at the end with new messages, until none came for `follow`; stops there without it.
    pub(super) async fn print(self, common: &Common, follow: Option<Duration>) -> Result<CommandReport> {
        let Self { place, wanted, filter, most, writing } = self;
        let mut reader = Reader::open(common, place, wanted).await?;
        let (mut left, mut last) = (most.unwrap_or(u64::MAX), Instant::now());
        while left > 0 {
            let round = reader.round().await?;
            if round.is_empty() {
                if follow.is_none_or(|follow| last.elapsed() >= follow) {
                    break;
                }
                tokio::time::sleep(POLL).await;
                continue;
            }
            last = Instant::now();
            let fitting = round.iter().filter(|read| fits(&filter, &read.message));
            let mut lines = Vec::new();
            for read in fitting.take(usize::try_from(left).unwrap_or(usize::MAX)) {
                lines.extend(writing.write(read));
                left -= 1;
            }
            match write(&lines) {
                Ok(()) => {}
                // The reader of our output has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => {
                    return Err(CommandFailure::failed(format!(
                        "cannot write to the standard output: {error}"
                    )));
                }
            }
        }
        let mut report = CommandReport::ok(String::new(), Value::Null);
        if reader.damaged() > 0 {
            let text =
                format!("{} messages cannot be read: the log is damaged where they lie", reader.damaged());
            report.warnings.push(CommandFailure::failed(text));
        }
        Ok(report)
    }
}

pub(super) fn write(lines: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(lines)?;
    out.flush()
}

fn fits(filter: &Filter, message: &kerolox_proto::v2::Message) -> bool {
    let tag = message.system_properties.as_ref().and_then(|system| system.tag.as_deref());
    filter.matches(tag, |name| message.user_properties.get(name).map(|value| Cow::Borrowed(value.as_str())))
}
