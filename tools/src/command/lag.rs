//! The lag of all consumer groups: the commands that look at every group.

use crate::target::{Common, Where, alone};
use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, table};
use serde_json::json;
use std::collections::BTreeMap;

/// The progress of a group in a queue.
pub(crate) struct GroupQueue {
    /// The broker group that has the queue.
    pub(crate) broker: String,
    pub(crate) group: String,
    pub(crate) status: wire::GroupQueueStatus,
}

/// The progress of groups in their queues, and the brokers that did not answer.
#[derive(Default)]
pub(crate) struct Standings {
    pub(crate) queues: Vec<GroupQueue>,
    pub(crate) failures: Vec<(Master, CommandFailure)>,
    /// Brokers that answered.
    pub(crate) answered: usize,
}

/// All queues of all groups on some brokers, or of one group; see [`standings`].
pub(crate) async fn queues(admin: &Admin, brokers: &[Master], only: Option<&str>) -> Result<Vec<GroupQueue>> {
    let Standings { queues, failures, .. } = standings(admin, brokers, only, None).await;
    match failures.into_iter().next() {
        Some((_, failure)) => Err(failure),
        None => Ok(queues),
    }
}

/// The progress of all groups, or one, in all topics, or in one. A group that consumes a topic from one broker and has
/// not come to another broker with that topic still has the messages there ahead of it: there are rows for those as
/// well.
pub(crate) async fn standings(
    admin: &Admin,
    brokers: &[Master],
    only: Option<&str>,
    topic: Option<&str>,
) -> Standings {
    let (mut found, mut seen) = (Standings::default(), Vec::new());
    for broker in brokers {
        match of_broker(admin, broker, only, topic).await {
            Ok(groups) => seen.push((broker, groups)),
            Err(failure) => found.failures.push((broker.clone(), failure)),
        }
    }
    found.answered = seen.len();
    let mut consumed: BTreeMap<(&str, &str, &str), &wire::GroupConfig> = BTreeMap::new();
    for (broker, groups) in &seen {
        for answer in groups {
            let Some(config) = &answer.group else { continue };
            // Members of broadcast groups have cursors of their own, and lite topics are no queues of their topic.
            for row in answer.queues.iter().filter(|row| row.client.is_empty() && row.lite_topics.is_none()) {
                consumed.insert((&broker.info.cluster, &config.name, &row.topic), config);
            }
        }
    }
    for (broker, groups) in &seen {
        let rows_of = |group: &str| {
            let answer = groups.iter().find(|answer| answer.group.as_ref().is_some_and(|g| g.name == group));
            answer.into_iter().flat_map(|answer| &answer.queues)
        };
        let missing = consumed.iter().filter(|((cluster, group, topic), _)| {
            *cluster == broker.info.cluster && !rows_of(group).any(|row| row.topic == *topic)
        });
        let mut unread = Vec::new();
        for ((_, _, topic), config) in missing {
            match unread_queues(admin, broker, topic, config).await {
                Ok(rows) => unread.extend(rows),
                Err(failure) => found.failures.push(((*broker).clone(), failure)),
            }
        }
        for answer in groups {
            let group = answer.group.as_ref().map(|group| group.name.clone()).unwrap_or_default();
            let broker = &broker.info.group;
            let row = |status: &wire::GroupQueueStatus| GroupQueue {
                broker: broker.clone(),
                group: group.clone(),
                status: status.clone(),
            };
            found.queues.extend(answer.queues.iter().map(row));
        }
        found.queues.extend(unread);
    }
    found.queues.sort_by(|a, b| {
        let key =
            |queue: &GroupQueue| (queue.group.clone(), queue.status.topic.clone(), queue.broker.clone());
        key(a).cmp(&key(b))
    });
    found
}

/// What a broker says of the groups that it knows. That it does not know the one that is asked for is no failure.
async fn of_broker(
    admin: &Admin,
    broker: &Master,
    only: Option<&str>,
    topic: Option<&str>,
) -> Result<Vec<wire::DescribeGroupResponse>> {
    let asked = admin.broker(&broker.address);
    let listed = asked.list_groups(wire::ListGroupsRequest::default()).await?.groups;
    let mut groups = Vec::new();
    for group in listed.into_iter().filter(|group| only.is_none_or(|only| only == group.name)) {
        let request = wire::DescribeGroupRequest { name: group.name, ..Default::default() };
        let mut answer = asked.describe_group(request).await?;
        answer.queues.retain(|row| topic.is_none_or(|topic| topic == row.topic));
        groups.push(answer);
    }
    Ok(groups)
}

