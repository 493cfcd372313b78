//! `transaction stats`.

use crate::target::{Common, Done, Where, report};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use serde_json::json;

/// Count transactions by topic and state
#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    brokers: Where,
    /// Only of this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
}

impl Stats {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.brokers.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::CountTransactionsRequest { topic: self.topic.clone().unwrap_or_default() };
            let result =
                admin.broker(&broker.address).count_transactions(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let row = |counts: &wire::TransactionCounts| {
            vec![
                counts.topic.clone(),
                counts.prepared.to_string(),
                counts.parked.to_string(),
                counts.committed.to_string(),
                counts.rolled_back.to_string(),
                counts.checks.to_string(),
                local_time(counts.oldest_undecided_ms),
            ]
        };
        let header =
            ["Topic", "Prepared", "Parked", "Committed", "Rolled back", "Checks", "Oldest undecided"];
        Ok(report(
            &done,
            |broker, answer| {
                let topics = match answer.topics.as_slice() {
                    [] => format!("{}: no transactions", broker.address),
                    topics => format!("{}:\n{}", broker.address, table(&header, topics.iter().map(row))),
                };
                let (asked, failed) = (answer.webhooks_asked, answer.webhooks_failed);
                let misunderstood = answer.webhooks_misunderstood;
                match asked {
                    0 => topics,
                    _ => format!(
                        "{topics}\nwebhooks: {asked} asked, {failed} could not be reached, {misunderstood} were not understood"
                    ),
                }
            },
            |answer| {
                let view = |counts: &wire::TransactionCounts| {
                    json!({
                        "topic": counts.topic, "prepared": counts.prepared, "parked": counts.parked,
                        "committed": counts.committed, "rolledBack": counts.rolled_back,
                        "checks": counts.checks, "oldestUndecidedMs": counts.oldest_undecided_ms,
                    })
                };
                json!({
                    "topics": answer.topics.iter().map(view).collect::<Vec<_>>(),
                    "webhooksAsked": answer.webhooks_asked,
                    "webhooksFailed": answer.webhooks_failed,
                    "webhooksMisunderstood": answer.webhooks_misunderstood,
                })
            },
        ))
    }
}
