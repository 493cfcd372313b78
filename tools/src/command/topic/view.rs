//! How topics are shown.

use kerolox_client::admin::wire;
use kerolox_proto::v2::MessageType;
use serde::Serialize;
use std::collections::BTreeMap;

/// A topic in RocketMQ's words.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TopicView {
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
pub(super) fn perm_name(perm: u32) -> String {
    format!("{}{}-", if perm & 4 == 0 { '-' } else { 'R' }, if perm & 2 == 0 { '-' } else { 'W' })
}

/// The value of `message.type`: one type, or MIXED.
pub(crate) fn type_name(types: &[i32]) -> String {
    match types {
        [] => "-".to_owned(),
        [one] => MessageType::try_from(*one).map_or_else(|_| one.to_string(), |t| t.as_str_name().to_owned()),
        _ => "MIXED".to_owned(),
    }
}

/// A cluster of two brokers with one topic, for tests.
#[cfg(test)]
pub(super) fn example() -> wire::ClusterSnapshot {
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
            ..Default::default()
        }],
        ..Default::default()
    };
    wire::ClusterSnapshot { version: 1, brokers: vec![broker("a", 4), broker("b", 8)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_and_types_read_as_in_rocketmq() {
        assert_eq!([perm_name(6), perm_name(4), perm_name(2), perm_name(0)], ["RW-", "R--", "-W-", "---"]);
        assert_eq!(
            [type_name(&[4]), type_name(&[1, 2, 3, 4]), type_name(&[99])],
            ["TRANSACTION", "MIXED", "99"]
        );
    }
}
