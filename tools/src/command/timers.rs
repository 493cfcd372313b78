//! Scheduled messages: what waits, and decisions about it before its time.

use super::{DryRun, confirm, names};
use crate::target::{Common, Done, Target, report, without_absent};
use clap::Args;
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use prost::Message as _;
use serde_json::{Value, json};

/// Show messages that wait for their delivery time, earliest first
#[derive(Debug, Args)]
pub(crate) struct TimerList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Delivery time at or after this, milliseconds since 1970
    #[arg(short = 's', long = "begin-timestamp", alias = "beginTimestamp", value_name = "MILLIS")]
    begin: Option<i64>,
    /// Delivery time before this, milliseconds since 1970
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_name = "MILLIS")]
    end: Option<i64>,
    /// Only those with one of these tags, as in 'created || paid'
    #[arg(long, value_name = "TAGS")]
    tags: Option<String>,
    /// Only those with this key
    #[arg(short = 'k', long = "msg-key", alias = "msgKey", value_name = "KEY")]
    key: Option<String>,
    /// Only the message with this id
    #[arg(short = 'i', long = "msg-id", alias = "msgId", value_name = "ID")]
    id: Option<String>,
    /// Most messages of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT", default_value_t = 100)]
    most: usize,
}

/// The scheduled messages of one broker.
struct Listed {
    messages: Vec<wire::ScheduledMessage>,
    is_cut_off: bool,
}

impl TimerList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.collect(&admin.broker(&broker.address)).await;
            done.push(Done { broker, result });
        }
        Ok(report(
            &without_absent(done),
            |broker, listed| match listed.messages.as_slice() {
                [] => format!("{}: nothing is scheduled", broker.address),
                messages => format!("{}:\n{}{}", broker.address, rows(messages), listed.more()),
            },
            |listed| {
                let scheduled: Vec<Value> = listed.messages.iter().map(view).collect();
                json!({ "scheduled": scheduled, "truncated": listed.is_cut_off })
            },
        ))
    }

    async fn collect(&self, admin: &BrokerAdmin) -> Result<Listed> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut request = wire::ListTimersRequest {
            topic: text(&self.topic),
            since_ms: self.begin.unwrap_or(0),
            until_ms: self.end.unwrap_or(0),
            tags: text(&self.tags),
            key: text(&self.key),
            message_id: text(&self.id),
            ..Default::default()
        };
        let mut messages = Vec::new();
        loop {
            let page = admin.list_timers(request.clone()).await?;
            messages.extend(page.messages);
            let is_cut_off =
                messages.len() > self.most || (messages.len() == self.most && page.next.is_some());
            if page.next.is_none() || is_cut_off {
                messages.truncate(self.most);
                return Ok(Listed { messages, is_cut_off });
            }
            request.next = page.next;
        }
    }
}

impl Listed {
    fn more(&self) -> &'static str {
        if self.is_cut_off { "\nThere are more; raise -m, or narrow the times with -s and -e" } else { "" }
    }
}

fn rows(messages: &[wire::ScheduledMessage]) -> String {
    let row = |message: &wire::ScheduledMessage| {
        vec![
            local_time(message.due_ms),
            message.message_id.clone(),
            message.topic.clone(),
            message.queue.to_string(),
            local_time(message.store_ms),
        ]
    };
    table(&["Delivery time", "Message id", "Topic", "Queue", "Stored"], messages.iter().map(row))
}

fn view(scheduled: &wire::ScheduledMessage) -> Value {
    let message = v2::Message::decode(scheduled.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    json!({
        "messageId": scheduled.message_id,
        "topic": scheduled.topic,
        "queue": scheduled.queue,
        "dueMs": scheduled.due_ms,
        "storeMs": scheduled.store_ms,
        "recallHandle": scheduled.recall_handle,
        "tag": system.tag,
        "keys": system.keys,
        "messageGroup": system.message_group,
        "properties": message.user_properties,
        "bodyBytes": message.body.len(),
        "body": String::from_utf8_lossy(&message.body),
    })
}

/// Which scheduled message, and whether to ask.
#[derive(Debug, Args)]
struct Choice {
    #[command(flatten)]
    target: Target,
    /// Id of the message, as timerList shows it
    #[arg(
        short = 'i',
        long = "msg-id",
        alias = "msgId",
        value_name = "ID",
        required_unless_present = "handle"
    )]
    id: Option<String>,
    /// Recall handle of the message, as its producer got it
    #[arg(long, value_name = "HANDLE", conflicts_with = "id", allow_hyphen_values = true)]
    handle: Option<String>,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl Choice {
    async fn end(&self, common: &Common, action: wire::TimerAction) -> Result<CommandReport> {
        let (verb, done_word) = match action {
            wire::TimerAction::Deliver => ("Deliver", "delivered"),
            _ => ("Cancel", "cancelled"),
        };
        let (admin, brokers) = self.target.brokers(common).await?;
        let name = self.id.as_deref().or(self.handle.as_deref()).unwrap_or_default();
        if let Some(instead) = self.dry_run.instead(|| {
            format!("{} scheduled message {name}, if {} has it", verb.to_lowercase(), names(&brokers))
        }) {
            return Ok(instead);
        }
        confirm(
            &format!("{verb} scheduled message {name} of {}?", self.target.describe(&brokers)),
            self.yes,
        )?;
        let request = wire::EndTimerRequest {
            recall_handle: self.handle.clone().unwrap_or_default(),
            message_id: self.id.clone().unwrap_or_default(),
            action: action.into(),
        };
        let mut done = Vec::new();
        for broker in brokers {
            let result =
                admin.broker(&broker.address).end_timer(request.clone()).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        Ok(report(
            &without_absent(done),
            |broker, answer| {
                let line = |message: &wire::ScheduledMessage| {
                    format!(
                        "{}: {done_word} {} of topic {}",
                        broker.address, message.message_id, message.topic
                    )
                };
                answer.messages.iter().map(line).collect::<Vec<_>>().join("\n")
            },
            |answer| json!({ done_word: answer.messages.iter().map(view).collect::<Vec<_>>() }),
        ))
    }
}

/// Cancel a scheduled message: it is never delivered
#[derive(Debug, Args)]
pub(crate) struct TimerCancel {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
}

impl TimerCancel {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.choice.end(&self.common, wire::TimerAction::Cancel).await
    }
}

/// Deliver a scheduled message now, before its time
#[derive(Debug, Args)]
pub(crate) struct TimerDeliver {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
}

impl TimerDeliver {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.choice.end(&self.common, wire::TimerAction::Deliver).await
    }
}
