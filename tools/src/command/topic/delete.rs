//! `deleteTopic`.

use crate::command::confirm;
use crate::outcome::{Exit, Failure, Result};
use crate::output::Report;
use crate::target::{Common, Done, Target, report, without_absent};
use clap::Args;
use kerolox_client::admin::wire;
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
}

impl DeleteTopic {
    pub(crate) async fn run(self) -> Result<Report> {
        let place = self.target.describe();
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        confirm(&format!("Delete topic {} with all its messages from {place}?", self.topic), self.yes)?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DeleteTopicRequest { name: self.topic.clone() };
            let result = admin.broker(&broker.address).delete_topic(request).await.map_err(Failure::from);
            done.push(Done { broker, result });
        }
        let done = without_absent(done);
        let mut summary = report(&done, |_, _| String::new(), |_| json!({}));
        if summary.exit == Exit::Ok {
            summary.text = format!("delete topic [{}] from {place} success.", self.topic);
        }
        Ok(summary)
    }
}
