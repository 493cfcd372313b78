//! The plan of a round: its faults, and their times. A seed repeats it; the roles of the servers show only in the run.

use std::time::Duration;

use anyhow::{Result, ensure};

use kerolox_harness::SeededRandom;

/// Number of faults of a round.
const FAULTS: u32 = 3;
/// Time from the start of a round to its first fault, and from one fault to the next.
const FIRST: Duration = Duration::from_secs(1);
const APART: Duration = Duration::from_millis(3_300);
/// Random delay of each fault, at the most.
const LATER: Duration = Duration::from_millis(1_200);
/// Duration of faults.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(6);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    /// `kill -9` of the master; it is started again at the end.
    KillMaster,
    /// `kill -9` of a slave.
    KillSlave,
    /// `kill -9` of the master and a slave, together.
    KillTwo,
    /// `kill -9` of the nameserver that leads the others.
    KillLeader,
    /// `kill -9` of the master and of the leading nameserver, at the same moment.
    KillMasterAndLeader,
    /// The master gets no processor time; it resumes at the end.
    PauseMaster,
    /// The master and its slaves do not reach each other; clients and nameservers still reach all of them.
    CutMasterFromSlaves,
    /// The master and the nameservers do not reach each other.
    CutMasterFromNameservers,
    /// Only clients reach the master.
    CutMasterFromServers,
    /// Packets of the master to other servers are lost; packets to it arrive.
    MuteMaster,
    /// Packets of other servers to the master are lost.
    DeafMaster,
    /// A slave reaches no other server.
    CutSlave,
    /// The disk of the master is full; at the end there is room again, and it is started again.
    FillMaster,
    /// The disk of a slave is full; at the end there is room again, and it is started again.
    FillSlave,
    /// All nameservers are down.
    KillNameservers,
    /// A slave is killed and loses its disk.
    WipeSlave,
    /// All brokers are killed together, and come back in any order, with pauses in between.
    KillBrokers,
    /// All brokers and nameservers are killed together, and come back in any order, with pauses in between.
    KillServers,
    /// The wall clock of the master is days ahead for a while.
    LeapMaster,
    /// The wall clock of a slave is days ahead for a while.
    LeapSlave,
    /// The master cannot open a connection or a file for a while.
    StarveMaster,
    /// A slave cannot open a connection or a file for a while.
    StarveSlave,
    /// The disk of the master is full for a while; the broker is not restarted.
    BurstMaster,
    /// The disk of a slave is full for a while; the broker is not restarted.
    BurstSlave,
    /// A slave is down, and the oldest segment of its log is missing when it starts; then it gets the segment back.
    LoseSegment,
    /// All nameservers are down and lose their folders.
    ForgetNameservers,
    /// All nameservers are down, and get the folders of the beginning of the run.
    RestoreNameservers,
    /// Two nameservers start with each other's folder; then each gets its own back.
    ExchangeNameservers,
}

impl Fault {
    /// All faults, in the order of their first turn.
    pub(super) const ALL: [Self; 28] = [
        Self::KillMaster,
        Self::PauseMaster,
        Self::CutMasterFromServers,
        Self::KillSlave,
        Self::KillMasterAndLeader,
        Self::CutMasterFromSlaves,
        Self::WipeSlave,
        Self::MuteMaster,
        Self::KillTwo,
        Self::FillMaster,
        Self::CutSlave,
        Self::CutMasterFromNameservers,
        Self::KillLeader,
        Self::DeafMaster,
        Self::KillNameservers,
        Self::FillSlave,
        Self::KillBrokers,
        Self::LeapMaster,
        Self::StarveSlave,
        Self::LoseSegment,
        Self::ForgetNameservers,
        Self::KillServers,
        Self::LeapSlave,
        Self::StarveMaster,
        Self::RestoreNameservers,
        Self::ExchangeNameservers,
        Self::BurstMaster,
        Self::BurstSlave,
    ];

