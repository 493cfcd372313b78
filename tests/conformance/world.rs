//! Servers: those that all lines share, and clusters for lines that hurt them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kerolox_harness::{Cluster, ClusterPlan, ServerProcess};
use kerolox_proto::kerolox::broker_admin_client::BrokerAdminClient;
use kerolox_proto::kerolox::{UpdateGroupRequest, UpdateTopicRequest};
use tonic::transport::Endpoint;

use crate::peer::{Peer, Transport};

/// The first broker's name, and the second one's.
pub(crate) const A: &str = "broker-a";
pub(crate) const B: &str = "broker-b";
/// Read and write queues of each topic on each of its brokers.
pub(crate) const QUEUES: u32 = 3;
/// From a half message to its first check-back and between check-backs, and how many there are.
pub(crate) const CHECKS: Duration = Duration::from_secs(2);
pub(crate) const CHECKS_MAX: usize = 3;

/// Where and how a line is tested.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) world: Arc<ConformanceWorld>,
    pub(crate) transport: Transport,
}

/// A nameserver, and the brokers [`A`] and [`B`].
pub(crate) struct ConformanceWorld {
    pub(crate) servers: Cluster,
}

impl ConformanceWorld {
    /// Starts the servers.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// Starts the servers, the brokers with more flags and environment variables.
    pub(crate) async fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let (seconds, max) = (format!("{}s", CHECKS.as_secs()), CHECKS_MAX.to_string());
        let plan = ClusterPlan::new("conformance").group(A, 1).group(B, 1).segments_of("64MiB");
        let plan =
            plan.flags(&["--transaction-first-check", &seconds, "--transaction-check-interval", &seconds]);
        let plan = plan.flags(&["--transaction-check-max", &max]).flags(flags).settings(environment);
        let start = move || plan.start().expect("the servers start");
        Self { servers: tokio::task::spawn_blocking(start).await.expect("the servers start") }
    }

    pub(crate) fn nameserver(&self) -> &ServerProcess {
        &self.servers.nameservers[0]
    }

    pub(crate) fn a(&self) -> &ServerProcess {
        &self.servers.brokers[0]
    }

    pub(crate) fn b(&self) -> &ServerProcess {
        &self.servers.brokers[1]
    }

    /// The ends of the servers' logs, for a look into a failure.
    pub(crate) fn show_logs(&self) {
        println!("--- servers in {}\n{}", self.servers.folder().display(), self.servers.log_tails());
    }

    /// A topic with a name of its own on broker A, known to all servers.
    pub(crate) async fn topic(&self, kind: &str) -> String {
        self.topic_on(&[self.a()], kind, 6).await
    }

    /// A topic with a name of its own on some brokers, known to all servers; 2 in `perm` is write, 4 is read.
    pub(crate) async fn topic_on(&self, brokers: &[&ServerProcess], kind: &str, perm: u32) -> String {
        let name = new_name("topic");
        for broker in brokers {
            let request = UpdateTopicRequest {
                name: name.clone(),
                read_queues: Some(QUEUES),
                write_queues: Some(QUEUES),
                perm: Some(perm),
                attributes: vec![format!("+message.type={kind}")],
                dry_run: false,
            };
            admin(broker).await.update_topic(request).await.expect("an answer");
        }
        for server in [self.nameserver(), self.a(), self.b()] {
            let peer = Peer::connect(server, Transport::Plain).await;
            eventually("the servers know the topic", async || {
                let answer = peer.query_route(&name).await;
                let found: std::collections::BTreeSet<_> = answer
                    .message_queues
                    .iter()
                    .filter_map(|queue| Some(queue.broker.as_ref()?.name.clone()))
                    .collect();
                found.len() == brokers.len() || perm == 0
            })
            .await;
        }
        name
    }

    /// A consumer group with a name of its own on both brokers.
    pub(crate) async fn group(&self, fifo: bool, retries: Option<u32>) -> String {
        let name = new_name("group");
        for broker in [self.a(), self.b()] {
            let request = UpdateGroupRequest {
                name: name.clone(),
                fifo: Some(fifo),
                retry_max_times: retries,
                ..Default::default()
            };
            admin(broker).await.update_group(request).await.expect("an answer");
        }
        name
    }
}

async fn admin(broker: &ServerProcess) -> BrokerAdminClient<tonic::transport::Channel> {
    let address = broker.address().expect("it serves");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    BrokerAdminClient::new(endpoint.connect().await.expect("a connection"))
}

/// A name that no other test uses.
pub(crate) fn new_name(kind: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(1);
    format!("{kind}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Waits until the condition holds, half a minute at most; says how long it took.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(30), "after half a minute still not: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}
