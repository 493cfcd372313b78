//! Messages that a group could not process: dead letters, and those that block their message group.

use super::{DryRun, confirm};
use crate::target::{Common, Done, Target, Where, report, without_absent};
use clap::{Args, ValueEnum};
use kerolox_client::Address;
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use prost::Message as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Dead letters that go back with one request, when no rate is given.
const REDRIVE_PAGE: usize = 256;

/// Which dead letters.
#[derive(Debug, Args)]
struct Selection {
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
    /// Only those with one of these tags, as in 'created || paid'
    #[arg(long, conflicts_with = "sql", value_name = "TAGS")]
    tags: Option<String>,
    /// Only those whose properties satisfy an SQL-92 condition, as in "DLQ_REASON = 'EXHAUSTED' AND amount > 5"
    #[arg(long, value_name = "CONDITION")]
    sql: Option<String>,
    /// Given up at or after this time, milliseconds since 1970
    #[arg(short = 's', long = "begin-timestamp", alias = "beginTimestamp", value_name = "MILLIS")]
    begin: Option<i64>,
    /// Given up before this time, milliseconds since 1970
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_name = "MILLIS")]
    end: Option<i64>,
    /// Most dead letters of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT")]
    most: Option<usize>,
}

impl Selection {
    /// The dead letters of one broker, oldest first.
    async fn collect(&self, admin: &BrokerAdmin, with_redriven: bool) -> Result<Vec<wire::DeadLetter>> {
        let most = self.most.unwrap_or(usize::MAX);
        let mut request = wire::ListDeadLettersRequest {
            group: self.group.clone(),
            tags: self.tags.clone().unwrap_or_default(),
            sql: self.sql.clone().unwrap_or_default(),
            since_ms: self.begin.unwrap_or(0),
            until_ms: self.end.unwrap_or(0),
            with_redriven,
            ..Default::default()
        };
        let mut letters = Vec::new();
        loop {
            let page = admin.list_dead_letters(request.clone()).await?;
            letters.extend(page.letters);
            match page.next_offset.filter(|_| letters.len() < most) {
                Some(next) => request.from_offset = next,
                None => break,
            }
        }
        letters.truncate(most);
        Ok(letters)
    }
}

/// Show the dead letters of a consumer group, with their reasons
#[derive(Debug, Args)]
pub(crate) struct DlqList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    selection: Selection,
    /// Those that went back to the group as well
    #[arg(long)]
    all: bool,
}

impl DlqList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.selection.collect(&admin.broker(&broker.address), self.all).await;
            done.push(Done { broker, result });
        }
        Ok(report(
            &done,
            |broker, letters| letters_text(&broker.address, letters),
            |letters| json!({ "deadLetters": letters.iter().map(letter_json).collect::<Vec<_>>() }),
        ))
    }
}

fn letters_text(broker: &Address, letters: &[wire::DeadLetter]) -> String {
    if letters.is_empty() {
        return format!("{broker}: no dead letters");
    }
    let rows = letters.iter().map(|letter| {
        let message = v2::Message::decode(letter.message.as_slice()).unwrap_or_default();
        let system = message.system_properties.unwrap_or_default();
        vec![
            letter.offset.to_string(),
            letter.message_id.clone(),
            system.tag.unwrap_or_default(),
            system.keys.join(" "),
            letter.topic.clone(),
            format!("{}/{}", letter.queue, letter.queue_offset),
            letter.attempts.to_string(),
            letter.reason.clone(),
            local_time(letter.dead_ms),
            if letter.redriven { "yes" } else { "no" }.to_owned(),
        ]
    });
    let header = [
        "Offset",
        "Message id",
        "Tag",
        "Keys",
        "Topic",
        "Queue/offset",
        "Attempts",
        "Reason",
        "Given up",
        "Went back",
    ];
    format!("{broker}:\n{}", table(&header, rows))
}

