//! `topicStatus`.

use super::view::TopicView;
use crate::target::{Common, Done, Where, report};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_core::slots::SLOTS;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use serde_json::json;

/// Show the offsets of every queue of a topic
#[derive(Debug, Args)]
pub(crate) struct TopicStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    #[command(flatten)]
    place: Where,
}

impl TopicStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, Some(&self.topic)).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DescribeTopicRequest { name: self.topic.clone() };
            let result =
                admin.broker(&broker.address).describe_topic(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let mut summary = report(&done, |_, _| String::new(), status_json);
        if done.iter().any(|done| done.result.is_ok()) {
            summary.text = status_text(&done);
        }
        Ok(summary)
    }
}

fn status_json(answer: &wire::DescribeTopicResponse) -> serde_json::Value {
    let queue = |queue: &wire::QueueStatus| {
        json!({
            "queue": queue.queue,
            "minOffset": queue.min_offset,
            "maxOffset": queue.max_offset,
            "lastStoreMs": queue.last_store_ms,
        })
    };
    let left =
        |left: &wire::LeftQueue| json!({ "queue": left.queue, "finishedBefore": left.finished_before });
    json!({
        "topic": answer.topic.as_ref().map(TopicView::from),
        "queues": answer.queues.iter().map(queue).collect::<Vec<_>>(),
        "undecidedTransactions": answer.undecided_transactions,
        "scheduledMessages": answer.scheduled_messages,
        "movingSlots": answer.moving_slots,
        "leftQueues": answer.left_queues.iter().map(left).collect::<Vec<_>>(),
    })
}

fn status_text(done: &[Done<wire::DescribeTopicResponse>]) -> String {
    let answers = || done.iter().filter_map(|done| Some((&done.broker, done.result.as_ref().ok()?)));
    let rows = answers().flat_map(|(broker, answer)| {
        answer.queues.iter().map(|queue| {
            vec![
                broker.info.group.clone(),
                queue.queue.to_string(),
                queue.min_offset.to_string(),
                queue.max_offset.to_string(),
                local_time(queue.last_store_ms),
            ]
        })
    });
    let mut text = table(&["Broker Name", "QID", "Min Offset", "Max Offset", "Last Updated"], rows);
    let undecided: u64 = answers().map(|(_, answer)| answer.undecided_transactions).sum();
    if undecided > 0 {
        text.push_str(&format!("\nTransactions without a decision: {undecided}"));
    }
    let scheduled: u64 = answers().map(|(_, answer)| answer.scheduled_messages).sum();
    if scheduled > 0 {
        text.push_str(&format!("\nMessages that wait for their delivery time: {scheduled}"));
    }
    for (broker, answer) in answers().filter(|(_, answer)| answer.moving_slots > 0) {
        let waiting =
            answer.left_queues.iter().map(|left| format!("{}:{}", left.queue, left.finished_before));
        text.push_str(&format!(
            "\n{} of {SLOTS} slots of message groups in {} stay on their queues until ordered consumers have finished QID:OFFSET {}",
            answer.moving_slots,
            broker.info.group,
            waiting.collect::<Vec<_>>().join(" ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::alone;
    use kerolox_client::Address;

    #[test]
    fn status_lists_queues_and_what_is_held_back() {
        let queue = wire::QueueStatus { queue: 0, min_offset: 0, max_offset: 7, last_store_ms: 0 };
        let answer = wire::DescribeTopicResponse {
            queues: vec![queue],
            undecided_transactions: 2,
            scheduled_messages: 3,
            moving_slots: 5,
            left_queues: vec![wire::LeftQueue { queue: 0, finished_before: 7 }],
            ..Default::default()
        };
        let json = status_json(&answer);
        assert_eq!(json["queues"][0]["maxOffset"], 7);
        let text = status_text(&[Done { broker: alone(&Address::new("h", 1)), result: Ok(answer) }]);
        assert!(text.starts_with("#Broker Name") && text.contains("decision: 2\n"), "{text}");
        assert!(text.contains("delivery time: 3\n"), "{text}");
        assert!(text.contains("5 of 16384 slots") && text.ends_with("QID:OFFSET 0:7"), "{text}");
        assert_eq!(json["leftQueues"][0]["finishedBefore"], 7);
    }
}