/// The backlog of a group on a broker that it has not come to yet.
async fn unread_queues(
    admin: &Admin,
    broker: &Master,
    topic: &str,
    group: &wire::GroupConfig,
) -> Result<Vec<GroupQueue>> {
    let request = wire::DescribeTopicRequest { name: topic.to_owned() };
    let described =
        match admin.broker(&broker.address).describe_topic(request).await.map_err(CommandFailure::from) {
            Ok(described) => described,
            Err(failure) if failure.exit == ExitStatus::NotFound => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
    let is_latest = group.attributes.get("consume.from").is_some_and(|start| start == "latest");
    let read_queues = described.topic.map_or(0, |topic| topic.read_queues);
    let queues = described.queues.into_iter().filter(|queue| queue.queue < read_queues);
    let row = |queue: wire::QueueStatus| {
        let start = if is_latest { queue.max_offset } else { queue.min_offset };
        let lag = queue.max_offset - start;
        let status = wire::GroupQueueStatus {
            topic: topic.to_owned(),
            queue: queue.queue,
            broker_offset: queue.max_offset,
            consumer_offset: start,
            lag,
            ready: lag,
            ..Default::default()
        };
        GroupQueue { broker: broker.info.group.clone(), group: group.name.clone(), status }
    };
    Ok(queues.map(row).collect())
}

/// Lag by group and topic.
pub(crate) fn by_group_and_topic(queues: &[GroupQueue]) -> BTreeMap<(String, String), u64> {
    let mut sums = BTreeMap::new();
    for queue in queues {
        *sums.entry((queue.group.clone(), queue.status.topic.clone())).or_default() += queue.status.lag;
    }
    sums
}

/// Show topics with the messages in them, the groups that consume them, and their lag
#[derive(Debug, Args)]
pub(crate) struct StatsAll {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only topics in which some group lags, or that have no group
    #[arg(short = 'a', long = "active-topic", alias = "activeTopic")]
    active: bool,
    /// Only this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
}

impl StatsAll {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let admin = client.admin();
        let brokers = admin.masters(None).await?;
        let mut stored: BTreeMap<String, u64> = BTreeMap::new();
        for broker in &brokers {
            let asked = admin.broker(&broker.address);
            for topic in asked.list_topics(wire::ListTopicsRequest {}).await?.topics {
                if self.topic.as_ref().is_some_and(|only| *only != topic.name) {
                    continue;
                }
                let described =
                    asked.describe_topic(wire::DescribeTopicRequest { name: topic.name.clone() }).await?;
                let messages =
                    described.queues.iter().map(|queue| queue.max_offset - queue.min_offset).sum::<u64>();
                *stored.entry(topic.name).or_default() += messages;
            }
        }
        let lags = by_group_and_topic(&queues(&admin, &brokers, None).await?);
        let mut rows = Vec::new();
        for (topic, messages) in &stored {
            let groups = lags.iter().filter(|((_, known), _)| known == topic);
            let before = rows.len();
            for ((group, _), lag) in groups {
                if !self.active || *lag > 0 {
                    rows.push((topic.clone(), *messages, Some(group.clone()), *lag));
                }
            }
            let has_groups = lags.keys().any(|(_, known)| known == topic);
            if rows.len() == before && !has_groups {
                rows.push((topic.clone(), *messages, None, 0));
            }
        }
        let view = |(topic, messages, group, lag): &(String, u64, Option<String>, u64)| json!({ "topic": topic, "messages": messages, "group": group, "accumulation": lag });
        let row = |(topic, messages, group, lag): &(String, u64, Option<String>, u64)| {
            vec![
                topic.clone(),
                messages.to_string(),
                group.clone().unwrap_or_else(|| "-".to_owned()),
                lag.to_string(),
            ]
        };
        Ok(CommandReport::ok(
            table(&["Topic", "Messages", "Consumer Group", "Accumulation"], rows.iter().map(row)),
            json!({ "topics": rows.iter().map(view).collect::<Vec<_>>() }),
        ))
    }
}

