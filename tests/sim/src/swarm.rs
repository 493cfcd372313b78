//! What a seed says about its world: sizes, speeds, and which faults there are how often.

use kerolox_controller::ElectionPolicy as ControllerPolicy;
use kerolox_log::fs::SeededChoices;
use kerolox_replication::ReplicationPolicy;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A process is killed; what it wrote stays.
    Kill,
    /// The power of a machine goes between two steps, or in the middle of one.
    PowerCut,
    /// A process stands still for a while, and goes on.
    Pause,
    /// A disk is lost: the member comes back as another one.
    Wipe,
    /// Nodes are cut off from the others, both ways.
    Partition,
    /// Nodes cannot send to some others.
    OneWay,
    /// A link is slow.
    SlowLink,
    /// A wall clock leaps.
    WallClock,
    /// A disk is slow.
    SlowDisk,
    /// A controller stops for a while.
    Controller,
    /// Most of the controllers stop for a while.
    Controllers,
    /// An administrator wants another master.
    HandOver,
    /// The index of a member is lost.
    LostIndex,
    /// All controllers lose their data.
    ControllersLost,
    /// All controllers are given an older copy of their data.
    ControllersRestored,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::Kill,
        Self::PowerCut,
        Self::Pause,
        Self::Wipe,
        Self::Partition,
        Self::OneWay,
        Self::SlowLink,
        Self::WallClock,
        Self::SlowDisk,
        Self::Controller,
        Self::Controllers,
        Self::HandOver,
        Self::LostIndex,
        Self::ControllersLost,
        Self::ControllersRestored,
    ];
}

/// The parameters of a world. Times are microseconds, unless their names say milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Swarm {
    /// The number of members of each group, and whether a majority of them confirms records.
    pub(crate) groups: Vec<(usize, bool)>,
    pub(crate) segment_bytes: u64,
    pub(crate) latency: (u64, u64),
    /// Lost network messages per thousand.
    pub(crate) loss: u64,
    pub(crate) sync: (u64, u64),
    pub(crate) policy: ReplicationPolicy,
    pub(crate) controller: ControllerPolicy,
    /// Time for which a controller that lost its followers still answers from its own state.
    pub(crate) stale: u64,
    pub(crate) tick: u64,
    pub(crate) ping_ms: u64,
    pub(crate) report_ms: u64,
    /// Time until a new confirmed end reaches the tasks that answer.
    pub(crate) publish_ms: u64,
    pub(crate) flush_ms: u64,
    /// Bytes that a master sends ahead of the durable end of its slave.
    pub(crate) window: u64,
    /// Duration of the phase with faults.
    pub(crate) chaos: u64,
    /// The longest time between two faults.
    pub(crate) fault_every: u64,
    pub(crate) faults: Vec<Fault>,
    /// Faults that follow a change of a group, per hundred changes.
    pub(crate) ambushes: u64,
    pub(crate) think: u64,
    pub(crate) body: u64,
    pub(crate) queues: u32,
    /// Whether masters trim the log from time to time.
    pub(crate) trims: bool,
}

impl Swarm {
    pub(crate) fn new(chooser: &mut SeededChoices) -> Self {
        let group = |chooser: &mut SeededChoices| {
            let members = [1, 2, 2, 3, 3, 3, 3, 3][below(chooser, 8)];
            (members, members > 1 && chooser.chance(2, 5))
        };
        let groups = [1, 1, 1, 2, 2, 3][below(chooser, 6)];
        let lease_ms = between(chooser, 400, 1_500);
        let fast = between(chooser, 100, 3_000);
        let sync = between(chooser, 50, 5_000);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| chooser.chance(2, 3)).collect();
        // Whose disk is gone cannot tell forgetful controllers what they knew: one of the two at a time.
        let forgets = |fault: &Fault| matches!(fault, Fault::ControllersLost | Fault::ControllersRestored);
        if faults.contains(&Fault::Wipe) && faults.len().is_multiple_of(2) {
            faults.retain(|fault| !forgets(fault));
        } else if faults.iter().any(forgets) {
            faults.retain(|fault| *fault != Fault::Wipe);
        }
        if faults.is_empty() {
            faults.push(Fault::PowerCut);
        }
        Self {
            groups: (0..groups).map(|_| group(chooser)).collect(),
            segment_bytes: 4096 << chooser.below(5),
            latency: (fast, fast + between(chooser, 50, 20_000)),
            loss: [0, 0, 2, 20, 80][below(chooser, 5)],
            sync: (sync, sync + between(chooser, 50, 20_000)),
            policy: ReplicationPolicy { lease_ms, follower_timeout_ms: between(chooser, 600, 2_500) },
            controller: ControllerPolicy {
                master_timeout: between(chooser, 800, 2_500),
                election_patience: between(chooser, 100, 800),
                cautious_until: 0,
            },
            stale: between(chooser, 500_000, 6_000_000),
            tick: between(chooser, 5_000, 30_000),
            ping_ms: between(chooser, 40, 150),
            report_ms: between(chooser, 100, 300),
            publish_ms: [0, 5, 40, 200][below(chooser, 4)],
            flush_ms: between(chooser, 50, 2_000),
            window: 2048 << chooser.below(6),
            chaos: between(chooser, 15_000_000, 40_000_000),
            fault_every: between(chooser, 400_000, 4_000_000),
            faults,
            ambushes: [0, 10, 30, 60][below(chooser, 4)],
            think: between(chooser, 20_000, 400_000),
            body: [40, 200, 1_000][below(chooser, 3)],
            queues: u32::try_from(between(chooser, 1, 3)).expect("small"),
            trims: chooser.chance(1, 2),
        }
    }
}

pub(crate) fn below(chooser: &mut SeededChoices, limit: usize) -> usize {
    usize::try_from(chooser.below(limit as u64)).expect("below a usize")
}

/// A number from `from` to `to`, both included.
pub(crate) fn between(chooser: &mut SeededChoices, from: u64, to: u64) -> u64 {
    from + chooser.below(to - from + 1)
}
