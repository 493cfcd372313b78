//! Where is measured: brokers, and a topic and a consumer group that are made for it and deleted afterwards.

use crate::target::{Common, alone};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_client::{Address, Client};
use kerolox_report::outcome::{CommandFailure, Result};
use std::time::Duration;

/// How long nameservers may take to hear of the topic.
const ROUTE_WAIT: Duration = Duration::from_secs(5);
const ROUTE_POLL: Duration = Duration::from_millis(20);

/// Where to measure.
#[derive(Debug, Clone, Args)]
pub(super) struct PlaceArgs {
    /// Only this cluster
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only this broker, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Option<Address>,
    /// Use this existing topic; without it one is made, and deleted afterwards
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Queues of the topic that is made, on each broker
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) queues: u32,
    /// What an acknowledgement waits for in the topic that is made: sync (the disk) or async (the page cache) [default: as the broker does]
    #[arg(long, value_parser = ["sync", "async"], value_name = "MODE")]
    pub(super) flush: Option<String>,
}

/// The servers and the topic of a measurement.
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) brokers: Vec<Master>,
    admin: Admin,
    made_topic: bool,
    made_group: bool,
}

impl PlaceArgs {
    /// Makes the topic with messages of a type, and the consumer group if one is wanted.
    pub(super) async fn prepare(&self, common: &Common, kind: &str, consumes: bool) -> Result<Place> {
        let client = match &self.broker {
            Some(address) => common.client_of(address)?,
            None => common.client()?,
        };
        let admin = client.admin();
        let mut brokers = match &self.broker {
            Some(address) => vec![alone(address)],
            None => admin.masters(self.cluster.as_deref()).await?,
        };
        if let (Some(topic), None) = (&self.topic, &self.broker) {
            brokers = common.masters_with_topic(&client, topic).await?.1;
        }
        if brokers.is_empty() {
            return Err(CommandFailure::not_found("no broker is registered that fits; see clusterList"));
        }
        let name = format!("mqadmin-bench-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let place = Place {
            client,
            topic: self.topic.clone().unwrap_or_else(|| name.clone()),
            group: name,
            brokers,
            admin,
            made_topic: self.topic.is_none(),
            made_group: consumes,
        };
        let flush = self.flush.as_ref().map(|flush| format!("+flush={flush}"));
        match place.make(self.queues, kind, flush).await {
            Ok(()) => Ok(place),
            Err(failure) => {
                // Undoes the part that was made before the failure.
                let _ = place.clean_up().await;
                Err(failure)
            }
        }
    }
}

impl Place {
    async fn make(&self, queues: u32, kind: &str, flush: Option<String>) -> Result<()> {
        for broker in &self.brokers {
            let admin = self.admin.broker(&broker.address);
            if self.made_topic {
                let attributes = [format!("+message.type={kind}")].into_iter().chain(flush.clone()).collect();
                let request = wire::UpdateTopicRequest {
                    name: self.topic.clone(),
                    read_queues: Some(queues),
                    write_queues: Some(queues),
                    attributes,
                    ..Default::default()
                };
                admin.update_topic(request).await?;
            }
            if self.made_group {
                let request = wire::UpdateGroupRequest {
                    name: self.group.clone(),
                    consume_from_min: Some(true),
                    ..Default::default()
                };
                admin.update_group(request).await?;
            }
        }
        self.await_route().await
    }

    /// Until producers find the topic on all brokers.
    async fn await_route(&self) -> Result<()> {
        let wanted = self.brokers.len();
        let shown = async {
            loop {
                let snapshot = self.admin.cluster().await.unwrap_or_default();
                let has = |broker: &&wire::RegisteredBroker| {
                    let is_master =
                        broker.broker.as_ref().is_some_and(|info| info.role() == wire::BrokerRole::Master);
                    is_master && broker.topics.iter().any(|topic| topic.name == self.topic)
                };
                if snapshot.brokers.iter().filter(has).count() >= wanted {
                    return;
                }
                tokio::time::sleep(ROUTE_POLL).await;
            }
        };
        // A broker alone knows no cluster; its own routes are complete when it has answered.
        if self.brokers.iter().all(|broker| broker.info.cluster.is_empty()) {
            return Ok(());
        }
        tokio::time::timeout(ROUTE_WAIT, shown).await.map_err(|_| {
            CommandFailure::failed(format!(
                "the nameservers do not show topic {} after {ROUTE_WAIT:?}",
                self.topic
            ))
        })
    }

    /// What the brokers' processes have used so far: CPU time, and memory at the moment.
    pub(super) async fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for broker in &self.brokers {
            let request = wire::DescribeServerRequest { in_full: false };
            if let Ok(said) = self.admin.broker(&broker.address).describe_server(request).await {
                usage.cpu_ms += said.cpu_ms;
                usage.resident_bytes += said.resident_bytes;
            }
        }
        usage
    }

    /// Deletes what was made.
    pub(super) async fn clean_up(&self) -> Result<()> {
        for broker in &self.brokers {
            let admin = self.admin.broker(&broker.address);
            if self.made_topic {
                admin.delete_topic(wire::DeleteTopicRequest { name: self.topic.clone() }).await?;
            }
            if self.made_group {
                admin.delete_group(wire::DeleteGroupRequest { name: self.group.clone() }).await?;
            }
        }
        Ok(())
    }
}

/// What brokers have used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) cpu_ms: u64,
    pub(super) resident_bytes: u64,
}
