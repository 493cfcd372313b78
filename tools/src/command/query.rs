//! Looking at stored messages: by id, by key, by place and time in a queue. Nothing is consumed.

use crate::command::client::show_to;
use crate::command::message::resend;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_core::filter::Filter;
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wire::query_messages_request::By;
use wire::queue_place::From as Start;

/// Messages that one request asks for.
const PAGE: u32 = 64;
/// Characters of a body that a table shows.
const BODY_SHOWN: usize = 60;

/// Show the messages with an id, wherever they stand: visible, held by a transaction, rolled back
#[derive(Debug, Args)]
pub(crate) struct QueryMsgById {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The message's id, as its producer was told
    #[arg(short = 'i', long = "msg-id", alias = "msgId", value_name = "ID")]
    id: String,
    /// Only in this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    #[command(flatten)]
    place: Where,
    /// Show it to this connected consumer, as `message verify` does
    #[arg(short = 'd', long = "client-id", alias = "clientId", value_name = "CLIENT_ID")]
    shown_to: Option<String>,
    /// Consumer group of that consumer
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup", requires = "shown_to")]
    group: Option<String>,
    /// Send it once more, as a new message with an id of its own
    #[arg(
        short = 's',
        long = "send-message",
        alias = "sendMessage",
        value_name = "BOOL",
        conflicts_with = "shown_to"
    )]
    #[arg(num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    again: Option<bool>,
}

impl QueryMsgById {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        if let Some(client_id) = &self.shown_to {
            let message = self.one().await?;
            return show_to(&self.common, message, client_id, self.group).await;
        }
        if self.again == Some(true) {
            let message = self.one().await?;
            return resend(&self.common, message).await;
        }
        let found = by_id(&self.common, &self.id, self.topic.as_deref(), &self.place).await?;
        found.report(|| nowhere(&self.id))
    }

    async fn one(&self) -> Result<v2::Message> {
        newest(by_id(&self.common, &self.id, self.topic.as_deref(), &self.place).await?, &self.id)
    }
}

fn nowhere(id: &str) -> String {
    format!("no broker has a message with id {id}; it may have expired")
}

async fn by_id(common: &Common, id: &str, topic: Option<&str>, place: &Where) -> Result<Found> {
    let (admin, masters) = place.brokers(common, topic).await?;
    let request = wire::QueryMessagesRequest {
        topic: topic.unwrap_or_default().to_owned(),
        by: Some(By::MessageId(id.to_owned())),
        ..Default::default()
    };
    Search { admin: &admin, masters: &masters, most: usize::MAX }.run(&request).await
}

/// The message with an id; the newest one if there are several.
///
/// # Errors
/// When no broker has one, or none can be asked.
pub(crate) async fn one(common: &Common, id: &str, topic: Option<&str>) -> Result<v2::Message> {
    newest(by_id(common, id, topic, &Where::default()).await?, id)
}

fn newest(found: Found, id: &str) -> Result<v2::Message> {
    match (found.messages.first(), found.warnings.into_iter().next()) {
        (Some((broker, stored)), _) => decoded(broker, stored),
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(CommandFailure::not_found(nowhere(id))),
    }
}

/// Show the messages of a topic with a key, the newest first
#[derive(Debug, Args)]
pub(crate) struct QueryMsgByKey {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// The key
    #[arg(short = 'k', long = "msg-key", alias = "msgKey", value_name = "KEY")]
    key: String,
    /// Most messages
    #[arg(short = 'm', long = "max-num", alias = "maxNum", default_value_t = 64, value_name = "COUNT")]
    most: usize,
    /// Stored at or after this time, milliseconds since 1970
    #[arg(short = 'b', long = "begin-timestamp", alias = "beginTimestamp", value_name = "MILLIS")]
    begin: Option<i64>,
    /// Stored before this time, milliseconds since 1970
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_name = "MILLIS")]
    end: Option<i64>,
    /// Only in this cluster
    #[arg(short = 'c', long = "cluster-name", aliases = ["clusterName", "cluster"], value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl QueryMsgByKey {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let (_, mut masters) = self.common.masters_with_topic(&client, &self.topic).await?;
        masters.retain(|master| self.cluster.as_ref().is_none_or(|cluster| master.info.cluster == *cluster));
        let request = wire::QueryMessagesRequest {
            topic: self.topic.clone(),
            by: Some(By::Key(self.key.clone())),
            since_ms: self.begin.unwrap_or(0),
            until_ms: self.end.unwrap_or(0),
            ..Default::default()
        };
        let found =
            Search { admin: &client.admin(), masters: &masters, most: self.most }.run(&request).await?;
        found.report(|| format!("topic {} has no message with key {}", self.topic, self.key))
    }
}

/// Show the message at an offset of a queue
#[derive(Debug, Args)]
pub(crate) struct QueryMsgByOffset {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    queue: Queue,
    /// The offset
    #[arg(short = 'o', long)]
    offset: u64,
    /// How many messages from there on
    #[arg(short = 'c', long, default_value_t = 1)]
    count: usize,
}

