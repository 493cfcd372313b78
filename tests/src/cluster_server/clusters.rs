//! The clusters that a test suite asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kerolox_harness::{Cluster, ClusterPlan, ServerProcess};
use serde_json::{Value, json};
use tokio::sync;
use tokio::task::block_in_place;

use super::request::{ClusterRequest, ServerChange};

/// Becomes a part of the folders' names.
const SUITE: &str = "sdk";
/// The first broker group; others have the letters that follow.
const GROUP: &str = "broker-a";
/// Age of a half message at its first check: short, for tests wait for it.
const FIRST_CHECK: &str = "2s";
/// That age in a group of several members: an election ends before it.
const GROUP_FIRST_CHECK: &str = "8s";
const CHECK_INTERVAL: &str = "2s";
const CHECK_MAX: &str = "15";
/// How long the nameserver may take to know all groups.
const ROUTE_LIMIT: Duration = Duration::from_secs(30);
const ROUTE_PAUSE: Duration = Duration::from_millis(50);

type SharedCluster = Arc<sync::Mutex<Cluster>>;

/// Clusters by their numbers; dropping it ends them all.
pub(super) struct StartedClusters {
    /// Broker groups of a cluster that does not say how many it needs.
    groups: u8,
    /// Clusters start one after the other: the first tests go on before the last cluster is there.
    starting: sync::Mutex<()>,
    clusters: Mutex<Vec<Option<SharedCluster>>>,
}

impl StartedClusters {
    pub(super) fn new(groups: u8) -> Self {
        Self { groups, starting: sync::Mutex::default(), clusters: Mutex::default() }
    }

    /// Carries a request out; requests to one cluster take their turns.
    ///
    /// # Errors
    /// When it fails, or there is no such cluster or server.
    pub(super) async fn answer(&self, request: ClusterRequest) -> Result<Value> {
        match request {
            ClusterRequest::Cluster { settings } => self.start_groups(&settings).await,
            ClusterRequest::Standalone => self.start_standalone().await,
            ClusterRequest::Group { members } => self.start_members(members).await,
            ClusterRequest::AddGroup { cluster, group } => {
                let cluster = self.cluster(cluster)?;
                let mut cluster = cluster.lock().await;
                block_in_place(|| cluster.add_member(&group, &group).map(|_| ()))?;
                server_state(&mut cluster, &group)
            }
            ClusterRequest::Server { cluster, server, change } => {
                let cluster = self.cluster(cluster)?;
                change_server(&mut *cluster.lock().await, &server, change).await
            }
            ClusterRequest::InSync { cluster } => {
                wait_until_in_sync(&mut *self.cluster(cluster)?.lock().await).await?;
                Ok(json!({}))
            }
            ClusterRequest::RestartInTurn { cluster } => {
                restart_in_turn(&mut *self.cluster(cluster)?.lock().await).await?;
                Ok(json!({}))
            }
            ClusterRequest::Logs => Ok(json!({ "logs": self.log_tails().await })),
            ClusterRequest::Close { cluster } => {
                let closed = self.clusters().get_mut(cluster).and_then(Option::take);
                let closed = closed.with_context(|| no_cluster(cluster))?;
                // Others may still wait for their turn; its servers are not to wait for them.
                let mut servers = closed.lock().await;
                let Cluster { nameservers, brokers, .. } = &mut *servers;
                nameservers.iter_mut().chain(brokers).try_for_each(ServerProcess::kill)?;
                Ok(json!({}))
            }
        }
    }

    /// The ends of all servers' logs, of each cluster in one text.
    pub(super) async fn log_tails(&self) -> Vec<String> {
        let running: Vec<_> = self.clusters().iter().flatten().cloned().collect();
        let mut tails = Vec::new();
        for cluster in running {
            tails.push(cluster.lock().await.log_tails());
        }
        tails
    }

    /// A nameserver and broker groups with one member each.
    async fn start_groups(&self, settings: &[(String, String)]) -> Result<Value> {
        let _turn = self.starting.lock().await;
        let plan = settings.iter().fold(plan(FIRST_CHECK), |plan, (name, value)| plan.setting(name, value));
        let groups: Vec<String> = (b'a'..)
            .take(self.groups.into())
            .map(|letter| format!("broker-{}", char::from(letter)))
            .collect();
        let cluster = block_in_place(|| {
            let mut cluster = plan.start()?;
            for group in &groups {
                let name = if group == GROUP { "broker" } else { group };
                cluster.add_member(name, group)?;
            }
            Ok::<_, anyhow::Error>(cluster)
        })?;
        wait_until_known(&cluster, &groups).await?;
        self.add(cluster)
    }

