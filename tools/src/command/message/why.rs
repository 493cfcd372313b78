//! `message why`: the life of one message.

use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result, combined};
use kerolox_report::output::{self, CommandReport, local_time};
use prost::Message as _;
use serde_json::{Value, json};

/// Explain what became of a message, and why consumers do or do not get it
///
/// For each group: done, in flight (with whom, until when), retry, filtered, dead-lettered, blocked, behind another one of its
/// message group, and so on; and for a message that is not visible yet, or never will be: scheduled, undecided, rolled back, recalled.
#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Id of the message
    #[arg(value_name = "ID", required_unless_present = "named", conflicts_with = "named")]
    id: Option<String>,
    /// Id of the message, as a flag
    #[arg(short = 'i', long = "msg-id", alias = "msgId", value_name = "ID", id = "named")]
    named: Option<String>,
    /// Only in this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Only for this consumer group [default: all that consume or have consumed the topic]
    #[arg(short = 'g', long = "group", aliases = ["consumer-group", "consumerGroup"])]
    group: Option<String>,
}

/// A life, and the broker group that knows it.
struct Told {
    broker: String,
    life: wire::MessageLife,
}

impl Why {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let id = self.id.clone().or(self.named.clone()).unwrap_or_default();
        let (admin, brokers) = self.place.brokers(&self.common, self.topic.as_deref()).await?;
        let request = wire::ExplainMessageRequest {
            message_id: id.clone(),
            topic: self.topic.clone().unwrap_or_default(),
            group: self.group.clone().unwrap_or_default(),
        };
        let (mut told, mut failures) = (Vec::new(), Vec::new());
        for broker in brokers {
            match admin.broker(&broker.address).explain_message(request.clone()).await {
                Ok(answer) => told.extend(
                    answer.lives.into_iter().map(|life| Told { broker: broker.info.group.clone(), life }),
                ),
                Err(error) => {
                    failures
                        .push(CommandFailure::from(error).during(format!("broker {}", broker.info.group)));
                }
            }
        }
        let (missing, failed): (Vec<CommandFailure>, Vec<CommandFailure>) =
            failures.into_iter().partition(|failure| failure.exit == ExitStatus::NotFound);
        if told.is_empty() {
            return Err(failed
                .into_iter()
                .chain(missing)
                .next()
                .unwrap_or_else(|| CommandFailure::not_found(format!("no message has the id {id}"))));
        }
        Ok(CommandReport {
            text: told.iter().map(text).collect::<Vec<_>>().join("\n\n"),
            json: json!({ "messages": told.iter().map(view).collect::<Vec<_>>() }),
            exit: combined(std::iter::once(None).chain(failed.iter().map(Some))),
            warnings: failed,
        })
    }
}

fn text(told: &Told) -> String {
    let Told { broker, life } = told;
    let stored = life.message.clone().unwrap_or_default();
    let message = v2::Message::decode(stored.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    let place =
        stored.offset.map(|offset| format!(", queue {} offset {offset}", stored.queue)).unwrap_or_default();
    let mut lines = vec![format!("{} of topic {} on {broker}{place}", system.message_id, life.topic)];
    if let Some(born) = &system.born_timestamp {
        lines.push(format!(
            "  {}  sent by {}",
            time_of(born),
            if system.born_host.is_empty() { "-" } else { &system.born_host }
        ));
    }
    lines.push(format!("  {}  stored", local_time(stored.store_ms)));
    lines.push(format!("  {}: {}{}", life.state, life.text, until(life.until_ms)));
    if life.groups.is_empty() && stored.offset.is_some() {
        lines.push("  no consumer group has consumed its topic".to_owned());
    }
    for reason in &life.groups {
        let member =
            if reason.member.is_empty() { String::new() } else { format!(" member {}", reason.member) };
        let attempts = match reason.attempts {
            0 => String::new(),
            attempts => format!(" (delivery {attempts} of {})", reason.max_attempts),
        };
        lines.push(format!(
            "  group {}{member}: {}{attempts}: {}{}",
            reason.group,
            reason.reason,
            reason.text,
            match reason.acknowledged_ms {
                0 => until(reason.until_ms),
                at_ms => format!(" at {}", local_time(at_ms)),
            }
        ));
    }
    output::lines(&lines)
}

fn until(millis: i64) -> String {
    match millis {
        0 => String::new(),
        millis => format!(" (until {})", local_time(millis)),
    }
}

fn time_of(time: &prost_types::Timestamp) -> String {
    local_time(time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
}

fn view(told: &Told) -> Value {
    let Told { broker, life } = told;
    let stored = life.message.clone().unwrap_or_default();
    let message = v2::Message::decode(stored.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    let reason = |reason: &wire::GroupReason| {
        json!({
            "group": reason.group, "member": reason.member, "reason": reason.reason, "text": reason.text,
            "client": reason.client, "untilMs": reason.until_ms, "attempts": reason.attempts,
            "maxAttempts": reason.max_attempts, "ahead": reason.ahead, "acknowledgedMs": reason.acknowledged_ms,
        })
    };
    json!({
        "messageId": system.message_id, "broker": broker, "topic": life.topic, "queue": stored.queue,
        "offset": stored.offset, "storeMs": stored.store_ms, "tag": system.tag, "keys": system.keys,
        "messageGroup": system.message_group, "state": life.state, "text": life.text, "untilMs": life.until_ms,
        "groups": life.groups.iter().map(reason).collect::<Vec<_>>(),
    })
}
