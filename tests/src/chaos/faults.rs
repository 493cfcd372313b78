//! Carries faults out, and ends them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kerolox_harness::{ClusterNode, SeededRandom, both_ways};
use procfs::process::{LimitValue, Process};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::cluster::{ChaosCluster, Roles, brokers, nameservers};
use super::plan::Fault;

/// The leap of a wall clock: far longer than the retention time.
const LEAP: Duration = Duration::from_secs(4 * 24 * 3600);
/// Longest pause between the starts of servers that were all down.
const START_PAUSE: Duration = Duration::from_millis(1500);

/// An action that ends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Start a process that was killed.
    Start(ClusterNode),
    /// Let a process go on.
    Continue(ClusterNode),
    /// Let packets through again.
    Mend(Vec<(ClusterNode, ClusterNode)>),
    /// Make room on a disk, and start the broker again: after a failed write a broker does not write any more.
    Free(ClusterNode),
    /// Make room on a disk.
    MakeRoom(ClusterNode),
    /// Pause between two other remedies.
    Wait(Duration),
    /// Set the wall clock right again.
    SetClock(ClusterNode),
    /// Let a process open files again, as many as before.
    Descriptors(u32, Rlimit),
    /// The broker refuses to start; then it gets its segment back and starts.
    FindSegment(ClusterNode, PathBuf),
    /// Both refuse to start; then they get their folders back and start.
    ExchangeBack(ClusterNode, ClusterNode),
}

/// A fault at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) remedies: Vec<Remedy>,
    /// The servers that it met.
    pub(super) victims: Vec<ClusterNode>,
    /// Cluster and number of the member that lost its disk for good.
    pub(super) gone: Option<(String, u64)>,
}

