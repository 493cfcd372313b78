//! Where messages stand that consumers did not get, and why the broker says that they did not.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_client::{Address, Client};
use kerolox_harness::{MessageHistory, StandingMessage};
use kerolox_proto::v2;
use prost::Message as _;
use wire::query_messages_request::By;
use wire::queue_place::From;

use super::polls::PollNotes;
use super::verify::READINGS;

/// Messages of each reading that the broker is asked about.
const SHOWN: usize = 6;

/// Facts about the messages that are missing; empty without any. `history` lists the contents of the queues.
pub(super) async fn explain(
    client: &Client,
    master: &Address,
    history: &MessageHistory,
    polls: &PollNotes,
) -> Result<String> {
    let admin = client.admin().broker(master);
    let mut text = String::new();
    for (group, topic) in READINGS {
        let missing = history.missing(group, topic);
        if missing.is_empty() {
            continue;
        }
        writeln!(text, "{} of {topic} missing at {group}: {}", missing.len(), polls.of(group, topic))?;
        text += &positions(&admin, group, topic).await?;
        for label in missing.iter().take(SHOWN) {
            match history.standing.iter().find(|standing| standing.label == *label) {
                Some(place) => text += &fate(&admin, group, place).await?,
                None => writeln!(text, "  {label} stands in no queue")?,
            }
        }
    }
    Ok(text)
}

/// Where the group is in each queue of the topic.
async fn positions(admin: &BrokerAdmin, group: &str, topic: &str) -> Result<String> {
    let request = wire::DescribeGroupRequest { name: group.to_owned(), topic: topic.to_owned() };
    let described = admin.describe_group(request).await.context("asking for the group's positions")?;
    let mut text = String::new();
    for queue in described.queues {
        writeln!(
            text,
            "  queue {}: done below {}, end {}, {} in flight, {} waiting, {} ready, {} blocked",
            queue.queue,
            queue.consumer_offset,
            queue.broker_offset,
            queue.in_flight,
            queue.retrying,
            queue.ready,
            queue.blocked
        )?;
    }
    Ok(text)
}

/// What the broker says of one message.
async fn fate(admin: &BrokerAdmin, group: &str, place: &StandingMessage) -> Result<String> {
    let StandingMessage { topic, queue, offset, label } = place;
    let by = By::Place(wire::QueuePlace { queue: *queue, from: Some(From::Offset(*offset)) });
    let request = wire::QueryMessagesRequest {
        topic: (*topic).to_owned(),
        by: Some(by),
        limit: 1,
        ..Default::default()
    };
    let page = admin.query_messages(request).await.with_context(|| format!("reading {label}"))?;
    let stored = page.messages.first().context("a message that stood in a queue is gone")?;
    let message = v2::Message::decode(stored.message.as_slice())?;
    let request = wire::ExplainMessageRequest {
        message_id: message.system_properties.unwrap_or_default().message_id,
        topic: (*topic).to_owned(),
        group: group.to_owned(),
    };
    let told = admin.explain_message(request).await.with_context(|| format!("asking about {label}"))?;
    let mut text = String::new();
    for reason in told.lives.iter().flat_map(|life| &life.groups) {
        writeln!(
            text,
            "  {label}, queue {queue} offset {offset}, stored {}: {}: {} (until {}, attempt {}, {} ahead)",
            stored.store_ms, reason.reason, reason.text, reason.until_ms, reason.attempts, reason.ahead
        )?;
    }
    Ok(text)
}
