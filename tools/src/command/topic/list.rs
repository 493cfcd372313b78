//! `topicList`.

use super::view::{perm_name, type_name};
use crate::target::{Common, alone};
use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, table};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

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
    pub(crate) async fn run(self) -> Result<CommandReport> {
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
        Ok(CommandReport::ok(table(&header, topics.iter().map(row)), json!({ "topics": topics })))
    }

    async fn of_broker(&self, address: &Address) -> Result<Vec<ListedTopic>> {
        let admin = self.common.client_of(address)?.admin();
        let answer = admin.broker(address).list_topics(wire::ListTopicsRequest {}).await?;
        let topics = answer.topics.into_iter().map(|topic| wire::TopicRoute {
            name: topic.name,
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: topic.perm,
            message_types: topic.message_types,
            ..Default::default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::topic::view::example;

    #[test]
    fn a_topic_on_two_brokers_is_listed_once() {
        let topics = listed(&example());
        assert_eq!(topics.len(), 1);
        assert_eq!(
            json!(topics[0]),
            json!({ "cluster": "C", "topic": "orders", "messageType": "TRANSACTION", "readQueues": 8,
                    "writeQueues": 8, "perm": "RW-", "brokers": ["a", "b"] })
        );
    }
}
