//! The controller: the nameservers agree, by consensus, on the master of each broker group.
//!
//! The crate `kerolox-controller` makes the decisions. Here they are made common and durable: entries of a
//! log that a majority of the nameservers has on disk (`log`, `store`, `network`), applied to the groups
//! (`machine`).
//! The one that leads hears the members and decides (`leadership`); any of them takes calls (`service`).

mod consensus;
mod leadership;
mod log;
mod machine;
mod network;
mod peers;
mod quorum;
mod service;
mod store;
mod types;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kerolox_controller::ElectionPolicy;
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_proto::kerolox::consensus_server::ConsensusServer;
use kerolox_proto::kerolox::controller_server::ControllerServer;
use kerolox_runtime::health::HealthCheck;
use kerolox_runtime::supervisor::Supervisor;
use openraft::{BasicNode, ChangeMembers, SnapshotPolicy};

use crate::config::ControllerConfig;
use consensus::ConsensusService;
use leadership::{Leadership, lacks_majority};
use log::Log;
use machine::Machine;
use network::Network;
use quorum::Quorum;
use service::ControllerService;
use store::Store;
use types::Raft;

pub use peers::PeersError;
pub(crate) use store::FILE;
pub use store::StoreError;

/// Entries after which the log is cut: a snapshot is taken, and the entries that it holds are removed.
const ENTRIES_PER_SNAPSHOT: u64 = 1000;
/// Entries that are kept in spite of that, for nameservers that are a little behind.
const ENTRIES_KEPT: u64 = 500;
/// How long a nameserver that decides alone may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a part of a snapshot may take to be sent and stored.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the controller does not work.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// Its file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has stopped, mostly because its file has failed.
    #[error("the controller has stopped: {0}")]
    Stopped(String),
}

/// A nameserver's part in the controller. Clones share one state.
#[derive(Clone)]
pub(crate) struct Controller {
    quorum: Quorum,
    leadership: Arc<Leadership>,
    tasks: Arc<Supervisor>,
}

impl Controller {
    /// Opens the file in the folder `data` and takes part. A nameserver that decides alone has begun when this returns.
    pub(crate) async fn start(
        config: &ControllerConfig,
        data: &Path,
        local: SocketAddr,
    ) -> Result<Self, ControllerError> {
        let first_members = peers::first_members(config, local)?;
        let settings = settings(config)?;
        let store = Arc::new(Store::open(data, config.id)?);
        let machine = Machine::load(Arc::clone(&store))?;
        // The first vote comes before everything else.
        let has_data = store.get::<types::Vote>(store::key::VOTE)?.is_some();
        let network = Network::default();
        let (id, log) = (config.id, Log { store });
        let raft = Raft::new(id, Arc::new(settings), network.clone(), log, machine.clone()).await;
        let raft = raft.map_err(|fatal| ControllerError::Stopped(fatal.to_string()))?;
        let policy = ElectionPolicy {
            master_timeout: millis(config.master_timeout.duration()),
            election_patience: millis(config.election_patience.duration()),
            // The clock of the leadership begins with this process.
            cautious_until: if has_data { millis(config.restart_patience.duration()) } else { 0 },
        };
        let tasks = Arc::new(Supervisor::new("controller"));
        let leadership = Leadership::start(id, raft.clone(), machine, policy, &tasks);
        let controller = Self { quorum: Quorum { id, raft, network }, leadership, tasks };
        controller.begin(config, first_members).await?;
        Ok(controller)
    }

    async fn begin(
        &self,
        config: &ControllerConfig,
        first_members: BTreeMap<u64, BasicNode>,
    ) -> Result<(), ControllerError> {
        let raft = &self.quorum.raft;
        let stopped = |error: &dyn std::error::Error| ControllerError::Stopped(error.to_string());
        let has_begun = raft.is_initialized().await.map_err(|fatal| stopped(&fatal))?;
        if !has_begun && config.join {
            tracing::info!(id = self.quorum.id, "waiting to be added with mqadmin controllerAdd");
            return Ok(());
        }
        let own = first_members.get(&self.quorum.id).cloned();
        if !has_begun {
            raft.initialize(first_members).await.map_err(|error| stopped(&error))?;
        }
        let id = self.quorum.id;
        let standing = raft.with_raft_state(move |state| {
            let voters: Vec<u64> = state.membership_state.effective().voter_ids().collect();
            let vote = state.vote_ref();
            (voters == [id], vote.is_committed() && vote.leader_id().voted_for() == Some(id))
        });
        let (is_alone, leads) = standing.await.map_err(|fatal| stopped(&fatal))?;
        if !is_alone {
            return Ok(());
        }
        if has_begun && !leads {
            // No other nameserver could lead, so there is none to wait for.
            raft.trigger().elect().await.map_err(|fatal| stopped(&fatal))?;
        }
        if !self.leadership.wait_tenure(BEGIN_TIMEOUT).await {
            let text =
                format!("it could not begin within {BEGIN_TIMEOUT:?}; look at the disk of the data folder");
            return Err(ControllerError::Stopped(text));
        }
        match own {
            Some(own) => self.move_to(own).await,
            None => Ok(()),
        }
    }

