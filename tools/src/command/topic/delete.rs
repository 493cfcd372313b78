//! `deleteTopic`.

use crate::command::{DryRun, confirm};
use crate::target::{Common, Done, Target, report, without_absent};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::CommandReport;
use serde_json::json;

/// Delete a topic with all its messages from a cluster
#[derive(Debug, Args)]
pub(crate) struct DeleteTopic {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl DeleteTopic {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let place = self.target.describe(&brokers);
        if self.dry_run.dry_run {
            return self.would_delete(&admin, brokers).await;
        }
        confirm(&format!("Delete topic {} with all its messages from {place}?", self.topic), self.yes)?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DeleteTopicRequest { name: self.topic.clone() };
            let result =
                admin.broker(&broker.address).delete_topic(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let done = without_absent(done);
        let mut summary = report(&done, |_, _| String::new(), |_| json!({}));
        if summary.exit == ExitStatus::Ok {
            summary.text = format!("delete topic [{}] from {place} success.", self.topic);
        }
        Ok(summary)
    }

    async fn would_delete(&self, admin: &Admin, brokers: Vec<Master>) -> Result<CommandReport> {
        let mut found = Vec::new();
        for broker in brokers {
            let request = wire::DescribeTopicRequest { name: self.topic.clone() };
            let result =
                admin.broker(&broker.address).describe_topic(request).await.map_err(CommandFailure::from);
            found.push(Done { broker, result });
        }
        let messages = |answer: &wire::DescribeTopicResponse| {
            answer.queues.iter().map(|queue| queue.max_offset - queue.min_offset).sum::<u64>()
        };
        let text = |broker: &Master, answer: &wire::DescribeTopicResponse| {
            format!(
                "dry run: would delete topic {} from {}, with {} messages, {} scheduled ones and {} undecided transactions",
                self.topic,
                broker.address,
                messages(answer),
                answer.scheduled_messages,
                answer.undecided_transactions
            )
        };
        let view = |answer: &wire::DescribeTopicResponse| {
            json!({
                "dryRun": true, "messages": messages(answer), "scheduled": answer.scheduled_messages,
                "undecided": answer.undecided_transactions,
            })
        };
        Ok(report(&without_absent(found), text, view))
    }
}
