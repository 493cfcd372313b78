//! Topics: create, change, delete, list, status, route.

use super::confirm;
use crate::outcome::{Exit, Failure, Result};
use crate::output::{Report, local_time, table};
use crate::target::{Common, Done, Target, alone, report};
use clap::Args;
use kerolox_client::admin::{Admin, Master, masters_of, wire};
use kerolox_client::{Address, Client};
use kerolox_proto::v2::MessageType;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Create a topic, or change it; what is not given stays as it is
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
    /// (NORMAL, FIFO, DELAY, TRANSACTION, MIXED)
    #[arg(short = 'a', long, value_delimiter = ',', allow_hyphen_values = true, value_name = "ATTRIBUTE")]
    attributes: Vec<String>,
}

fn parse_perm(text: &str) -> std::result::Result<u32, String> {
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
        }
    }

    pub(crate) async fn run(self) -> Result<Report> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result =
                admin.broker(&broker.address).update_topic(self.request()).await.map_err(Failure::from);
            done.push(Done { broker, result });
        }
        if self.target.cluster.is_some() {
            await_routes(&admin, &done).await;
        }
        Ok(report(
            &done,
            |broker, answer| {
                let topic = TopicView::from(&answer.topic.clone().unwrap_or_default());
                format!("create topic to {} success.\n{topic}", broker.address)
            },
            |answer| json!({ "created": answer.created, "topic": answer.topic.as_ref().map(TopicView::from) }),
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
            perm: topic.perm,
            message_types: topic.message_types.clone(),
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

/// Leaves out the brokers that never had the thing to be deleted, unless none had it.
pub(super) fn without_absent<T>(done: Vec<Done<T>>) -> Vec<Done<T>> {
    let absent = |done: &Done<T>| done.result.as_ref().is_err_and(|failure| failure.exit == Exit::NotFound);
    if done.iter().all(absent) { done } else { done.into_iter().filter(|done| !absent(done)).collect() }
}

/// List the topics
#[derive(Debug, Args)]
pub(crate) struct TopicList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Show the cluster of each topic
    #[arg(short = 'c', long = "cluster-model", alias = "clusterModel")]
    clusters: bool,
    /// List what one broker has, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Option<Address>,
}

/// One line of `topicList`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedTopic {
    cluster: String,
    topic: String,
    message_type: String,
    read_queues: u32,
    write_queues: u32,
    perm: String,
    brokers: BTreeSet<String>,
}

impl TopicList {
    pub(crate) async fn run(self) -> Result<Report> {
        let topics = match &self.broker {
            Some(address) => self.of_broker(address).await?,
            None => {
                let client = self.common.client()?;
                listed(&self.common.snapshot(&client).await?)
            }
        };
        let mut header = vec!["Topic", "Type", "Read", "Write", "Perm", "Brokers"];
        if self.clusters {
            header.insert(0, "Cluster");
        }
        let row = |topic: &ListedTopic| {
            let mut row = vec![
                topic.topic.clone(),
                topic.message_type.clone(),
                topic.read_queues.to_string(),
                topic.write_queues.to_string(),
                topic.perm.clone(),
                Vec::from_iter(topic.brokers.iter().map(String::as_str)).join(","),
            ];
            if self.clusters {
                row.insert(0, topic.cluster.clone());
            }
            row
        };
        Ok(Report::ok(table(&header, topics.iter().map(row)), json!({ "topics": topics })))
    }

    async fn of_broker(&self, address: &Address) -> Result<Vec<ListedTopic>> {
        let admin = Client::builder(address.to_string()).build()?.admin();
        let answer = admin.broker(address).list_topics(wire::ListTopicsRequest {}).await?;
        let topics = answer.topics.into_iter().map(|topic| wire::TopicRoute {
            name: topic.name,
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: topic.perm,
            message_types: topic.message_types,
        });
        let broker = Some(alone(address).info);
        let registered = wire::RegisteredBroker { broker, topics: topics.collect(), ..Default::default() };
        Ok(listed(&wire::ClusterSnapshot { version: 0, brokers: vec![registered] }))
    }
}