    /// The name of the fault for the figures.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::KillMaster => "kill master",
            Self::KillSlave => "kill slave",
            Self::KillTwo => "kill master and slave",
            Self::KillLeader => "kill leading nameserver",
            Self::KillMasterAndLeader => "kill master and leading nameserver",
            Self::PauseMaster => "pause master",
            Self::CutMasterFromSlaves => "cut master from slaves",
            Self::CutMasterFromNameservers => "cut master from nameservers",
            Self::CutMasterFromServers => "cut master from all servers",
            Self::MuteMaster => "cut what master sends",
            Self::DeafMaster => "cut what master hears",
            Self::CutSlave => "cut slave",
            Self::FillMaster => "fill master's disk",
            Self::FillSlave => "fill slave's disk",
            Self::KillNameservers => "kill all nameservers",
            Self::WipeSlave => "wipe slave",
            Self::KillBrokers => "kill all brokers",
            Self::KillServers => "kill all servers",
            Self::LeapMaster => "leap of master's clock",
            Self::LeapSlave => "leap of slave's clock",
            Self::StarveMaster => "no descriptors for master",
            Self::StarveSlave => "no descriptors for slave",
            Self::BurstMaster => "no room for master",
            Self::BurstSlave => "no room for slave",
            Self::LoseSegment => "lose slave's oldest segment",
            Self::ForgetNameservers => "lose nameservers' folders",
            Self::RestoreNameservers => "restore nameservers' folders",
            Self::ExchangeNameservers => "exchange nameservers' folders",
        }
    }

    /// Whether writes are expected to stop for a while.
    pub(super) fn hits_master(self) -> bool {
        !matches!(
            self,
            Self::KillSlave
                | Self::KillLeader
                | Self::CutSlave
                | Self::FillSlave
                | Self::KillNameservers
                | Self::WipeSlave
                | Self::LeapMaster
                | Self::LeapSlave
                | Self::StarveSlave
                | Self::BurstSlave
                | Self::LoseSegment
                | Self::ExchangeNameservers
        )
    }
}

/// A fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// Time from the start of the round to the fault's start.
    pub(super) begins: Duration,
    pub(super) ends: Duration,
    /// The random choices in it: orders and pauses.
    pub(super) chance: u64,
}

/// Hands out the rounds of a run: every fault has its turn before one comes again.
#[derive(Debug)]
pub(super) struct Plan {
    random: SeededRandom,
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Plan {
    /// A plan of those kinds of faults whose words contain a part of `only`, between commas: of all by default, with nothing.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn new(seed: u64, only: &str) -> Result<Self> {
        let is_wanted = |kind: &Fault| only.split(',').any(|part| kind.words().contains(part.trim()));
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(is_wanted).collect();
        let words = || Fault::ALL.map(Fault::words).join(", ");
        ensure!(!kinds.is_empty(), "no fault is called {only:?}: there are {}", words());
        Ok(Self { random: SeededRandom::new(seed), kinds, left: Vec::new() })
    }

    /// The faults of the next round, in the order in which they begin.
    pub(super) fn round(&mut self) -> Vec<Planned> {
        (0..FAULTS)
            .map(|number| {
                let begins = FIRST + APART * number + self.random.duration(LATER);
                let ends = begins + SHORTEST + self.random.duration(LONGEST - SHORTEST);
                let chance = self.random.below(u64::MAX);
                Planned { fault: self.draw(), begins, ends, chance }
            })
            .collect()
    }

    fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        let bound = self.left.len() as u64;
        let chosen = usize::try_from(self.random.below(bound)).expect("below the number of faults");
        self.left.swap_remove(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_plan_and_every_fault_has_its_turn() {
        let drawn = |seed| {
            let mut plan = Plan::new(seed, "").unwrap();
            (0..Fault::ALL.len()).flat_map(|_| plan.round()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(5), drawn(5));
        assert_ne!(drawn(5), drawn(6));
        let mut first: Vec<Fault> =
            drawn(5).iter().take(Fault::ALL.len()).map(|planned| planned.fault).collect();
        first.sort_unstable();
        let mut all = Fault::ALL.to_vec();
        all.sort_unstable();
        assert_eq!(first, all);
    }

    #[test]
    fn a_plan_can_be_of_some_kinds_only() {
        let mut plan = Plan::new(1, "wipe").unwrap();
        assert!((0..3).flat_map(|_| plan.round()).all(|planned| planned.fault == Fault::WipeSlave));
        let mut two: Vec<Fault> = Plan::new(1, "wipe, lose slave").unwrap().kinds;
        two.sort_unstable();
        assert_eq!(two, [Fault::WipeSlave, Fault::LoseSegment]);
        assert!(Plan::new(1, "earthquake").is_err());
    }

    #[test]
    fn faults_begin_in_order_and_end_after_they_begin() {
        let round = Plan::new(1, "").unwrap().round();
        assert!(round.windows(2).all(|pair| pair[0].begins <= pair[1].begins));
        assert!(round.iter().all(|planned| planned.ends >= planned.begins + SHORTEST));
    }
}