    /// One that decides alone may have another address than at its last start; who joins it needs to know.
    async fn move_to(&self, own: BasicNode) -> Result<(), ControllerError> {
        let seen = self.quorum.seen();
        if seen.membership_config.membership().get_node(&self.quorum.id) == Some(&own) {
            return Ok(());
        }
        let change = ChangeMembers::SetNodes(BTreeMap::from([(self.quorum.id, own)]));
        let moved = self.quorum.change(change).await;
        moved.map_err(|error| ControllerError::Stopped(error.message))
    }

    /// The service for brokers and administrators.
    pub(crate) fn service(&self) -> ControllerServer<ControllerService> {
        ControllerService::server(Arc::clone(&self.leadership), self.quorum.clone())
    }

    /// The service for the other nameservers.
    pub(crate) fn consensus(&self) -> ConsensusServer<ConsensusService> {
        ConsensusService::server(self.quorum.raft.clone(), self.quorum.id)
    }

    /// Whether masters can be elected.
    pub(crate) fn check(&self) -> HealthCheck {
        let seen = self.quorum.seen();
        let total = seen.membership_config.membership().voter_ids().count();
        match seen.current_leader {
            _ if total == 0 => HealthCheck::warning("controller", self.quorum.why_no_leader()),
            Some(leader) if leader != self.quorum.id => {
                HealthCheck::ok("controller", format!("nameserver {leader} of {total} leads"))
            }
            Some(_) if !lacks_majority(&seen) => {
                HealthCheck::ok("controller", format!("this nameserver leads {total}"))
            }
            _ => HealthCheck::failed("controller", self.quorum.why_no_leader()),
        }
    }

    /// Tells the routes of each election, for ever: masters of earlier epochs count no more then, before any other
    /// broker registers. Of nameservers that each decide alone, members obey only one, so the belief of a single one is
    /// not told.
    pub(crate) async fn tell_epochs(self, routes: Arc<ClusterRoutes>) {
        let mut changes = self.leadership.changes();
        loop {
            changes.borrow_and_update();
            if self.quorum.seen().membership_config.membership().voter_ids().count() > 1 {
                for group in self.leadership.groups().iter() {
                    routes.note_epoch(&group.name.cluster, &group.name.group, group.epoch);
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Completes when the controller has stopped by itself.
    pub(crate) async fn failed(&self) -> ControllerError {
        let mut metrics = self.quorum.raft.metrics();
        let stopped = metrics.wait_for(|seen| seen.running_state.is_err()).await;
        let reason = stopped.ok().and_then(|seen| seen.running_state.as_ref().err().map(ToString::to_string));
        let reason = reason.unwrap_or_else(|| "its task is gone".to_owned());
        tracing::error!(reason, "the controller has stopped; stopping this nameserver");
        ControllerError::Stopped(reason)
    }

    /// Sends members that wait for news elsewhere as soon as `ending` completes.
    pub(crate) async fn end_polls(self, ending: impl Future<Output = ()>) {
        ending.await;
        self.leadership.end();
    }

    /// Stops to take part.
    pub(crate) async fn stop(&self) {
        self.leadership.end();
        // The task may have failed before; there is nothing more to stop then.
        let _ = self.quorum.raft.shutdown().await;
        self.tasks.stop().await;
    }
}

fn settings(config: &ControllerConfig) -> Result<openraft::Config, PeersError> {
    let heartbeat = millis(config.heartbeat.duration());
    let timeout = millis(config.election_timeout.duration());
    let settings = openraft::Config {
        cluster_name: "kerolox".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: timeout,
        election_timeout_max: timeout.saturating_mul(2),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        replication_lag_threshold: 2 * ENTRIES_PER_SNAPSHOT,
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..openraft::Config::default()
    };
    settings.validate().map_err(|_| PeersError::Times { timeout, heartbeat })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