/// The topics of a snapshot, one entry per cluster and topic; queues are those of the broker that has most.
fn listed(snapshot: &wire::ClusterSnapshot) -> Vec<ListedTopic> {
    let mut topics: BTreeMap<(String, String), ListedTopic> = BTreeMap::new();
    for registered in &snapshot.brokers {
        let broker = registered.broker.clone().unwrap_or_default();
        for topic in &registered.topics {
            let entry =
                topics.entry((topic.name.clone(), broker.cluster.clone())).or_insert_with(|| ListedTopic {
                    cluster: broker.cluster.clone(),
                    topic: topic.name.clone(),
                    message_type: type_name(&topic.message_types),
                    read_queues: 0,
                    write_queues: 0,
                    perm: perm_name(topic.perm),
                    brokers: BTreeSet::new(),
                });
            entry.read_queues = entry.read_queues.max(topic.read_queues);
            entry.write_queues = entry.write_queues.max(topic.write_queues);
            entry.brokers.insert(broker.group.clone());
        }
    }
    topics.into_values().collect()
}

/// Show the offsets of every queue of a topic
#[derive(Debug, Args)]
pub(crate) struct TopicStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Ask one broker only, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Option<Address>,
}

impl TopicStatus {
    pub(crate) async fn run(self) -> Result<Report> {
        let (admin, brokers) = match &self.broker {
            Some(address) => (Client::builder(address.to_string()).build()?.admin(), vec![alone(address)]),
            None => {
                let client = self.common.client()?;
                let (_, masters) = self.common.masters_with_topic(&client, &self.topic).await?;
                (client.admin(), masters)
            }
        };
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DescribeTopicRequest { name: self.topic.clone() };
            let result = admin.broker(&broker.address).describe_topic(request).await.map_err(Failure::from);
            done.push(Done { broker, result });
        }
        let mut summary = report(&done, |_, _| String::new(), status_json);
        summary.text = status_text(&done);
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
    json!({
        "topic": answer.topic.as_ref().map(TopicView::from),
        "queues": answer.queues.iter().map(queue).collect::<Vec<_>>(),
        "undecidedTransactions": answer.undecided_transactions,
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
    text
}

/// Show which brokers serve a topic
#[derive(Debug, Args)]
pub(crate) struct TopicRoute {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
}

impl TopicRoute {
    pub(crate) async fn run(self) -> Result<Report> {
        let client = self.common.client()?;
        let (snapshot, _) = self.common.masters_with_topic(&client, &self.topic).await?;
        Ok(route_report(&snapshot, &masters_of(&snapshot, None)?, &self.topic))
    }
}

fn route_report(snapshot: &wire::ClusterSnapshot, masters: &[Master], topic: &str) -> Report {
    let routes: HashMap<_, &wire::TopicRoute> = snapshot
        .brokers
        .iter()
        .filter_map(|registered| {
            let broker = registered.broker.as_ref()?;
            let route = registered.topics.iter().find(|route| route.name == topic)?;
            Some(((&broker.cluster, &broker.group, broker.id), route))
        })
        .collect();
    let served = || {
        masters.iter().filter_map(|master| {
            let route = routes.get(&(&master.info.cluster, &master.info.group, master.info.id))?;
            Some((master, *route))
        })
    };
    let rows = served().map(|(master, route)| {
        vec![
            master.info.cluster.clone(),
            master.info.group.clone(),
            master.address.to_string(),
            route.read_queues.to_string(),
            route.write_queues.to_string(),
            perm_name(route.perm),
            type_name(&route.message_types),
        ]
    });
    let entry = |(master, route): (&Master, &wire::TopicRoute)| {
        json!({
            "cluster": master.info.cluster,
            "broker": master.info.group,
            "address": master.address.to_string(),
            "readQueues": route.read_queues,
            "writeQueues": route.write_queues,
            "perm": perm_name(route.perm),
            "messageType": type_name(&route.message_types),
        })
    };
    Report::ok(
        table(&["Cluster", "Broker Name", "Address", "Read", "Write", "Perm", "Type"], rows),
        json!({ "topic": topic, "brokers": served().map(entry).collect::<Vec<_>>() }),
    )
}

/// A topic in RocketMQ's words.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicView {
    name: String,
    read_queues: u32,
    write_queues: u32,
    perm: String,
    message_type: String,
    attributes: BTreeMap<String, String>,
}

impl From<&wire::TopicConfig> for TopicView {
    fn from(topic: &wire::TopicConfig) -> Self {
        Self {
            name: topic.name.clone(),
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: perm_name(topic.perm),
            message_type: type_name(&topic.message_types),
            attributes: topic.attributes.clone().into_iter().collect(),
        }
    }
}

impl std::fmt::Display for TopicView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}, messageType={}, attributes={:?}]",
            self.name, self.read_queues, self.write_queues, self.perm, self.message_type, self.attributes
        )
    }
}