fn letter_json(letter: &wire::DeadLetter) -> Value {
    let message = v2::Message::decode(letter.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    json!({
        "offset": letter.offset,
        "messageId": letter.message_id,
        "topic": letter.topic,
        "queue": letter.queue,
        "queueOffset": letter.queue_offset,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "deadMs": letter.dead_ms,
        "storeMs": letter.store_ms,
        "redriven": letter.redriven,
        "tag": system.tag,
        "keys": system.keys,
        "messageGroup": system.message_group,
        "properties": message.user_properties,
        "bodyBytes": message.body.len(),
        "body": String::from_utf8_lossy(&message.body),
    })
}

/// Send dead letters back to their group: each is delivered once more where it came from, from its first attempt on. No
/// other group sees anything of it
#[derive(Debug, Args)]
pub(crate) struct DlqRedrive {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    selection: Selection,
    /// Most dead letters per second
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only say what would go back
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

/// What a redrive did on one broker.
#[derive(Default)]
struct Redriven {
    chosen: Vec<wire::DeadLetter>,
    redriven: u64,
    repeated: u64,
    gone: u64,
}

impl DlqRedrive {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        if !self.dry_run {
            let group = &self.selection.group;
            let question = format!(
                "Send dead letters of {} back to consumer group {group}?",
                self.target.describe(&brokers)
            );
            confirm(&question, self.yes)?;
        }
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.redrive(&admin.broker(&broker.address)).await;
            done.push(Done { broker, result });
        }
        Ok(report(
            &done,
            |broker, done| {
                if self.dry_run {
                    return format!("would go back:\n{}", letters_text(&broker.address, &done.chosen));
                }
                format!(
                    "{}: {} dead letters went back, {} had before, {} are gone",
                    broker.address, done.redriven, done.repeated, done.gone
                )
            },
            |done| {
                json!({
                    "dryRun": self.dry_run, "chosen": done.chosen.len(), "redriven": done.redriven,
                    "repeated": done.repeated, "gone": done.gone,
                })
            },
        ))
    }

    async fn redrive(&self, admin: &BrokerAdmin) -> Result<Redriven> {
        let chosen = self.selection.collect(admin, false).await?;
        let mut done = Redriven { chosen, ..Redriven::default() };
        if self.dry_run {
            return Ok(done);
        }
        // Ten requests per second are smooth enough, and one letter at a time at low rates.
        let page = self.rate.map_or(REDRIVE_PAGE, |rate| (rate as usize / 10).clamp(1, REDRIVE_PAGE));
        let mut next = Instant::now();
        for letters in done.chosen.chunks(page) {
            sleep_until(next).await;
            let request = wire::RedriveDeadLettersRequest {
                group: self.selection.group.clone(),
                offsets: letters.iter().map(|letter| letter.offset).collect(),
            };
            let answer = admin.redrive_dead_letters(request).await?;
            done.redriven += answer.redriven;
            done.repeated += answer.repeated;
            done.gone += answer.gone;
            if let Some(rate) = self.rate {
                next += Duration::from_secs_f64(letters.len() as f64 / f64::from(rate));
            }
        }
        Ok(done)
    }
}

/// Show the messages that used up their attempts and block their message group
#[derive(Debug, Args)]
pub(crate) struct BlockedList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
}

impl BlockedList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::ListBlockedRequest { group: self.group.clone() };
            let result =
                admin.broker(&broker.address).list_blocked(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let row = |message: &wire::BlockedMessage| {
            vec![
                message.topic.clone(),
                message.queue.to_string(),
                message.offset.to_string(),
                message.message_group.clone(),
                message.message_id.clone(),
                message.waiting.to_string(),
            ]
        };
        let header = ["Topic", "Queue", "Offset", "Message group", "Message id", "Waiting"];
        Ok(report(
            &done,
            |broker, answer| match answer.messages.as_slice() {
                [] => format!("{}: nothing is blocked", broker.address),
                messages => format!("{}:\n{}", broker.address, table(&header, messages.iter().map(row))),
            },
            |answer| {
                let view = |message: &wire::BlockedMessage| {
                    json!({
                        "topic": message.topic, "queue": message.queue, "offset": message.offset,
                        "messageGroup": message.message_group, "messageId": message.message_id,
                        "waiting": message.waiting,
                    })
                };
                json!({ "blocked": answer.messages.iter().map(view).collect::<Vec<_>>() })
            },
        ))
    }
}