    /// A nameserver and a broker group, all of it in sync.
    async fn start_members(&self, members: usize) -> Result<Value> {
        let _turn = self.starting.lock().await;
        let mut cluster = block_in_place(|| {
            let mut cluster = plan(GROUP_FIRST_CHECK).start()?;
            for member in 1..=members {
                let name = if member == 1 { "broker".to_owned() } else { format!("broker-{member}") };
                cluster.add_member(&name, GROUP)?;
            }
            Ok::<_, anyhow::Error>(cluster)
        })?;
        wait_until_in_sync(&mut cluster).await?;
        self.add(cluster)
    }

    /// A broker that is its own nameserver.
    async fn start_standalone(&self) -> Result<Value> {
        let _turn = self.starting.lock().await;
        let plan = plan(FIRST_CHECK).nameservers(0).flags(&["--auto-create", "off"]);
        let cluster = block_in_place(|| {
            let mut cluster = plan.start()?;
            cluster.add_member("broker", GROUP)?;
            Ok::<_, anyhow::Error>(cluster)
        })?;
        self.add(cluster)
    }

    fn add(&self, cluster: Cluster) -> Result<Value> {
        let nameserver = cluster.nameservers.first().map(ServerProcess::address).transpose()?;
        let broker = cluster.brokers.first().context("a cluster of no members")?.address()?;
        let mut clusters = self.clusters();
        let started = json!({ "id": clusters.len(), "nameserver": nameserver, "broker": broker });
        clusters.push(Some(Arc::new(sync::Mutex::new(cluster))));
        Ok(started)
    }

    fn cluster(&self, number: usize) -> Result<SharedCluster> {
        self.clusters().get(number).cloned().flatten().with_context(|| no_cluster(number))
    }

    fn clusters(&self) -> MutexGuard<'_, Vec<Option<SharedCluster>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_cluster(number: usize) -> String {
    format!("there is no cluster {number}")
}

/// Of a cluster with one nameserver, and brokers that are still to be added.
fn plan(first_check: &str) -> ClusterPlan {
    ClusterPlan::new(SUITE).flags(&[
        "--transaction-first-check",
        first_check,
        "--transaction-check-interval",
        CHECK_INTERVAL,
        "--transaction-check-max",
        CHECK_MAX,
    ])
}

/// Topics come to those groups only that the nameserver knows.
async fn wait_until_known(cluster: &Cluster, groups: &[String]) -> Result<()> {
    let started = Instant::now();
    loop {
        let snapshot = cluster.client().admin().cluster().await?;
        let known: Vec<_> =
            snapshot.brokers.into_iter().filter_map(|known| Some(known.broker?.group)).collect();
        if groups.iter().all(|group| known.contains(group)) {
            return Ok(());
        }
        ensure!(started.elapsed() < ROUTE_LIMIT, "after {ROUTE_LIMIT:?} only {known:?} are known");
        tokio::time::sleep(ROUTE_PAUSE).await;
    }
}

/// Waits until a master rules and all members that run are in sync.
async fn wait_until_in_sync(cluster: &mut Cluster) -> Result<()> {
    let running = cluster.brokers.iter_mut().filter_map(|broker| broker.is_running().then_some(())).count();
    cluster.wait_until_in_sync(GROUP, running).await?;
    Ok(())
}

async fn restart_in_turn(cluster: &mut Cluster) -> Result<()> {
    for member in 0..cluster.brokers.len() {
        let broker = &mut cluster.brokers[member];
        block_in_place(|| broker.stop().and_then(|()| broker.start()))?;
        wait_until_in_sync(cluster).await?;
    }
    Ok(())
}

async fn change_server(cluster: &mut Cluster, name: &str, change: ServerChange) -> Result<Value> {
    let name = match name {
        "master" => cluster.brokers[cluster.wait_for_master(GROUP).await?].name().to_owned(),
        name => name.to_owned(),
    };
    let server = server_of(cluster, &name)?;
    block_in_place(|| match change {
        ServerChange::Kill => server.kill(),
        ServerChange::Stop => server.stop(),
        ServerChange::Start => server.start().map(|_| ()),
        ServerChange::Nothing => Ok(()),
    })?;
    server_state(cluster, &name)
}

/// What a suite is told of a server; one that does not run has no process id.
fn server_state(cluster: &mut Cluster, name: &str) -> Result<Value> {
    let server = server_of(cluster, name)?;
    let pid = if server.is_running() { Some(server.pid()?) } else { None };
    Ok(json!({ "server": name, "address": server.address()?, "pid": pid }))
}

fn server_of<'a>(cluster: &'a mut Cluster, name: &str) -> Result<&'a mut ServerProcess> {
    let found = match name {
        "nameserver" => cluster.nameservers.first_mut(),
        name => cluster.brokers.iter_mut().find(|broker| broker.name() == name),
    };
    found.with_context(|| format!("there is no server {name}"))
}