/// RocketMQ's way of writing a permission: `RW-`, `R--`, `-W-`.
fn perm_name(perm: u32) -> String {
    format!("{}{}-", if perm & 4 == 0 { '-' } else { 'R' }, if perm & 2 == 0 { '-' } else { 'W' })
}

/// The value of `message.type`: one type, or MIXED.
fn type_name(types: &[i32]) -> String {
    match types {
        [] => "-".to_owned(),
        [one] => MessageType::try_from(*one).map_or_else(|_| one.to_string(), |t| t.as_str_name().to_owned()),
        _ => "MIXED".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> wire::ClusterSnapshot {
        let broker = |group: &str, queues| wire::RegisteredBroker {
            broker: Some(wire::BrokerInfo {
                cluster: "C".into(),
                group: group.into(),
                role: wire::BrokerRole::Master.into(),
                host: "h".into(),
                port: 8081,
                ..Default::default()
            }),
            topics: vec![wire::TopicRoute {
                name: "orders".into(),
                read_queues: queues,
                write_queues: queues,
                perm: 6,
                message_types: vec![4],
            }],
            ..Default::default()
        };
        wire::ClusterSnapshot { version: 1, brokers: vec![broker("a", 4), broker("b", 8)] }
    }

    #[test]
    fn permissions_and_types_read_as_in_rocketmq() {
        assert_eq!([perm_name(6), perm_name(4), perm_name(2), perm_name(0)], ["RW-", "R--", "-W-", "---"]);
        assert_eq!(
            [type_name(&[4]), type_name(&[1, 2, 3, 4]), type_name(&[99])],
            ["TRANSACTION", "MIXED", "99"]
        );
    }

    #[test]
    fn a_topic_on_two_brokers_is_listed_once() {
        let topics = listed(&snapshot());
        assert_eq!(topics.len(), 1);
        assert_eq!(
            json!(topics[0]),
            json!({ "cluster": "C", "topic": "orders", "messageType": "TRANSACTION", "readQueues": 8,
                    "writeQueues": 8, "perm": "RW-", "brokers": ["a", "b"] })
        );
    }

    #[test]
    fn a_changed_topic_is_awaited_until_the_route_agrees() {
        let snapshot = snapshot();
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

    #[test]
    fn routes_show_each_broker() {
        let snapshot = snapshot();
        let report = route_report(&snapshot, &masters_of(&snapshot, None).unwrap(), "orders");
        assert_eq!(report.text.lines().count(), 3, "{}", report.text);
        assert_eq!(report.json["brokers"][0]["readQueues"], 4);
        assert_eq!(report.json["brokers"][1]["broker"], "b");
    }

    #[test]
    fn status_lists_queues_and_undecided_transactions() {
        let queue = wire::QueueStatus { queue: 0, min_offset: 0, max_offset: 7, last_store_ms: 0 };
        let answer = wire::DescribeTopicResponse {
            queues: vec![queue],
            undecided_transactions: 2,
            ..Default::default()
        };
        assert_eq!(status_json(&answer)["queues"][0]["maxOffset"], 7);
        let text = status_text(&[Done { broker: alone(&Address::new("h", 1)), result: Ok(answer) }]);
        assert!(text.starts_with("#Broker Name") && text.ends_with("decision: 2"), "{text}");
    }

    #[test]
    fn brokers_without_the_topic_do_not_spoil_a_deletion() {
        let done = |port, result| Done { broker: alone(&Address::new("h", port)), result };
        let kept = without_absent(vec![done(1, Ok(())), done(2, Err(Failure::not_found("no topic")))]);
        assert_eq!(kept.len(), 1);
        let kept = without_absent(vec![done(2, Err::<(), _>(Failure::not_found("no topic")))]);
        assert_eq!(kept.len(), 1, "when no broker had it, that is the answer");
    }
}
