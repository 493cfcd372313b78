//! `liteList`.

use crate::target::{Common, Done, Where, report, without_absent};
use clap::Args;
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use serde_json::{Value, json};

/// Show the lite topics of a topic of type LITE
#[derive(Debug, Args)]
pub(crate) struct LiteList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the topic of type LITE
    #[arg(short = 't', long)]
    topic: String,
    /// Show the lag of this consumer group, and count only its subscribers
    #[arg(short = 'g', long)]
    group: Option<String>,
    /// Only lite topics whose names begin with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Most lite topics of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT", default_value_t = 100)]
    most: usize,
}

/// The lite topics of one broker.
struct Listed {
    lites: Vec<wire::LiteTopicStatus>,
    total: u64,
    is_cut_off: bool,
}

impl LiteList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, Some(&self.topic)).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.collect(&admin.broker(&broker.address)).await;
            done.push(Done { broker, result });
        }
        let done = without_absent(done);
        let mut summary = report(&done, |_, _| String::new(), |listed| self.view(listed));
        if done.iter().any(|done| done.result.is_ok()) {
            summary.text = self.text(&done);
        }
        Ok(summary)
    }

    async fn collect(&self, admin: &BrokerAdmin) -> Result<Listed> {
        let mut request = wire::ListLitesRequest {
            topic: self.topic.clone(),
            prefix: self.prefix.clone(),
            group: self.group.clone().unwrap_or_default(),
            ..Default::default()
        };
        let mut lites = Vec::new();
        loop {
            // One more than wanted tells whether there are more.
            request.limit = u32::try_from(self.most + 1 - lites.len()).unwrap_or(u32::MAX);
            let page = admin.list_lites(request.clone()).await.map_err(CommandFailure::from)?;
            lites.extend(page.lites);
            let is_cut_off = lites.len() > self.most;
            if is_cut_off || page.next.is_empty() {
                lites.truncate(self.most);
                return Ok(Listed { lites, total: page.total, is_cut_off });
            }
            request.after = page.next;
        }
    }

    fn text(&self, done: &[Done<Listed>]) -> String {
        let answers = || done.iter().filter_map(|done| Some((&done.broker, done.result.as_ref().ok()?)));
        let mut header = vec![
            "Lite Topic",
            "Broker Name",
            "QID",
            "Min Offset",
            "Max Offset",
            "Messages",
            "Last Activity",
            "Subscribers",
        ];
        header.extend(self.group.as_ref().map(|_| "Diff"));
        let row = |broker: &str, lite: &wire::LiteTopicStatus| {
            let mut row = vec![
                lite.name.clone(),
                broker.to_owned(),
                lite.queue.to_string(),
                lite.min_offset.to_string(),
                lite.max_offset.to_string(),
                messages(lite).to_string(),
                local_time(last_activity_ms(lite)),
                lite.subscribers.to_string(),
            ];
            let lag = lite.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
            row.extend(self.group.as_ref().map(|_| lag));
            row
        };
        let rows = answers()
            .flat_map(|(broker, listed)| listed.lites.iter().map(|lite| row(&broker.info.group, lite)));
        let mut text = table(&header, rows);
        let total: u64 = answers().map(|(_, listed)| listed.total).sum();
        text.push_str(&format!("\n\nLite topics of {}: {total}", self.topic));
        if answers().any(|(_, listed)| listed.is_cut_off) {
            text.push_str("\nNot all are shown; raise -m, or choose with --prefix");
        }
        text
    }

    fn view(&self, listed: &Listed) -> Value {
        let lite = |lite: &wire::LiteTopicStatus| {
            let mut entry = json!({
                "liteTopic": lite.name,
                "queue": lite.queue,
                "minOffset": lite.min_offset,
                "maxOffset": lite.max_offset,
                "messages": messages(lite),
                "createdMs": lite.created_ms,
                "lastActivityMs": last_activity_ms(lite),
                "subscribers": lite.subscribers,
            });
            if self.group.is_some() {
                entry["diff"] = json!(lite.lag);
            }
            entry
        };
        let lites: Vec<Value> = listed.lites.iter().map(lite).collect();
        json!({ "liteTopics": lites, "total": listed.total, "truncated": listed.is_cut_off })
    }
}

fn messages(lite: &wire::LiteTopicStatus) -> u64 {
    lite.max_offset.saturating_sub(lite.min_offset)
}

/// Its newest message, or its creation if it has none: what its expiration is counted from.
fn last_activity_ms(lite: &wire::LiteTopicStatus) -> i64 {
    lite.last_store_ms.max(lite.created_ms)
}
