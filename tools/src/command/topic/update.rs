//! `updateTopic`.

use super::view::TopicView;
use crate::command::DryRun;
use crate::target::{Common, Done, Target, report};
use clap::Args;
use kerolox_client::admin::{Admin, wire};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::json;
use std::time::Duration;

/// Create or change a topic; settings that are not given stay as they are
#[derive(Debug, Args)]
pub(crate) struct UpdateTopic {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Queues that can be read
    #[arg(short = 'r', long = "read-queue-nums", alias = "readQueueNums", value_name = "N")]
    read_queues: Option<u32>,
    /// Queues that can be written
    #[arg(short = 'w', long = "write-queue-nums", alias = "writeQueueNums", value_name = "N")]
    write_queues: Option<u32>,
    /// Permission: 2 write, 4 read, 6 both
    #[arg(short = 'p', long, value_parser = parse_perm)]
    perm: Option<u32>,
    /// Attributes, +KEY=VALUE or -KEY, several separated by ','; for example +message.type=TRANSACTION
    /// (NORMAL, FIFO, DELAY, TRANSACTION, LITE, PRIORITY, MIXED), +flush=async, +retention.time=12h,
    /// +dedup=id (or key, off), +dedup.window=2h, +limits.max-body-bytes=64KiB, +limits.max-properties-bytes=4KiB
    #[arg(short = 'a', long, value_delimiter = ',', allow_hyphen_values = true, value_name = "ATTRIBUTE")]
    attributes: Vec<String>,
    #[command(flatten)]
    dry_run: DryRun,
}

pub(super) fn parse_perm(text: &str) -> std::result::Result<u32, String> {
    match text {
        "2" | "4" | "6" => Ok(text.parse().expect("one of three numbers")),
        _ => Err("use 2 (write), 4 (read) or 6 (both)".to_owned()),
    }
}

impl UpdateTopic {
    pub(crate) fn request(&self) -> wire::UpdateTopicRequest {
        wire::UpdateTopicRequest {
            name: self.topic.clone(),
            read_queues: self.read_queues,
            write_queues: self.write_queues,
            perm: self.perm,
            attributes: self.attributes.iter().map(|change| change.trim().to_owned()).collect(),
            dry_run: self.dry_run.dry_run,
        }
    }

    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = admin
                .broker(&broker.address)
                .update_topic(self.request())
                .await
                .map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let dry_run = self.dry_run.dry_run;
        if self.target.cluster.is_some() && !dry_run {
            await_routes(&admin, &done).await;
        }
        Ok(report(
            &done,
            |broker, answer| {
                let topic = TopicView::from(&answer.topic.clone().unwrap_or_default());
                match (dry_run, answer.before.as_ref().map(TopicView::from)) {
                    (false, _) => format!("create topic to {} success.\n{topic}", broker.address),
                    (true, None) => format!("dry run: would create on {}\n{topic}", broker.address),
                    (true, Some(before)) => {
                        format!("dry run: would change on {}\n- {before}\n+ {topic}", broker.address)
                    }
                }
            },
            |answer| {
                json!({
                    "dryRun": dry_run, "created": answer.created, "topic": answer.topic.as_ref().map(TopicView::from),
                    "before": answer.before.as_ref().map(TopicView::from),
                })
            },
        ))
    }
}

/// How long a nameserver may take to hear of a changed topic before we stop waiting for it.
const ROUTE_WAIT: Duration = Duration::from_secs(2);
const ROUTE_POLL: Duration = Duration::from_millis(50);

/// Waits until the nameserver shows the topic as the brokers have it, so that the next command or client can use it at
/// once. That it takes longer is no failure: the change itself is durable.
async fn await_routes(admin: &Admin, done: &[Done<wire::UpdateTopicResponse>]) {
    let updated: Vec<(&wire::BrokerInfo, &wire::TopicConfig)> = done
        .iter()
        .filter_map(|done| Some((&done.broker.info, done.result.as_ref().ok()?.topic.as_ref()?)))
        .collect();
    let shown = async {
        while !admin.cluster().await.is_ok_and(|snapshot| shows(&snapshot, &updated)) {
            tokio::time::sleep(ROUTE_POLL).await;
        }
    };
    let _ = tokio::time::timeout(ROUTE_WAIT, shown).await;
}

/// Whether the routes are what the brokers say that they have.
fn shows(snapshot: &wire::ClusterSnapshot, updated: &[(&wire::BrokerInfo, &wire::TopicConfig)]) -> bool {
    updated.iter().all(|(info, topic)| {
        let wanted = wire::TopicRoute {
            name: topic.name.clone(),
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: topic.perm & !info.withheld,
            message_types: topic.message_types.clone(),
            ..Default::default()
        };
        let same_broker = |known: &wire::BrokerInfo| {
            (&known.cluster, &known.group, known.id) == (&info.cluster, &info.group, info.id)
        };
        snapshot
            .brokers
            .iter()
            .any(|known| known.broker.as_ref().is_some_and(same_broker) && known.topics.contains(&wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::topic::view::example;

    #[test]
    fn a_changed_topic_is_awaited_until_the_route_agrees() {
        let snapshot = example();
        let info = snapshot.brokers[0].broker.clone().unwrap();
        let topic = |queues| wire::TopicConfig {
            name: "orders".into(),
            read_queues: queues,
            write_queues: queues,
            perm: 6,
            message_types: vec![4],
            ..Default::default()
        };
        assert!(shows(&snapshot, &[(&info, &topic(4))]));
        assert!(!shows(&snapshot, &[(&info, &topic(5))]), "the route is older than the change");
        let elsewhere = wire::BrokerInfo { group: "z".into(), ..info };
        assert!(!shows(&snapshot, &[(&elsewhere, &topic(4))]));
    }
}
