//! Strangers who say that they are brokers.

use std::time::Duration;

use kerolox_proto::kerolox::controller_client::ControllerClient;
use kerolox_proto::kerolox::registry_client::RegistryClient;
use kerolox_proto::kerolox::{BrokerInfo, BrokerRole, RegisterRequest, ReportRequest, TopicRoute};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::target::Target;
use super::repeatedly;
use kerolox_harness::raw_calls;

/// Calls that one of them makes on a connection.
const CALLS: u32 = 200;

/// Brokers of groups that are not there, with many topics.
pub(super) fn registrations(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.access_points();
    repeatedly(4, until, move |number| {
        let address = address.clone();
        async move {
            let mut registry = RegistryClient::new(raw_calls::connect(&address).await?);
            for call in 0..CALLS {
                let broker = BrokerInfo {
                    cluster: "DefaultCluster".to_owned(),
                    group: format!("stranger-{number}-{call}"),
                    role: BrokerRole::Master.into(),
                    host: "127.0.0.1".to_owned(),
                    port: 9,
                    incarnation: format!("stranger-{number}-{call}"),
                    ..Default::default()
                };
                let topic = |topic: u32| TopicRoute {
                    name: format!("stranger-topic-{number}-{call}-{topic}"),
                    read_queues: 1024,
                    write_queues: 1024,
                    perm: 6,
                    message_types: vec![1],
                    ..Default::default()
                };
                let request = RegisterRequest {
                    broker: Some(broker),
                    topics: (0..1_000).map(topic).collect(),
                    ..Default::default()
                };
                registry.register(request).await?;
            }
            Ok(())
        }
    })
}

/// Reports of unknown members of the broker group itself, with the longest logs of all.
pub(super) fn reports(target: &Target, until: Instant) -> JoinSet<()> {
    let (address, group) = (target.access_points(), target.group.clone());
    repeatedly(4, until, move |number| {
        let (address, group) = (address.clone(), group.clone());
        async move {
            let mut controller = ControllerClient::new(raw_calls::connect(&address).await?);
            for call in 0..CALLS {
                let request = ReportRequest {
                    cluster: "DefaultCluster".to_owned(),
                    group: group.clone(),
                    incarnation: format!("stranger-{number}-{}", call % 5),
                    process: format!("stranger-{number}-{call}"),
                    host: "127.0.0.1".to_owned(),
                    port: 9,
                    replication_address: "127.0.0.1:9".to_owned(),
                    end: u64::MAX >> 2,
                    ..Default::default()
                };
                // One that is refused is followed by the next.
                let _ = controller.report(request).await;
                sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    })
}
