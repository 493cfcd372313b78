//! What tests with real processes share.
//!
//! A [`ClusterPlan`] says what a [`Cluster`] consists of: nameservers, broker groups with members, their flags and settings, on the
//! loopback interface or in a [`ClusterNetwork`] of namespaces, which [`enter_network`] makes. The cluster starts its
//! [`ServerProcess`]es, makes clients and topics, and waits for masters. Processes are stopped, killed, paused and started again;
//! [`SmallDisk`], [`LeapingClock`] and [`CuttingProxy`] are what else happens to them, [`ProcessUsage`] is what they use,
//! [`long_log`] makes them start slowly. [`raw_calls`] are the protocol's calls without a client around them.
//!
//! Clients note in a [`MessageLedger`] what they learn; [`properties`] are what must hold of the [`MessageHistory`] in it, and
//! [`verdict`] is how the
//! suites tell what they found.

mod cluster;
mod cluster_network;
mod cluster_plan;
mod cluster_state;
mod cutting_proxy;
mod kept_logs;
mod leaping_clock;
pub mod long_log;
mod message_history;
mod network_entrance;
mod process;
mod process_data;
mod process_usage;
mod programs;
pub mod properties;
pub mod raw_calls;
mod seeded_random;
mod small_disk;
pub mod verdict;

pub use cluster::Cluster;
pub use cluster_network::{ClusterNetwork, ClusterNode, both_ways};
pub use cluster_plan::ClusterPlan;
pub use cutting_proxy::{CuttingProxy, ProxyCut};
pub use kept_logs::{keep_log, kept_logs};
pub use leaping_clock::LeapingClock;
pub use message_history::{
    MessageHistory, MessageIntent, MessageLedger, MessageReception, QueueEnd, SentMessage, StandingMessage,
};
pub use network_entrance::{NetworkVisit, enter_network};
pub use process::{HealthProbe, ServerProcess};
pub use process_usage::ProcessUsage;
pub use programs::built_program;
pub use seeded_random::SeededRandom;
pub use small_disk::SmallDisk;