/// Which queue of which broker.
#[derive(Debug, Args)]
struct Queue {
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Name of the broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "BROKER_NAME")]
    broker: String,
    /// Number of the queue
    #[arg(short = 'i', long = "queue-id", alias = "queueId", value_name = "QUEUE")]
    queue: u32,
}

impl QueryMsgByOffset {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let found = self.queue.search(&self.common, Start::Offset(self.offset), None, self.count).await?;
        found.report(|| {
            format!(
                "queue {} of topic {} on broker {} has no message at offset {} or behind; see topicStatus",
                self.queue.queue, self.queue.topic, self.queue.broker, self.offset
            )
        })
    }
}

/// Show the messages of a queue that became visible in a span of time
#[derive(Debug, Args)]
pub(crate) struct PrintMsgByQueue {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Name of the broker group
    #[arg(short = 'a', long = "broker-name", alias = "brokerName", value_name = "BROKER_NAME")]
    broker: String,
    /// Number of the queue
    #[arg(short = 'i', long = "queue-id", alias = "queueId", value_name = "QUEUE")]
    queue: u32,
    /// At or after this time, milliseconds since 1970; without it, from the oldest message on
    #[arg(short = 'b', long = "begin-timestamp", alias = "beginTimestamp", value_name = "MILLIS")]
    begin: Option<i64>,
    /// Before this time, milliseconds since 1970
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_name = "MILLIS")]
    end: Option<i64>,
    /// Most messages
    #[arg(short = 'm', long = "max-num", alias = "maxNum", default_value_t = 64, value_name = "COUNT")]
    most: usize,
    /// Only messages with one of these tags: 'a || b'
    #[arg(
        short = 's',
        long = "sub-expression",
        alias = "subExpression",
        default_value = "*",
        value_name = "TAGS"
    )]
    tags: String,
    /// Whether to show the messages
    #[arg(short = 'p', long = "print-msg", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    messages: Option<bool>,
    /// Whether to show their bodies
    #[arg(short = 'd', long = "print-body", alias = "printBody", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    body: Option<bool>,
    /// Whether to count the messages of each tag
    #[arg(short = 'f', long = "calculate", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    calculate: Option<bool>,
}

impl PrintMsgByQueue {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let start = Start::TimeMs(self.begin.unwrap_or(i64::MIN));
        let queue = Queue { topic: self.topic, broker: self.broker, queue: self.queue };
        let mut found = queue.search(&self.common, start, self.end, self.most).await?;
        let filter = Filter::tags(&self.tags).map_err(CommandFailure::usage)?;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut fitting = Vec::new();
        for (broker, mut stored) in found.messages {
            let mut message = decoded(&broker, &stored)?;
            let tag = message.system_properties.as_ref().and_then(|system| system.tag.clone());
            if !filter.matches(tag.as_deref(), |_| None) {
                continue;
            }
            *counts.entry(tag.unwrap_or_else(|| "-".to_owned())).or_default() += 1;
            if self.body == Some(false) {
                message.body = prost::bytes::Bytes::new();
                stored.message = message.encode_to_vec();
            }
            fitting.push((broker, stored));
        }
        found.messages = fitting;
        let mut report = found.report(|| {
            format!("queue {} of topic {} has no such message of that time", queue.queue, queue.topic)
        })?;
        if self.messages == Some(false) {
            report.text.clear();
            report.json["messages"] = json!([]);
        }
        if self.calculate == Some(true) {
            let rows = counts.iter().map(|(tag, count)| vec![tag.clone(), count.to_string()]);
            report.text =
                format!("{}\n{}", report.text, table(&["Tag", "Count"], rows)).trim_start().to_owned();
            report.json["tags"] = json!(counts);
        }
        Ok(report)
    }
}

impl Queue {
    async fn search(
        &self,
        common: &Common,
        start: Start,
        until_ms: Option<i64>,
        most: usize,
    ) -> Result<Found> {
        let client = common.client()?;
        let (_, mut masters) = common.masters_with_topic(&client, &self.topic).await?;
        masters.retain(|master| master.info.group == self.broker);
        if masters.is_empty() {
            return Err(CommandFailure::not_found(format!(
                "no broker named {} has topic {}; topicRoute shows which have it",
                self.broker, self.topic
            )));
        }
        let place = wire::QueuePlace { queue: self.queue, from: Some(start) };
        let request = wire::QueryMessagesRequest {
            topic: self.topic.clone(),
            by: Some(By::Place(place)),
            until_ms: until_ms.unwrap_or(0),
            ..Default::default()
        };
        Search { admin: &client.admin(), masters: &masters, most }.run(&request).await
    }
}

/// A look-up on several brokers.
struct Search<'a> {
    admin: &'a Admin,
    masters: &'a [Master],
    /// Most messages, of all brokers together.
    most: usize,
}

/// What brokers have found.
#[derive(Default)]
struct Found {
    messages: Vec<(String, wire::StoredMessage)>,
    damaged: u32,
    warnings: Vec<CommandFailure>,
    exit: Option<ExitStatus>,
}

