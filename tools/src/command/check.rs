//! `check`: whether all is well, for people and for monitoring.

use super::{lag, servers};
use crate::outcome::Result;
use crate::output::{Report, short_duration, table};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::wire;
use serde_json::json;

/// Check all servers: exit code 0 when all is well
///
/// Each nameserver and broker is asked for its own checks. --max-lag and --min-disk add two of this command's own.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to check
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Fail when a consumer group has more messages to go in a topic
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_lag: u64,
    /// Only this consumer group
    #[arg(short = 'g', long = "group")]
    group: Option<String>,
    /// Fail when less of a disk is free, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    min_disk: u64,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Everything
    All,
    /// Servers answer
    Liveness,
    /// Servers answer, and say that they serve
    Readiness,
    /// All members of broker groups are in sync
    Replication,
    /// Consumer groups are not far behind
    Lag,
    /// Disks are not full
    Disk,
}

impl What {
    fn includes(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// One thing that was checked.
struct Checked {
    subject: String,
    name: &'static str,
    state: String,
    reason: String,
}

impl Checked {
    fn new(subject: &str, name: &'static str, is_ok: bool, reason: impl Into<String>) -> Self {
        let state = if is_ok { "ok" } else { "failed" };
        Self { subject: subject.to_owned(), name, state: state.to_owned(), reason: reason.into() }
    }
}

impl Check {
    pub(crate) async fn run(self) -> Result<Report> {
        let (admin, all) = servers::all(&self.common).await?;
        let mut checked = Vec::new();
        for server in &all {
            let asked = admin.broker(&server.address);
            match asked.describe_server(wire::DescribeServerRequest::default()).await {
                Ok(said) => self.of_server(server, &said, &mut checked),
                Err(error) => checked.push(Checked::new(&server.name, "liveness", false, error.to_string())),
            }
        }
        if self.what.includes(What::Replication) {
            self.replication(&mut checked).await;
        }
        if self.what.includes(What::Lag) {
            self.lag(&mut checked).await?;
        }
        let failed = checked.iter().filter(|check| check.state == "failed").count();
        let row = |check: &Checked| {
            vec![
                check.state.to_uppercase(),
                check.subject.clone(),
                check.name.to_owned(),
                check.reason.clone(),
            ]
        };
        let view = |check: &Checked| json!({ "state": check.state, "subject": check.subject, "check": check.name, "reason": check.reason });
        let exit = if failed == 0 { crate::outcome::Exit::Ok } else { crate::outcome::Exit::Failed };
        Ok(Report {
            text: table(&["State", "Subject", "Check", "Reason"], checked.iter().map(row)),
            json: json!({ "failed": failed, "checks": checked.iter().map(view).collect::<Vec<_>>() }),
            warnings: Vec::new(),
            exit,
        })
    }

    fn of_server(
        &self,
        server: &servers::Server,
        said: &wire::DescribeServerResponse,
        checked: &mut Vec<Checked>,
    ) {
        if self.what.includes(What::Liveness) {
            let up = format!("version {}, up for {}", said.version, short_duration(said.uptime_ms));
            checked.push(Checked::new(&server.name, "liveness", true, up));
        }
        if self.what.includes(What::Readiness) {
            checked.extend(said.checks.iter().map(|check| Checked {
                subject: server.name.clone(),
                name: "readiness",
                state: check.state.clone(),
                reason: format!("{}: {}", check.name, check.reason),
            }));
        }
        if self.what.includes(What::Disk) && said.disk_bytes > 0 {
            let percent = said.disk_free_bytes.saturating_mul(100) / said.disk_bytes;
            let reason = format!("{percent} % of the file system of {} are free", said.data);
            checked.push(Checked::new(&server.name, "disk", percent >= self.min_disk, reason));
        }
    }

    async fn replication(&self, checked: &mut Vec<Checked>) {
        let groups = match self.common.controller() {
            Ok(controller) => controller.describe_groups(wire::DescribeGroupsRequest::default()).await,
            Err(failure) => {
                return checked.push(Checked::new("controller", "replication", false, failure.message));
            }
        };
        let groups = match groups {
            Ok(answer) => answer.groups,
            // A standalone broker has no controller, and nothing to replicate.
            Err(status) if status.code() == tonic::Code::Unimplemented => return,
            Err(status) => {
                return checked.push(Checked::new("controller", "replication", false, status.message()));
            }
        };
        for state in groups.into_iter().filter_map(|group| group.state) {
            let (members, in_sync) = (state.members.len(), state.in_sync.len());
            let is_ok = state.master != 0 && in_sync == members;
            let reason = match state.master {
                0 => "no master".to_owned(),
                master => {
                    format!("member {master} is the master, {in_sync} of {members} members are in sync")
                }
            };
            checked.push(Checked::new(
                &format!("broker group {}", state.group),
                "replication",
                is_ok,
                reason,
            ));
        }
    }

    async fn lag(&self, checked: &mut Vec<Checked>) -> Result<()> {
        let client = self.common.client()?;
        let admin = client.admin();
        let queues = lag::queues(&admin, &admin.masters(None).await?, self.group.as_deref()).await?;
        for ((group, topic), lag) in lag::by_group_and_topic(&queues) {
            let reason = format!("{lag} messages to go in topic {topic}");
            checked.push(Checked::new(&format!("group {group}"), "lag", lag <= self.max_lag, reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_includes_each_check() {
        assert!(What::All.includes(What::Lag) && What::Disk.includes(What::Disk));
        assert!(!What::Disk.includes(What::Lag));
    }
}
