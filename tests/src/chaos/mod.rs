//! Chaos: a replicated group of three brokers and its three nameservers, each in a network namespace of its own, under clients
//! that send and receive all the time, the official SDK among them. In each round processes are killed and paused, pairs of nodes cut from each other in one
//! direction or both, disks filled and wiped, clocks leap, descriptors run out, segments and folders of nameservers are lost, set back and
//! exchanged. Then everything is mended, and what the clients know is held against what they
//! were promised: nothing acknowledged is lost, nothing comes that should not, message groups keep their order, the queues
//! have one message for each offset, and the members have the same log.
//!
//! [`kerolox_harness::enter_network`] makes the network and starts this program again inside it; there, [`run`] does the rest.

mod clients;
mod cluster;
mod faults;
mod label;
mod logs;
mod missing;
mod official;
mod pauses;
mod plan;
mod polls;
mod queues;
mod rounds;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kerolox_harness::verdict::CheckedProperty;

pub use pauses::percentile;
pub use rounds::run;

/// Nameservers and brokers.
pub const NAMESERVERS: usize = 3;
/// Brokers of the group.
pub const BROKERS: usize = 3;
/// The broker group.
const GROUP: &str = "broker-a";
const TOPIC: &str = "chaos";
const ORDERED_TOPIC: &str = "chaos-ordered";
const TX_TOPIC: &str = "chaos-transactions";
const READERS_GROUP: &str = "chaos-readers";
const ORDERED_GROUP: &str = "chaos-ordered-readers";

/// What to do.
#[derive(Debug, Clone)]
pub struct ChaosOptions {
    /// Number of rounds.
    pub rounds: u32,
    /// Repeats the plan of faults of a run; what they meet depends on the machine.
    pub seed: u64,
    /// Only faults whose words contain one of these, between commas, happen; all with nothing.
    pub only: String,
    /// Folder for the data and the logs of the servers.
    pub folder: PathBuf,
    /// A Python that has the official SDK, of which a producer sends beside the other clients.
    pub python: Option<PathBuf>,
    /// Process that made the network, see [`kerolox_harness::enter_network`].
    pub owner: u32,
}

/// What happened.
#[derive(Debug, Default)]
pub struct ChaosReport {
    /// Rounds that were checked.
    pub rounds: u32,
    /// How often each fault happened, in words.
    pub faults: BTreeMap<&'static str, u32>,
    /// How many epochs began: elections of a master.
    pub failovers: u32,
    /// Messages that the brokers acknowledged.
    pub acknowledged: usize,
    /// Those among them that the official SDK sent, if it took part.
    pub official: Option<usize>,
    /// Half messages among them whose transaction was committed, as the broker said.
    pub committed: usize,
    /// Acknowledged messages that were not received.
    pub lost: usize,
    /// Messages that were received more than once.
    pub duplicates: usize,
    /// Messages that stand in queues more than once, because their sender heard nothing and sent them again.
    pub stored_twice: usize,
    /// Time without writes after each fault that hit the master, shortest first.
    pub pauses: Vec<Duration>,
    /// Each check of the last round with its outcome in words.
    pub checks: Vec<CheckedProperty>,
}
