//! `topicRoute`.

use super::view::{perm_name, type_name};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::{Master, wire};
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, table};
use serde_json::json;
use std::collections::HashMap;

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
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let (snapshot, masters) = self.common.masters_with_topic(&client, &self.topic).await?;
        Ok(route_report(&snapshot, &masters, &self.topic))
    }
}

/// Both forms of the route of `topic` on `masters`.
fn route_report(snapshot: &wire::ClusterSnapshot, masters: &[Master], topic: &str) -> CommandReport {
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
    CommandReport::ok(
        table(&["Cluster", "Broker Name", "Address", "Read", "Write", "Perm", "Type"], rows),
        json!({ "topic": topic, "brokers": served().map(entry).collect::<Vec<_>>() }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::topic::view::example;
    use kerolox_client::admin::masters_of;

    #[test]
    fn routes_show_each_broker() {
        let snapshot = example();
        let report = route_report(&snapshot, &masters_of(&snapshot, None).unwrap(), "orders");
        assert_eq!(report.text.lines().count(), 3, "{}", report.text);
        assert_eq!(report.json["brokers"][0]["readQueues"], 4);
        assert_eq!(report.json["brokers"][1]["broker"], "b");
    }
}
