//! Servers in the race. One runs at a time, in a new folder.

mod jvm;
mod kafka;
mod kerolox;
mod ports;
mod rocketmq;

use std::path::Path;

use anyhow::Result;
use kerolox_harness::{Cluster, ProcessUsage};
use procfs::process::Process;

use crate::leg::FlushMode;
use crate::servers::jvm::JvmProcess;
pub(crate) use crate::servers::jvm::folder_in as jar_folder;

/// A system with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemName {
    /// This one
    Kerolox,
    /// Apache Kafka
    Kafka,
    /// Apache RocketMQ
    RocketMq,
}

impl SystemName {
    /// As people know it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kerolox => "Kerolox",
            Self::Kafka => "Apache Kafka",
            Self::RocketMq => "Apache RocketMQ",
        }
    }

    /// The version in the race.
    ///
    /// # Errors
    /// When its programs are not there.
    pub(crate) fn version(self) -> Result<String> {
        match self {
            Self::Kerolox => Ok(env!("CARGO_PKG_VERSION").to_owned()),
            Self::Kafka => kafka::version(),
            Self::RocketMq => rocketmq::version(),
        }
    }

    /// Settings that are not the defaults, for people.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Self::Kerolox => "standalone broker; `--flush async` or `--flush sync`",
            Self::Kafka => kafka::SETTINGS,
            Self::RocketMq => rocketmq::SETTINGS,
        }
    }

    /// Starts the server with its data in an empty folder; it has the topics and groups of the race when this returns.
    ///
    /// # Errors
    /// When it does not come up; the end of its log is part of the error.
    pub(crate) fn start(self, flush: FlushMode, folder: &Path) -> Result<RunningServer> {
        match self {
            Self::Kerolox => kerolox::start(flush, folder),
            Self::Kafka => kafka::start(folder),
            Self::RocketMq => rocketmq::start(flush, folder),
        }
    }
}

/// A server with its processes; dropping it ends them.
#[derive(Debug)]
pub(crate) struct RunningServer {
    /// Where clients find it.
    pub(crate) address: String,
    processes: ServerProcesses,
}

#[derive(Debug)]
enum ServerProcesses {
    Cluster(Box<Cluster>),
    Jvms(Vec<JvmProcess>),
}

/// What all processes of a server have used since they began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServerUsage {
    /// Processor seconds of all threads.
    pub(crate) cpu: f64,
    /// Most resident bytes.
    pub(crate) resident_peak: u64,
    /// Bytes that went to disks, or are about to.
    pub(crate) written: u64,
}

impl RunningServer {
    /// What it has used so far.
    ///
    /// # Errors
    /// When a process of it has ended.
    pub(crate) fn usage(&self) -> Result<ServerUsage> {
        let mut sum = ServerUsage::default();
        for pid in self.pids()? {
            let usage = ProcessUsage::of(pid)?;
            sum.cpu += usage.cpu.as_secs_f64();
            sum.resident_peak += usage.resident_peak;
            sum.written += Process::new(pid.try_into()?)?.io()?.write_bytes;
        }
        Ok(sum)
    }

    fn pids(&self) -> Result<Vec<u32>> {
        match &self.processes {
            ServerProcesses::Cluster(cluster) => cluster.servers().map(|server| server.pid()).collect(),
            ServerProcesses::Jvms(jvms) => Ok(jvms.iter().map(JvmProcess::pid).collect()),
        }
    }

    /// The ends of its logs.
    pub(crate) fn log_tails(&self) -> String {
        match &self.processes {
            ServerProcesses::Cluster(cluster) => cluster.log_tails(),
            ServerProcesses::Jvms(jvms) => jvms.iter().map(JvmProcess::log_tail).collect(),
        }
    }
}
