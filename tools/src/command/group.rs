//! Consumer groups: create, change, delete.

use super::{DryRun, confirm};
use crate::target::{Common, Done, Target, Where, report, without_absent};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::{Value, json};

/// Create or change a consumer group; settings that are not given stay as they are
#[derive(Debug, Args)]
pub(crate) struct UpdateSubGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
    /// Whether the group may consume
    #[arg(short = 's', long = "consume-enable", alias = "consumeEnable", value_name = "BOOL")]
    consume_enable: Option<bool>,
    /// Kept for RocketMQ's tools, without an effect: a group starts in a topic that it has never consumed with the oldest
    /// message, unless `--attributes +consume.from=latest` says otherwise
    #[arg(
        short = 'm',
        long = "consume-from-min-enable",
        alias = "consumeFromMinEnable",
        value_name = "BOOL"
    )]
    consume_from_min: Option<bool>,
    /// Whether messages of one message group are delivered in order
    #[arg(
        short = 'o',
        long = "consume-message-orderly",
        alias = "consumeMessageOrderly",
        value_name = "BOOL"
    )]
    orderly: Option<bool>,
    /// Whether every client of the group gets every message, each with a cursor of its own
    #[arg(
        short = 'd',
        long = "consume-broadcast-enable",
        alias = "consumeBroadcastEnable",
        value_name = "BOOL"
    )]
    broadcast: Option<bool>,
    /// Redeliveries after the first attempt, before a message becomes a dead letter
    #[arg(short = 'r', long = "retry-max-times", alias = "retryMaxTimes", value_name = "N")]
    retry_max_times: Option<u32>,
    /// Delays between attempts, as RocketMQ's GroupRetryPolicy in JSON; equivalent to the attribute retry.backoff
    #[arg(short = 'p', long = "group-retry-policy", alias = "groupRetryPolicy", value_name = "JSON", value_parser = retry_policy)]
    retry_policy: Option<String>,
    /// Attributes, +KEY=VALUE or -KEY, several separated by ','; consume.from=earliest, latest or a time says where the
    /// group starts in a topic that it has never consumed, priority.factor=0..100 how strictly priorities count
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "ATTRIBUTE")]
    attributes: Vec<String>,
    #[command(flatten)]
    dry_run: DryRun,
}

impl UpdateSubGroup {
    pub(crate) fn request(&self) -> wire::UpdateGroupRequest {
        let attributes = self.attributes.iter().map(|change| change.trim().to_owned());
        let backoff = self.retry_policy.as_ref().map(|backoff| format!("+retry.backoff={backoff}"));
        let broadcast = self.broadcast.map(|broadcast| format!("+broadcast={broadcast}"));
        wire::UpdateGroupRequest {
            name: self.group.clone(),
            consume_enable: self.consume_enable,
            fifo: self.orderly,
            retry_max_times: self.retry_max_times,
            consume_from_min: self.consume_from_min,
            attributes: attributes.chain(broadcast).chain(backoff).collect(),
            dry_run: self.dry_run.dry_run,
        }
    }

    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = admin
                .broker(&broker.address)
                .update_group(self.request())
                .await
                .map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let dry_run = self.dry_run.dry_run;
        Ok(report(
            &done,
            |broker, answer| {
                let group = group_text(&answer.group.clone().unwrap_or_default());
                match (dry_run, answer.before.as_ref().map(group_text)) {
                    (false, _) => {
                        format!("create subscription group to {} success.\n{group}", broker.address)
                    }
                    (true, None) => format!("dry run: would create on {}\n{group}", broker.address),
                    (true, Some(before)) => {
                        format!("dry run: would change on {}\n- {before}\n+ {group}", broker.address)
                    }
                }
            },
            |answer| {
                json!({
                    "dryRun": dry_run, "created": answer.created, "group": answer.group.as_ref().map(group_json),
                    "before": answer.before.as_ref().map(group_json),
                })
            },
        ))
    }
}

/// RocketMQ's policy as a back-off in our words: a list of delays, or exponential/FIRST/LONGEST/FACTOR.
fn retry_policy(text: &str) -> std::result::Result<String, String> {
    let policy: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let millis = |value: &Value| value.as_u64().map(|millis| format!("{millis}ms"));
    match policy["type"].as_str() {
        Some("EXPONENTIAL") => {
            // RocketMQ's figures where it says nothing else: 5 s, 2 h, twice as long each time.
            let exponential = &policy["exponentialRetryPolicy"];
            let first = millis(&exponential["initial"]).unwrap_or_else(|| "5s".to_owned());
            let longest = millis(&exponential["max"]).unwrap_or_else(|| "2h".to_owned());
            let factor = exponential["multiplier"].as_f64().unwrap_or(2.0);
            Ok(format!("exponential/{first}/{longest}/{factor}"))
        }
        Some("CUSTOMIZED") => {
            let delays: Option<Vec<String>> = policy["customizedRetryPolicy"]["next"]
                .as_array()
                .map(|delays| delays.iter().filter_map(millis).collect());
            match delays {
                Some(delays) if !delays.is_empty() => Ok(delays.join("/")),
                _ => Err("customizedRetryPolicy.next must list delays in milliseconds".to_owned()),
            }
        }
        _ => Err("its type must be EXPONENTIAL or CUSTOMIZED".to_owned()),
    }
}

