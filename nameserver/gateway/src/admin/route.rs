//! The settings of a topic, and the brokers that have it.

use std::collections::{BTreeMap, HashMap};

use kerolox_proto::kerolox as pb;
use kerolox_proto::v2::{self, MessageType};
use serde_json::{Value, json};

use super::servers::{Servers, known};
use super::stored;
use crate::refusal::{Refusal, ok_status};

/// DescribeTopicStatus. A topic of several types has none of its own; the tags are its attributes.
pub(super) async fn describe_topic(
    servers: &Servers,
    request: &v2::DescribeTopicStatusRequest,
) -> Result<v2::DescribeTopicStatusResponse, Refusal> {
    let name = stored(request.topic.as_ref(), "topic")?;
    let masters = servers.masters(Some(&name))?;
    let ask = pb::DescribeTopicRequest { name };
    let answers = servers.ask_masters(&masters, ask.clone()).await;
    let topic = known(answers)?.into_iter().find_map(|(_, answer)| answer.topic).unwrap_or_default();
    let only = <[i32; 1]>::try_from(topic.message_types.as_slice()).map_or(0, |[only]| only);
    Ok(v2::DescribeTopicStatusResponse {
        status: Some(ok_status()),
        topic_message_type: MessageType::try_from(only).unwrap_or_default().into(),
        description: None,
        create_timestamp: None,
        tags: topic.attributes,
    })
}

/// GetTopicRoute, in the JSON of classic RocketMQ.
pub(super) fn topic_route(
    servers: &Servers,
    request: &v2::GetTopicRouteRequest,
) -> Result<v2::GetTopicRouteResponse, Refusal> {
    let name = stored(request.topic.as_ref(), "topic")?;
    let data =
        route_data(&servers.routes.believed(), &name).ok_or_else(|| Refusal::topic_not_found(&name))?;
    Ok(v2::GetTopicRouteResponse { status: Some(ok_status()), topic_route_data: data.to_string() })
}

fn route_data(snapshot: &pb::ClusterSnapshot, topic: &str) -> Option<Value> {
    let mut brokers: BTreeMap<(&str, &str), HashMap<String, String>> = BTreeMap::new();
    let mut queues = Vec::new();
    for registered in &snapshot.brokers {
        let Some(info) = &registered.broker else { continue };
        let Some(route) = registered.topics.iter().find(|known| known.name == topic) else { continue };
        let addresses = brokers.entry((&info.cluster, &info.group)).or_default();
        addresses.insert(info.id.to_string(), format!("{}:{}", info.host, info.port));
        if info.role() == pb::BrokerRole::Master {
            queues.push(json!({
                "brokerName": info.group, "readQueueNums": route.read_queues, "writeQueueNums": route.write_queues,
                "perm": route.perm, "topicSysFlag": 0,
            }));
        }
    }
    let brokers: Vec<Value> = brokers
        .into_iter()
        .map(|((cluster, name), addresses)| {
            json!({ "cluster": cluster, "brokerName": name, "brokerAddrs": addresses })
        })
        .collect();
    (!brokers.is_empty())
        .then(|| json!({ "brokerDatas": brokers, "queueDatas": queues, "filterServerTable": {} }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_all_members_and_the_queues_once() {
        let member = |id, role: pb::BrokerRole| pb::RegisteredBroker {
            broker: Some(pb::BrokerInfo {
                cluster: "C".into(),
                group: "a".into(),
                id,
                role: role.into(),
                host: "h".into(),
                port: 8080 + id,
                ..Default::default()
            }),
            topics: vec![pb::TopicRoute {
                name: "t".into(),
                read_queues: 4,
                write_queues: 2,
                perm: 6,
                ..Default::default()
            }],
            ..Default::default()
        };
        let brokers = vec![member(0, pb::BrokerRole::Master), member(2, pb::BrokerRole::Slave)];
        let snapshot = pb::ClusterSnapshot { version: 1, brokers };
        let data = route_data(&snapshot, "t").unwrap();
        assert_eq!(data["brokerDatas"][0]["brokerAddrs"], json!({ "0": "h:8080", "2": "h:8082" }));
        assert_eq!(data["queueDatas"].as_array().unwrap().len(), 1);
        assert_eq!(route_data(&snapshot, "u"), None);
    }
}
