//! Carries faults out, and ends them.

use anyhow::Result;

use super::cluster::{Cluster, Roles, node_of};
use super::network::{Node, both_ways};
use super::plan::Fault;

/// What ends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Start a process that was killed.
    Start(Node),
    /// Let a process go on.
    Continue(Node),
    /// Let packets through again.
    Mend(Vec<(Node, Node)>),
    /// Make room on a disk, and start the broker again: one that could not write does not write any more.
    Free(Node),
}

/// A fault at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) remedies: Vec<Remedy>,
    /// Whom it met.
    pub(super) victims: Vec<Node>,
    /// Cluster and number of the member that lost its disk for good.
    pub(super) gone: Option<(String, u64)>,
}

impl Cluster {
    /// Lets `fault` happen to whoever plays the role at this moment. `None` when it would not be the fault that it
    /// claims to be: a disk is wiped only while somebody else has all that is on it.
    pub(super) async fn inflict(&mut self, fault: Fault) -> Result<Option<Running>> {
        let Roles { master, slaves: [slave, other] } = self.roles().await;
        let servers = || Node::nameservers().chain(Node::brokers()).filter(move |node| *node != master);
        match fault {
            Fault::KillMaster => self.kill(&[master]),
            Fault::KillSlave => self.kill(&[slave]),
            Fault::KillTwo => self.kill(&[master, other]),
            Fault::KillLeader => {
                let leader = self.leader().await;
                self.kill(&[leader])
            }
            Fault::KillMasterAndLeader => {
                let leader = self.leader().await;
                self.kill(&[master, leader])
            }
            Fault::KillNameservers => self.kill(&Node::nameservers().collect::<Vec<_>>()),
            Fault::PauseMaster => {
                if !self.server_of(master).is_running() {
                    return Ok(None);
                }
                self.server_of(master).signal("STOP")?;
                running(vec![Remedy::Continue(master)], &[master])
            }
            Fault::CutMasterFromSlaves => self.cut(master, both_ways(master, Node::brokers())),
            Fault::CutMasterFromNameservers => self.cut(master, both_ways(master, Node::nameservers())),
            Fault::CutMasterFromServers => self.cut(master, both_ways(master, servers())),
            Fault::MuteMaster => self.cut(master, servers().map(|node| (master, node)).collect()),
            Fault::DeafMaster => self.cut(master, servers().map(|node| (node, master)).collect()),
            Fault::CutSlave => {
                let everybody = Node::nameservers().chain(Node::brokers()).chain([Node::Clients]);
                self.cut(slave, both_ways(slave, everybody))
            }
            Fault::FillMaster => self.fill(master),
            Fault::FillSlave => self.fill(other),
            Fault::WipeSlave => self.wipe(slave).await,
        }
    }

    /// Ends a fault.
    pub(super) fn remedy(&mut self, remedy: &Remedy) -> Result<()> {
        match remedy {
            Remedy::Start(node) => self.begin(*node),
            Remedy::Continue(node) if !self.server_of(*node).is_running() => Ok(()),
            Remedy::Continue(node) => self.server_of(*node).signal("CONT"),
            Remedy::Mend(pairs) => self.network.mend(pairs),
            Remedy::Free(node) => {
                self.server_of(*node).kill()?;
                self.free_disk(*node)?;
                self.begin(*node)
            }
        }
    }

    fn kill(&mut self, victims: &[Node]) -> Result<Option<Running>> {
        for victim in victims {
            self.server_of(*victim).kill()?;
        }
        running(victims.iter().copied().map(Remedy::Start).collect(), victims)
    }

    fn cut(&mut self, victim: Node, pairs: Vec<(Node, Node)>) -> Result<Option<Running>> {
        self.network.cut(&pairs)?;
        running(vec![Remedy::Mend(pairs)], &[victim])
    }

    fn fill(&mut self, victim: Node) -> Result<Option<Running>> {
        self.fill_disk(victim)?;
        running(vec![Remedy::Free(victim)], &[victim])
    }

    async fn wipe(&mut self, victim: Node) -> Result<Option<Running>> {
        self.server_of(victim).kill()?;
        let remedies = vec![Remedy::Start(victim)];
        // Asked after the kill: from here on nobody is acknowledged anything because of this member. What was, everybody
        // in sync has.
        let Some(state) = self.state().await else {
            return Ok(Some(Running { remedies, victims: vec![victim], gone: None }));
        };
        let lost = state
            .members
            .iter()
            .find(|member| node_of(&state, member.id) == Some(victim))
            .map(|member| member.id);
        let is_held_elsewhere = state.in_sync.iter().any(|member| Some(*member) != lost);
        if let (Some(lost), true) = (lost, is_held_elsewhere) {
            self.wipe_disk(victim)?;
            let gone = Some((state.cluster.clone(), lost));
            return Ok(Some(Running { remedies, victims: vec![victim], gone }));
        }
        Ok(Some(Running { remedies, victims: vec![victim], gone: None }))
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the branches of a match have one type")]
fn running(remedies: Vec<Remedy>, victims: &[Node]) -> Result<Option<Running>> {
    Ok(Some(Running { remedies, victims: victims.to_vec(), gone: None }))
}
