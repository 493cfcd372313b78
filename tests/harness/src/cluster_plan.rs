//! What a cluster is to consist of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::cluster_network::ClusterNetwork;
use crate::programs::built_program;

/// A cluster that is to be made: nameservers, and members of broker groups, or one standalone broker.
///
/// Without more, servers listen on free ports of the loopback interface and have their folders in a temporary one.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    pub(crate) suite: String,
    pub(crate) nameservers: usize,
    pub(crate) is_quorum: bool,
    /// Names of the processes and their groups, in the order in which they start.
    pub(crate) members: Vec<(String, String)>,
    pub(crate) queues: Option<u32>,
    pub(crate) broker: Option<PathBuf>,
    pub(crate) flags: Vec<String>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) network: Option<ClusterNetwork>,
    pub(crate) has_leaping_clocks: bool,
    pub(crate) disks: Option<String>,
    pub(crate) data: Option<PathBuf>,
}

impl ClusterPlan {
    /// One nameserver and no broker yet. The name of the suite becomes a part of the folder's name.
    pub fn new(suite: &str) -> Self {
        Self {
            suite: suite.to_owned(),
            nameservers: 1,
            is_quorum: false,
            members: Vec::new(),
            queues: None,
            broker: None,
            flags: Vec::new(),
            settings: Vec::new(),
            folder: None,
            network: None,
            has_leaping_clocks: false,
            disks: None,
            data: None,
        }
    }

    /// One broker that is its own nameserver.
    pub fn standalone(suite: &str) -> Self {
        Self::new(suite).nameservers(0).group("broker-a", 1)
    }

    /// So many nameservers that know nothing of each other.
    #[must_use]
    pub fn nameservers(mut self, count: usize) -> Self {
        self.nameservers = count;
        self
    }

    /// So many nameservers that are peers and elect a leader.
    #[must_use]
    pub fn nameserver_quorum(mut self, count: usize) -> Self {
        self.nameservers = count;
        self.is_quorum = true;
        self
    }

    /// Adds a broker group with so many members. A single member has the name of its group; those of more have a number behind it,
    /// from 1 on.
    #[must_use]
    pub fn group(mut self, group: &str, members: usize) -> Self {
        let name = |number| if members == 1 { group.to_owned() } else { format!("{group}-{number}") };
        self.members.extend((1..=members).map(|number| (name(number), group.to_owned())));
        self
    }

    /// Read and write queues of the topics that [`Cluster::create_topic`] makes; by default as many as the product makes.
    #[must_use]
    pub fn queues(mut self, count: u32) -> Self {
        self.queues = Some(count);
        self
    }

    /// The program of the brokers, when it is not the one that was built with this one.
    #[must_use]
    pub fn broker_program(mut self, program: &Path) -> Self {
        self.broker = Some(program.to_owned());
        self
    }

    /// Half messages are checked for the first time, and again, after `pause` as settings have it, at most `times`.
    #[must_use]
    pub fn checks(self, pause: &str, times: u32) -> Self {
        self.flags(&[
            "--transaction-first-check",
            pause,
            "--transaction-check-interval",
            pause,
            "--transaction-check-max",
            &times.to_string(),
        ])
    }

    /// Adds flags of the brokers.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Adds a setting of the brokers by its environment variable.
    #[must_use]
    pub fn setting(mut self, variable: &str, value: &str) -> Self {
        self.settings.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Adds settings of the brokers.
    #[must_use]
    pub fn settings(self, settings: &[(&str, &str)]) -> Self {
        settings.iter().fold(self, |plan, (variable, value)| plan.setting(variable, value))
    }

    /// Size of a segment of the brokers' logs, such as `16MiB`.
    #[must_use]
    pub fn segments_of(self, size: &str) -> Self {
        self.setting("KEROLOX_BROKER__LOG__SEGMENT_SIZE", size)
    }

    /// Has the servers' folders below this one, where they stay.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Has each server in a network namespace of its own.
    #[must_use]
    pub fn network(mut self, network: ClusterNetwork) -> Self {
        self.network = Some(network);
        self
    }

    /// Has each server read a wall clock of its own, [`Cluster::clock_of`].
    #[must_use]
    pub fn leaping_clocks(mut self) -> Self {
        self.has_leaping_clocks = true;
        self
    }

    /// Has the data of each broker on a disk of its own, [`Cluster::disk_of`], of a size such as `160m`. Needs root.
    #[must_use]
    pub fn small_disks(mut self, size: &str) -> Self {
        self.disks = Some(size.to_owned());
        self
    }

    /// Has the data of the only broker in a folder that is already there, such as one on a file system of its own.
    #[must_use]
    pub fn data_at(mut self, folder: &Path) -> Self {
        self.data = Some(folder.to_owned());
        self
    }

    /// Starts everything, one server after the other; each serves when the next one starts.
    ///
    /// # Errors
    /// When a server does not start; the end of its log is part of the error.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = Cluster::empty(self)?;
        cluster.start_nameservers()?;
        for (name, group) in cluster.plan().members.clone() {
            cluster.add_member(&name, &group)?;
        }
        Ok(cluster)
    }

    pub(crate) fn broker_path(&self) -> Result<PathBuf> {
        self.broker.clone().map_or_else(|| built_program("broker"), Ok).context("looking for the broker")
    }
}