impl ChaosCluster {
    /// Inflicts `fault` on the servers that have its roles at this moment. `None` when it would not be the fault that it
    /// claims to be: a disk is wiped only while another member in sync has all its records.
    pub(super) async fn inflict(&mut self, fault: Fault, chance: u64) -> Result<Option<Running>> {
        let Roles { master, slaves: [slave, other] } = self.roles().await;
        let servers = || nameservers().chain(brokers()).filter(move |node| *node != master);
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
            Fault::KillNameservers => self.kill(&nameservers().collect::<Vec<_>>()),
            Fault::PauseMaster => {
                if !self.server_of(master).is_running() {
                    return Ok(None);
                }
                self.server_of(master).pause()?;
                running(vec![Remedy::Continue(master)], &[master])
            }
            Fault::CutMasterFromSlaves => self.cut(master, both_ways(master, brokers())),
            Fault::CutMasterFromNameservers => self.cut(master, both_ways(master, nameservers())),
            Fault::CutMasterFromServers => self.cut(master, both_ways(master, servers())),
            Fault::MuteMaster => self.cut(master, servers().map(|node| (master, node)).collect()),
            Fault::DeafMaster => self.cut(master, servers().map(|node| (node, master)).collect()),
            Fault::CutSlave => {
                let everybody = nameservers().chain(brokers()).chain([ClusterNode::Clients]);
                self.cut(slave, both_ways(slave, everybody))
            }
            Fault::FillMaster => self.fill(master),
            Fault::FillSlave => self.fill(other),
            Fault::WipeSlave => self.wipe(slave).await,
            Fault::KillBrokers => self.stop_all(brokers().collect(), chance),
            Fault::KillServers => self.stop_all(nameservers().chain(brokers()).collect(), chance),
            Fault::LeapMaster => self.leap(master),
            Fault::LeapSlave => self.leap(slave),
            Fault::StarveMaster => self.starve(master),
            Fault::StarveSlave => self.starve(other),
            Fault::BurstMaster => self.burst(master),
            Fault::BurstSlave => self.burst(slave),
            Fault::LoseSegment => self.lose_segment(other),
            Fault::ForgetNameservers => {
                self.set_nameservers_back(|cluster, node| cluster.server_of(node).wipe_data())
            }
            Fault::RestoreNameservers => self.set_nameservers_back(ChaosCluster::restore),
            Fault::ExchangeNameservers => self.exchange(chance),
        }
    }

    /// Ends a fault.
    pub(super) async fn remedy(&mut self, remedy: &Remedy) -> Result<()> {
        match remedy {
            Remedy::Start(node) => self.begin(*node),
            Remedy::Continue(node) if !self.server_of(*node).is_running() => Ok(()),
            Remedy::Continue(node) => self.server_of(*node).resume(),
            Remedy::Mend(pairs) => self.servers.network()?.mend(pairs),
            Remedy::Free(node) => {
                self.server_of(*node).kill()?;
                self.free_disk(*node)?;
                self.begin(*node)
            }
            Remedy::MakeRoom(node) => self.free_disk(*node),
            Remedy::Wait(pause) => {
                tokio::time::sleep(*pause).await;
                Ok(())
            }
            Remedy::SetClock(node) => self.set_clock(*node, Duration::ZERO),
            Remedy::Descriptors(pid, limit) => limit_descriptors(*pid, *limit),
            Remedy::FindSegment(node, segment) => {
                self.server_of(*node).expect_refusal()?;
                fs::rename(aside(segment), segment).context("putting a segment back")?;
                self.begin(*node)
            }
            Remedy::ExchangeBack(one, other) => {
                self.server_of(*one).expect_refusal()?;
                self.server_of(*other).expect_refusal()?;
                self.exchange_folders(*one, *other)?;
                self.begin(*one)?;
                self.begin(*other)
            }
        }
    }

    /// Kills all of them, and has them start one after the other in a random order.
    fn stop_all(&mut self, mut victims: Vec<ClusterNode>, chance: u64) -> Result<Option<Running>> {
        let mut random = SeededRandom::new(chance);
        for victim in &victims {
            self.server_of(*victim).kill()?;
        }
        let mut remedies = Vec::new();
        let all = victims.clone();
        while !victims.is_empty() {
            let next = usize::try_from(random.below(victims.len() as u64)).expect("below a length");
            remedies.push(Remedy::Start(victims.swap_remove(next)));
            remedies.push(Remedy::Wait(random.duration(START_PAUSE)));
        }
        running(remedies, &all)
    }

    fn leap(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        self.set_clock(victim, LEAP)?;
        running(vec![Remedy::SetClock(victim)], &[victim])
    }

    /// Keeps the process from opening more descriptors than it has.
    fn starve(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        if !self.server_of(victim).is_running() {
            return Ok(None);
        }
        let pid = self.server_of(victim).pid()?;
        let before = descriptors_limit(pid)?;
        let open = fs::read_dir(format!("/proc/{pid}/fd")).context("counting descriptors")?.count();
        limit_descriptors(pid, Rlimit { current: Some(open as u64), ..before })?;
        running(vec![Remedy::Descriptors(pid, before)], &[victim])
    }

    fn burst(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        self.fill_disk(victim)?;
        running(vec![Remedy::MakeRoom(victim)], &[victim])
    }

    /// Only of a log that has several segments: otherwise nothing would be left that could miss it.
    fn lose_segment(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        let segments = self.server_of(victim).log_segments()?;
        let [oldest, _, ..] = &segments[..] else { return Ok(None) };
        self.server_of(victim).kill()?;
        fs::rename(oldest, aside(oldest)).context("taking a segment away")?;
        running(vec![Remedy::FindSegment(victim, oldest.clone())], &[victim])
    }

    /// All nameservers go down, and come back with what `change` makes of their folders.
    fn set_nameservers_back(
        &mut self,
        change: impl Fn(&mut Self, ClusterNode) -> Result<()>,
    ) -> Result<Option<Running>> {
        let victims: Vec<ClusterNode> = nameservers().collect();
        let killed = self.kill(&victims)?;
        for victim in victims {
            change(self, victim)?;
        }
        Ok(killed)
    }

    fn exchange(&mut self, chance: u64) -> Result<Option<Running>> {
        let mut both: Vec<ClusterNode> = nameservers().collect();
        both.remove(usize::try_from(chance % both.len() as u64).expect("below a length"));
        for victim in &both {
            self.server_of(*victim).kill()?;
        }
        self.exchange_folders(both[0], both[1])?;
        running(vec![Remedy::ExchangeBack(both[0], both[1])], &both)
    }

    fn kill(&mut self, victims: &[ClusterNode]) -> Result<Option<Running>> {
        for victim in victims {
            self.server_of(*victim).kill()?;
        }
        running(victims.iter().copied().map(Remedy::Start).collect(), victims)
    }

    fn cut(
        &mut self,
        victim: ClusterNode,
        pairs: Vec<(ClusterNode, ClusterNode)>,
    ) -> Result<Option<Running>> {
        self.servers.network()?.cut(&pairs)?;
        running(vec![Remedy::Mend(pairs)], &[victim])
    }

    fn fill(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        self.fill_disk(victim)?;
        running(vec![Remedy::Free(victim)], &[victim])
    }

    async fn wipe(&mut self, victim: ClusterNode) -> Result<Option<Running>> {
        self.server_of(victim).kill()?;
        let remedies = vec![Remedy::Start(victim)];
        // Asked after the kill: from here on no acknowledgement counts this member. All members in sync have the messages that
        // were acknowledged before.
        let Some(state) = self.state().await else {
            return Ok(Some(Running { remedies, victims: vec![victim], gone: None }));
        };
        let lost = state
            .members
            .iter()
            .find(|member| self.node_of(&state, member.id) == Some(victim))
            .map(|member| member.id);
        let is_held_elsewhere = state.in_sync.iter().any(|member| Some(*member) != lost);
        if let (Some(lost), true) = (lost, is_held_elsewhere) {
            self.server_of(victim).wipe_data()?;
            let gone = Some((state.cluster.clone(), lost));
            return Ok(Some(Running { remedies, victims: vec![victim], gone }));
        }
        Ok(Some(Running { remedies, victims: vec![victim], gone: None }))
    }
}

/// Where a segment is that is not where it should be.
fn aside(segment: &Path) -> PathBuf {
    segment.with_file_name("taken-away")
}

/// How many descriptors a process may have.
fn descriptors_limit(pid: u32) -> Result<Rlimit> {
    let limits = Process::new(pid.try_into()?).and_then(|process| process.limits());
    let limit = limits.context("reading the limits of a process")?.max_open_files;
    let value = |limit| match limit {
        LimitValue::Value(value) => Some(value),
        LimitValue::Unlimited => None,
    };
    Ok(Rlimit { current: value(limit.soft_limit), maximum: value(limit.hard_limit) })
}

fn limit_descriptors(pid: u32, limit: Rlimit) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(pid)?);
    match prlimit(process, Resource::Nofile, limit) {
        // It was killed since.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        changed => changed.map(drop).context("changing a limit"),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the branches of a match have one type")]
fn running(remedies: Vec<Remedy>, victims: &[ClusterNode]) -> Result<Option<Running>> {
    Ok(Some(Running { remedies, victims: victims.to_vec(), gone: None }))
}
