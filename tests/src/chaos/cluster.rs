//! Three nameservers and three brokers of one group, each process in a network namespace of its own, each broker with a small
//! disk of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kerolox_client::Address;
use kerolox_harness::{Cluster, ClusterNetwork, ClusterNode, ClusterPlan, ServerProcess};
use kerolox_proto::kerolox::{DescribeQuorumRequest, GroupState, RemoveMemberRequest};

use super::{BROKERS, GROUP, NAMESERVERS};

/// Size of a broker's disk.
const DISK: &str = "192m";
/// No room is kept free: the disk shall become full in the middle of a write. No segment is removed early because of that: the
/// checks want to see every message.
const BROKER_SETTINGS: [(&str, &str); 5] = [
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_LOW", "1B"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1B"),
    ("KEROLOX_BROKER__RETENTION__REMOVE_EARLY", "false"),
    ("KEROLOX_BROKER__TRANSACTION__FIRST_CHECK", "2s"),
    ("KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL", "1s"),
];

/// The servers, and the test's knowledge of them.
pub(super) struct ChaosCluster {
    pub(super) servers: Cluster,
    /// The nameservers' folders as they were when the group was new.
    copies: PathBuf,
    /// The last known state of the group, for moments at which no nameserver answers.
    last: Option<GroupState>,
}

/// Who plays which role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) master: ClusterNode,
    pub(super) slaves: [ClusterNode; 2],
}

pub(super) fn nameservers() -> impl Iterator<Item = ClusterNode> {
    (0..NAMESERVERS).map(ClusterNode::Nameserver)
}

pub(super) fn brokers() -> impl Iterator<Item = ClusterNode> {
    (0..BROKERS).map(ClusterNode::Broker)
}

impl ChaosCluster {
    /// Makes the disks and starts everything.
    pub(super) fn start(network: ClusterNetwork, folder: &Path) -> Result<Self> {
        // Small segments, so that faults meet the change from one to the next.
        let plan = ClusterPlan::new("chaos").nameserver_quorum(NAMESERVERS).group(GROUP, BROKERS);
        let plan = plan.segments_of("1MiB").settings(&BROKER_SETTINGS);
        let plan = plan.network(network).folder(folder).leaping_clocks().small_disks(DISK);
        Ok(Self { servers: plan.start()?, copies: folder.join("copies"), last: None })
    }

    pub(super) fn server_of(&mut self, node: ClusterNode) -> &mut ServerProcess {
        self.servers.server_at_mut(node)
    }

    /// Starts a server that does not run, and returns when its process answers health checks.
    pub(super) fn begin(&mut self, node: ClusterNode) -> Result<()> {
        let server = self.server_of(node);
        if server.is_running() { Ok(()) } else { server.begin() }
    }

    /// Fills the rest of a broker's disk.
    pub(super) fn fill_disk(&self, node: ClusterNode) -> Result<()> {
        self.servers.disk_of(self.servers.server_at(node))?.fill()
    }

    /// Frees a disk, unless the end of an earlier fault did.
    pub(super) fn free_disk(&self, node: ClusterNode) -> Result<()> {
        self.servers.disk_of(self.servers.server_at(node))?.make_room()
    }

    /// Has a server's wall clock so far ahead of the right time.
    pub(super) fn set_clock(&self, node: ClusterNode, ahead: Duration) -> Result<()> {
        self.servers.clock_of(self.servers.server_at(node))?.set_ahead(ahead)
    }

    /// Keeps copies of the nameservers' folders. Each is stopped for that, one after the other.
    pub(super) fn copy_nameservers(&mut self) -> Result<()> {
        for node in nameservers() {
            let copy = self.copies.join(node.name());
            let server = self.server_of(node);
            server.kill()?;
            server.copy_data(&copy)?;
            self.begin(node)?;
        }
        Ok(())
    }

    /// Gives a nameserver that does not run the folder that it had at the beginning.
    pub(super) fn restore(&mut self, node: ClusterNode) -> Result<()> {
        let copy = self.copies.join(node.name());
        self.server_of(node).restore_data(&copy)
    }

    /// Exchanges the folders of two servers that do not run.
    pub(super) fn exchange_folders(&mut self, one: ClusterNode, other: ClusterNode) -> Result<()> {
        let (one, other) = (self.server_of(one).data(), self.server_of(other).data());
        let between = one.with_extension("exchanged");
        let moves = [(&one, &between), (&other, &one), (&between, &other)];
        moves.iter().try_for_each(|(from, to)| fs::rename(from, to)).context("exchanging folders")
    }

    /// The controller's state of the group; `None` when no nameserver answers.
    pub(super) async fn state(&mut self) -> Option<GroupState> {
        let state = self.servers.group_state(GROUP).await?;
        self.last = Some(state.clone());
        Some(state)
    }

    /// The broker that is a member of the group now.
    pub(super) fn node_of(&self, state: &GroupState, member: u64) -> Option<ClusterNode> {
        self.servers.broker_of(state, member).map(ClusterNode::Broker)
    }

    /// The roles of the brokers by the last known state. Without a master, the first broker counts as the master.
    pub(super) async fn roles(&mut self) -> Roles {
        let state = self.state().await.or_else(|| self.last.clone());
        let master = state.as_ref().and_then(|state| self.node_of(state, state.master));
        let master = master.unwrap_or(ClusterNode::Broker(0));
        let mut slaves = brokers().filter(|node| *node != master);
        let mut slave = || slaves.next().expect("three brokers");
        Roles { master, slaves: [slave(), slave()] }
    }

    /// The nameserver that leads; the first one when none answers.
    pub(super) async fn leader(&self) -> ClusterNode {
        let answer = self.servers.controller().describe_quorum(DescribeQuorumRequest {}).await;
        let leads = answer.ok().and_then(|answer| answer.members.into_iter().find(|member| member.leads));
        leads
            .and_then(|leader| usize::try_from(leader.id).ok()?.checked_sub(1))
            .map_or(ClusterNode::Nameserver(0), ClusterNode::Nameserver)
    }

    /// Removes a member from the group that will not come back.
    pub(super) async fn remove_member(&self, cluster: &str, member: u64) -> Result<()> {
        let (cluster, group) = (cluster.to_owned(), GROUP.to_owned());
        self.servers.controller().remove_member(RemoveMemberRequest { cluster, group, member }).await?;
        Ok(())
    }

    /// Waits until the group has a master, all brokers are in sync with it, and there is no other member.
    pub(super) async fn wait_until_whole(&mut self, limit: Duration) -> Result<GroupState> {
        let is_whole = |state: &GroupState| {
            state.master != 0 && state.in_sync.len() == BROKERS && state.members.len() == BROKERS
        };
        self.servers.wait_for_state(GROUP, limit, is_whole).await.context("the group is not whole")
    }

    /// The address of the broker that rules.
    pub(super) async fn master_address(&mut self) -> Result<Address> {
        let Roles { master, .. } = self.roles().await;
        Ok(self.server_of(master).address()?.parse()?)
    }
}