/// Show the messages that a consumer group has failed with and that wait for another attempt, the next to come first
#[derive(Debug, Args)]
pub(crate) struct RetryList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
    /// Only this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Most messages of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT", default_value_t = 256)]
    most: u32,
}

impl RetryList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, self.topic.as_deref()).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::ListRetriesRequest {
                group: self.group.clone(),
                topic: self.topic.clone().unwrap_or_default(),
                limit: self.most,
            };
            let result =
                admin.broker(&broker.address).list_retries(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        // Groups come into being on the brokers that they consume from.
        let done = without_absent(done);
        Ok(report(
            &done,
            |broker, answer| match answer.messages.as_slice() {
                [] => format!("{}: nothing waits for another attempt", broker.address),
                messages => format!("{}:\n{}", broker.address, retries_text(messages)),
            },
            |answer| json!({ "retries": answer.messages.iter().map(retry_json).collect::<Vec<_>>() }),
        ))
    }
}

fn retries_text(messages: &[wire::RetriedMessage]) -> String {
    let row = |message: &wire::RetriedMessage| {
        vec![
            message.topic.clone(),
            format!("{}/{}", message.queue, message.offset),
            message.message_id.clone(),
            message.tag.clone(),
            message.keys.join(" "),
            format!("{} of {}", message.attempts, message.max_attempts),
            local_time(message.next_ms),
        ]
    };
    let header = ["Topic", "Queue/offset", "Message id", "Tag", "Keys", "Failed", "Next attempt"];
    table(&header, messages.iter().map(row))
}

fn retry_json(message: &wire::RetriedMessage) -> Value {
    json!({
        "topic": message.topic, "queue": message.queue, "offset": message.offset,
        "messageId": message.message_id, "tag": message.tag, "keys": message.keys,
        "messageGroup": message.message_group, "attempts": message.attempts,
        "maxAttempts": message.max_attempts, "nextMs": message.next_ms,
    })
}

/// The ways to settle a blocked message.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// It is delivered again, from its first attempt on
    Retry,
    /// It becomes a dead letter, and the messages behind it go on
    DeadLetter,
}

/// Retry a blocked message, or make it a dead letter
#[derive(Debug, Args)]
pub(crate) struct BlockedSettle {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The broker, HOST:PORT, as blockedList shows it
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Address,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Number of the queue
    #[arg(short = 'i', long = "queue-id", alias = "queueId", value_name = "QUEUE")]
    queue: u32,
    /// Offset in the queue
    #[arg(short = 'o', long)]
    offset: u64,
    /// How to settle it
    #[arg(short = 'a', long, value_enum)]
    action: Action,
    #[command(flatten)]
    dry_run: DryRun,
}

impl BlockedSettle {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        if let Some(instead) = self.dry_run.instead(|| {
            let what = match self.action {
                Action::Retry => "deliver again",
                Action::DeadLetter => "make a dead letter of",
            };
            format!(
                "{what} the message at {} in queue {} of topic {}, blocked in group {}, on {}",
                self.offset, self.queue, self.topic, self.group, self.broker
            )
        }) {
            return Ok(instead);
        }
        let client = self.common.client_of(&self.broker)?;
        let action = match self.action {
            Action::Retry => wire::BlockedAction::Retry,
            Action::DeadLetter => wire::BlockedAction::DeadLetter,
        };
        let request = wire::SettleBlockedRequest {
            group: self.group,
            topic: self.topic,
            queue: self.queue,
            offset: self.offset,
            action: action.into(),
        };
        client.admin().broker(&self.broker).settle_blocked(request).await?;
        Ok(CommandReport::ok("done; the message group goes on".to_owned(), json!({ "settled": true })))
    }
}