/// Show the lag of every consumer group on one broker
#[derive(Debug, Args)]
pub(crate) struct BrokerConsumeStats {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The broker, HOST:PORT
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Address,
    /// Only queues with a larger lag
    #[arg(short = 'l', long, default_value_t = 0, value_name = "N")]
    level: u64,
    /// Accepted and without meaning: brokers answer in time or not at all
    #[arg(short = 't', long = "timeout-millis", alias = "timeoutMillis", value_name = "MILLIS")]
    _timeout: Option<u64>,
    /// Only groups whose messages come in order
    #[arg(short = 'o', long, value_name = "BOOL")]
    order: Option<bool>,
}

impl BrokerConsumeStats {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let admin = self.common.client_of(&self.broker)?.admin();
        let asked = admin.broker(&self.broker);
        let groups = asked.list_groups(wire::ListGroupsRequest::default()).await?.groups;
        let ordered: Vec<&str> =
            groups.iter().filter(|group| group.fifo).map(|group| group.name.as_str()).collect();
        let mut found = queues(&admin, &[alone(&self.broker)], None).await?;
        found.retain(|queue| {
            (self.level == 0 || queue.status.lag > self.level)
                && (self.order != Some(true) || ordered.contains(&queue.group.as_str()))
        });
        let row = |queue: &GroupQueue| {
            let status = &queue.status;
            vec![
                status.topic.clone(),
                queue.group.clone(),
                status.queue.to_string(),
                status.broker_offset.to_string(),
                status.consumer_offset.to_string(),
                status.lag.to_string(),
            ]
        };
        let view = |queue: &GroupQueue| {
            let status = &queue.status;
            json!({
                "topic": status.topic, "group": queue.group, "queue": status.queue, "brokerOffset": status.broker_offset,
                "consumerOffset": status.consumer_offset, "diff": status.lag,
            })
        };
        let total: u64 = found.iter().map(|queue| queue.status.lag).sum();
        let header = ["Topic", "Group", "QID", "Broker Offset", "Consumer Offset", "Diff"];
        Ok(CommandReport::ok(
            format!("{}\n\nDiff Total: {total}", table(&header, found.iter().map(row))),
            json!({ "diffTotal": total, "queues": found.iter().map(view).collect::<Vec<_>>() }),
        ))
    }
}

/// Have a consumer group begin where another one stands
#[derive(Debug, Args)]
pub(crate) struct CloneGroupOffset {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Group whose offsets are taken
    #[arg(short = 's', long = "src-group", alias = "srcGroup")]
    source: String,
    /// Group that gets them
    #[arg(short = 'd', long = "dest-group", alias = "destGroup")]
    destination: String,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Accepted and without meaning: offsets can be set while a group consumes
    #[arg(short = 'o', long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    offline: Option<bool>,
    /// Only show what would happen
    #[arg(long)]
    dry_run: bool,
}

impl CloneGroupOffset {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, Some(&self.topic)).await?;
        let (mut rows, mut views) = (Vec::new(), Vec::new());
        for broker in &brokers {
            let asked = admin.broker(&broker.address);
            let request = wire::DescribeGroupRequest { name: self.source.clone(), topic: self.topic.clone() };
            for queue in
                asked.describe_group(request).await?.queues.iter().filter(|queue| queue.lite_topics.is_none())
            {
                let request = wire::ResetOffsetsRequest {
                    group: self.destination.clone(),
                    topic: self.topic.clone(),
                    queues: vec![queue.queue],
                    to: Some(wire::reset_offsets_request::To::Offset(queue.consumer_offset)),
                    dry_run: self.dry_run,
                };
                let done = asked.reset_offsets(request).await?.queues.pop().unwrap_or_default();
                rows.push(vec![
                    broker.info.group.clone(),
                    queue.queue.to_string(),
                    done.from.to_string(),
                    done.to.to_string(),
                    done.lag_after.to_string(),
                ]);
                views.push(json!({
                    "broker": broker.info.group, "queue": queue.queue, "from": done.from, "to": done.to,
                    "diffAfter": done.lag_after,
                }));
            }
        }
        if rows.is_empty() {
            let text = format!("group {} has no progress in topic {}", self.source, self.topic);
            return Err(CommandFailure::not_found(text));
        }
        let words =
            if self.dry_run { "nothing was changed (--dry-run)" } else { "clone group offset success" };
        Ok(CommandReport::ok(
            format!(
                "{}\n\n{words}",
                table(&["Broker Name", "QID", "From Offset", "To Offset", "Diff After"], rows)
            ),
            json!({ "dryRun": self.dry_run, "queues": views }),
        ))
    }
}