impl Search<'_> {
    async fn run(&self, request: &wire::QueryMessagesRequest) -> Result<Found> {
        let mut found = Found::default();
        let mut failed = Vec::new();
        for master in self.masters {
            if let Err(failure) = self.pages(master, request, &mut found).await {
                failed.push(failure.during(format!("broker {}", master.info.group)));
            }
        }
        if failed.len() == self.masters.len()
            && let Some(failure) = failed.pop()
        {
            return Err(failure);
        }
        found.exit = (!failed.is_empty()).then_some(ExitStatus::Partial);
        found.warnings = failed;
        if !matches!(request.by, Some(By::Place(_))) {
            found.messages.sort_by_key(|(_, message)| std::cmp::Reverse(message.store_ms));
        }
        found.messages.truncate(self.most);
        Ok(found)
    }

    /// Asks one broker, page by page, for as many messages as are wanted.
    async fn pages(
        &self,
        master: &Master,
        request: &wire::QueryMessagesRequest,
        found: &mut Found,
    ) -> Result<()> {
        let mut request = request.clone();
        let mut left = self.most;
        while left > 0 {
            request.limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
            let answer = self.admin.broker(&master.address).query_messages(request.clone()).await?;
            left -= answer.messages.len().min(left);
            found.damaged += answer.damaged;
            found
                .messages
                .extend(answer.messages.into_iter().map(|message| (master.info.group.clone(), message)));
            match &mut request.by {
                _ if answer.next == 0 => break,
                Some(By::Place(place)) => place.from = Some(Start::Offset(answer.next)),
                _ => request.before = answer.next,
            }
        }
        Ok(())
    }
}

impl Found {
    fn report(mut self, nothing: impl FnOnce() -> String) -> Result<CommandReport> {
        if self.damaged > 0 {
            let text = format!("{} messages cannot be read: the log is damaged where they lie", self.damaged);
            self.warnings.push(CommandFailure::failed(text));
        }
        if self.messages.is_empty() && self.warnings.is_empty() {
            return Err(CommandFailure::not_found(nothing()));
        }
        let shown: Vec<(Vec<String>, Value)> =
            self.messages.iter().map(|(broker, stored)| show(broker, stored)).collect::<Result<_>>()?;
        let (rows, json): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
        let header =
            ["MsgId", "Topic", "Broker Name", "QID", "Offset", "Standing", "Stored", "Tag", "Keys", "Body"];
        Ok(CommandReport {
            text: table(&header, rows),
            json: json!({ "messages": json, "damaged": self.damaged }),
            warnings: self.warnings,
            exit: self.exit.unwrap_or(ExitStatus::Ok),
        })
    }
}

fn decoded(broker: &str, stored: &wire::StoredMessage) -> Result<v2::Message> {
    v2::Message::decode(&*stored.message).map_err(|error| {
        CommandFailure::failed(format!("broker {broker} answered with a malformed message: {error}"))
    })
}

/// A message as a row and as JSON.
fn show(broker: &str, stored: &wire::StoredMessage) -> Result<(Vec<String>, Value)> {
    let message = decoded(broker, stored)?;
    let system = message.system_properties.unwrap_or_default();
    let topic = message.topic.unwrap_or_default();
    let body = String::from_utf8_lossy(&message.body);
    let row = vec![
        system.message_id.clone(),
        topic.name.clone(),
        broker.to_owned(),
        stored.queue.to_string(),
        stored.offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
        stored.standing.clone(),
        local_time(stored.store_ms),
        system.tag.clone().unwrap_or_else(|| "-".to_owned()),
        if system.keys.is_empty() { "-".to_owned() } else { system.keys.join(" ") },
        shortened(&body),
    ];
    let born = system.born_timestamp.map(|time| time.seconds * 1000 + i64::from(time.nanos / 1_000_000));
    let json = json!({
        "messageId": system.message_id,
        "topic": topic.name,
        "namespace": topic.resource_namespace,
        "broker": broker,
        "queue": stored.queue,
        "offset": stored.offset,
        "standing": stored.standing,
        "position": stored.position,
        "storeMs": stored.store_ms,
        "bornMs": born,
        "bornHost": system.born_host,
        "producer": stored.producer,
        "tag": system.tag,
        "keys": system.keys,
        "messageGroup": system.message_group,
        "properties": message.user_properties,
        "body": body,
        "bodyBytes": message.body.len(),
    });
    Ok((row, json))
}

/// The beginning of a body, on one line.
fn shortened(body: &str) -> String {
    let mut text: String =
        body.chars().take(BODY_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if body.chars().nth(BODY_SHOWN).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_are_cut_and_stay_on_one_line() {
        assert_eq!(shortened("a\nb"), "a b");
        assert_eq!(shortened(&"ä".repeat(BODY_SHOWN)), "ä".repeat(BODY_SHOWN));
        assert_eq!(shortened(&"ä".repeat(BODY_SHOWN + 1)), format!("{}…", "ä".repeat(BODY_SHOWN)));
    }
}
