//! `updateTopicPerm` and `topicClusterList`.

use super::update::parse_perm;
use super::view::{TopicView, perm_name};
use crate::command::DryRun;
use crate::target::{Common, Done, Target, report, without_absent};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, table};
use serde_json::json;
use std::collections::BTreeMap;

/// Change the permission of an existing topic
#[derive(Debug, Args)]
pub(crate) struct UpdateTopicPerm {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Permission: 2 write, 4 read, 6 both
    #[arg(short = 'p', long, value_parser = parse_perm)]
    perm: u32,
    #[command(flatten)]
    dry_run: DryRun,
}

impl UpdateTopicPerm {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let asked = admin.broker(&broker.address);
            let result = async {
                // It would make a topic that is not there.
                asked.describe_topic(wire::DescribeTopicRequest { name: self.topic.clone() }).await?;
                let request = wire::UpdateTopicRequest {
                    name: self.topic.clone(),
                    perm: Some(self.perm),
                    dry_run: self.dry_run.dry_run,
                    ..Default::default()
                };
                asked.update_topic(request).await
            };
            let result = result.await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let dry = if self.dry_run.dry_run { "dry run, nothing was changed: " } else { "" };
        Ok(report(
            &without_absent(done),
            |broker, answer| {
                let before = answer.before.as_ref().map_or(0, |topic| topic.perm);
                format!(
                    "{dry}update topic perm from {} to {} in {}\n{}",
                    perm_name(before),
                    perm_name(self.perm),
                    broker.address,
                    TopicView::from(&answer.topic.clone().unwrap_or_default())
                )
            },
            |answer| {
                json!({
                    "dryRun": self.dry_run.dry_run, "before": answer.before.as_ref().map(TopicView::from),
                    "topic": answer.topic.as_ref().map(TopicView::from),
                })
            },
        ))
    }
}

/// List the clusters that have a topic
#[derive(Debug, Args)]
pub(crate) struct TopicClusterList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
}

impl TopicClusterList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let (_, masters) = self.common.masters_with_topic(&client, &self.topic).await?;
        let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for master in &masters {
            clusters.entry(&master.info.cluster).or_default().push(&master.info.group);
        }
        let rows = clusters.iter().map(|(cluster, brokers)| vec![(*cluster).to_owned(), brokers.join(",")]);
        Ok(CommandReport::ok(
            table(&["Cluster Name", "Brokers"], rows),
            json!({ "topic": self.topic, "clusters": clusters }),
        ))
    }
}