/// Delete a consumer group with its progress
#[derive(Debug, Args)]
pub(crate) struct DeleteSubGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl DeleteSubGroup {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let question = format!(
            "Delete consumer group {} with its progress from {}?",
            self.group,
            self.target.describe(&brokers)
        );
        if self.dry_run.dry_run {
            return self.would_delete(&admin, brokers).await;
        }
        confirm(&question, self.yes)?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DeleteGroupRequest { name: self.group.clone() };
            let result =
                admin.broker(&broker.address).delete_group(request).await.map_err(CommandFailure::from);
            done.push(Done { broker, result });
        }
        let text = |broker: &Master, _: &_| {
            format!("delete subscription group [{}] from broker [{}] success.", self.group, broker.address)
        };
        Ok(report(&without_absent(done), text, |_| json!({})))
    }

    async fn would_delete(&self, admin: &Admin, brokers: Vec<Master>) -> Result<CommandReport> {
        let mut found = Vec::new();
        for broker in brokers {
            let request = wire::DescribeGroupRequest { name: self.group.clone(), ..Default::default() };
            let result =
                admin.broker(&broker.address).describe_group(request).await.map_err(CommandFailure::from);
            found.push(Done { broker, result });
        }
        let lag =
            |answer: &wire::DescribeGroupResponse| answer.queues.iter().map(|queue| queue.lag).sum::<u64>();
        let text = |broker: &Master, answer: &wire::DescribeGroupResponse| {
            format!(
                "dry run: would delete consumer group {} from {}, with its progress in {} queues and {} messages to go",
                self.group,
                broker.address,
                answer.queues.len(),
                lag(answer)
            )
        };
        let view = |answer: &wire::DescribeGroupResponse| json!({ "dryRun": true, "queues": answer.queues.len(), "lag": lag(answer) });
        Ok(report(&without_absent(found), text, view))
    }
}

/// Show the settings of a consumer group
#[derive(Debug, Args)]
pub(crate) struct GetConsumerConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: String,
}

impl GetConsumerConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let groups = admin.broker(&broker.address).list_groups(wire::ListGroupsRequest::default()).await;
            let result = match groups.map_err(CommandFailure::from) {
                Ok(answer) => {
                    answer.groups.into_iter().find(|group| group.name == self.group).ok_or_else(|| {
                        CommandFailure::not_found(format!(
                            "broker {} has no consumer group {}",
                            broker.address, self.group
                        ))
                    })
                }
                Err(failure) => Err(failure),
            };
            done.push(Done { broker, result });
        }
        let text = |broker: &Master, group: &wire::GroupConfig| {
            format!("broker {} [{}]\n{}", broker.info.group, broker.address, group_text(group))
        };
        Ok(report(&without_absent(done), text, |group| json!({ "group": group_json(group) })))
    }
}

fn group_text(group: &wire::GroupConfig) -> String {
    format!(
        "SubscriptionGroupConfig [groupName={}, consumeEnable={}, consumeFromMinEnable={}, consumeMessageOrderly={}, \
         retryMaxTimes={}, attributes={:?}]",
        group.name,
        group.consume_enable,
        group.consume_from_min,
        group.fifo,
        group.retry_max_times,
        std::collections::BTreeMap::from_iter(&group.attributes),
    )
}

fn group_json(group: &wire::GroupConfig) -> Value {
    json!({
        "name": group.name,
        "consumeEnable": group.consume_enable,
        "consumeFromMinEnable": group.consume_from_min,
        "consumeMessageOrderly": group.fifo,
        "retryMaxTimes": group.retry_max_times,
        "attributes": group.attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_shown_in_rocketmqs_words() {
        let group =
            wire::GroupConfig { name: "g".into(), fifo: true, retry_max_times: 3, ..Default::default() };
        assert_eq!(group_json(&group)["consumeMessageOrderly"], true);
        assert!(group_text(&group).contains("retryMaxTimes=3"));
    }

    #[test]
    fn retry_policies_of_rocketmq_become_back_offs() {
        let exponential =
            r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":1000,"max":60000,"multiplier":3}}"#;
        let customized = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1000,5000]}}"#;
        for (text, wanted) in [
            (exponential, "exponential/1000ms/60000ms/3"),
            (r#"{"type":"EXPONENTIAL"}"#, "exponential/5s/2h/2"),
            (customized, "1000ms/5000ms"),
        ] {
            let backoff = retry_policy(text).unwrap();
            assert_eq!(backoff, wanted);
            backoff.parse::<kerolox_model::backoff::Backoff>().unwrap();
        }
        for bad in ["", "{}", r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[]}}"#] {
            assert!(retry_policy(bad).is_err(), "{bad}");
        }
    }
}
