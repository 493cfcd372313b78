//! Settings of replication within the broker group.

use kerolox_core::replicas::ReplicaRequirement;
use kerolox_replication::ReplicationPolicy;
use kerolox_runtime::config::{TimeSpan, one_of};
use serde::{Deserialize, Deserializer, Serialize};

/// Replication within the broker group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplicationConfig {
    /// How many members hold a record on their disks before it is acknowledged: all in sync, a majority of those (quorum), or the
    /// master alone. A topic can have its own choice (`mqadmin updateTopic -a +replicas=master`).
    pub acks: ReplicaChoice,
    /// Members that have to be in sync, the master included; with fewer, sends and other records that must not be lost
    /// are refused.
    pub min_in_sync: usize,
    /// A slave that has not held everything for this long leaves the in-sync set; until then acknowledgements wait for
    /// it.
    pub slave_timeout: TimeSpan,
    /// How long a master is sure of its leadership after it last heard from its slaves. A newly elected one waits for as
    /// long.
    pub lease: TimeSpan,
    /// How long an acknowledgement may wait for slaves before the client is told that the outcome is unknown.
    pub ack_timeout: TimeSpan,
    /// How often a broker reports to the controller.
    pub report_interval: TimeSpan,
    /// Maximum time that a stopping broker takes to hand its leadership over.
    pub hand_over_timeout: TimeSpan,
    /// Read messages that are no longer in the master's memory at a slave, so that consumers with a long backlog do not keep
    /// the master's disk busy; leases and acknowledgements stay with the master. Damaged messages are read at slaves in any
    /// case.
    pub slave_reads: bool,
    /// `host:port` at which the other members of the group reach this one, if it differs from the address for clients.
    pub advertise: String,
}

/// How many members hold a record before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaChoice {
    /// All in sync.
    All,
    /// A majority of those in sync.
    Quorum,
    /// The master alone.
    Master,
}

impl<'de> Deserialize<'de> for ReplicaChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("all", Self::All), ("quorum", Self::Quorum), ("master", Self::Master)])
    }
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            acks: ReplicaChoice::All,
            min_in_sync: 1,
            slave_timeout: TimeSpan::from_millis(1_200),
            lease: TimeSpan::from_millis(1_500),
            ack_timeout: TimeSpan::from_secs(5),
            report_interval: TimeSpan::from_millis(300),
            hand_over_timeout: TimeSpan::from_secs(5),
            slave_reads: false,
            advertise: String::new(),
        }
    }
}

impl ReplicationConfig {
    /// The requirement in the core's form.
    pub fn replicas(&self) -> ReplicaRequirement {
        match self.acks {
            ReplicaChoice::All => ReplicaRequirement::All,
            ReplicaChoice::Quorum => ReplicaRequirement::Quorum,
            ReplicaChoice::Master => ReplicaRequirement::Master,
        }
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        self.lease.as_millis()
    }

    pub(crate) fn policy(&self) -> ReplicationPolicy {
        ReplicationPolicy { follower_timeout_ms: self.slave_timeout.as_millis(), lease_ms: self.lease_ms() }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let spans = [
            ("slave-timeout", self.slave_timeout),
            ("lease", self.lease),
            ("ack-timeout", self.ack_timeout),
            ("report-interval", self.report_interval),
        ];
        if let Some((key, _)) = spans.iter().find(|(_, span)| span.as_millis() < 50) {
            return Err(format!("replication.{key} is below 50ms; leave it out for the default"));
        }
        if self.min_in_sync == 0 {
            return Err("replication.min-in-sync is 0; the master itself counts, so 1 is the least".into());
        }
        Ok(())
    }
}
