//! `check`: whether all is well, for people and for monitoring.

use super::{lag, servers};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, short_duration, table};
use serde_json::json;
use std::collections::BTreeSet;

/// Check all servers: exit code 0 when all is well
///
/// Each nameserver and broker is asked for its own checks, which are those that /readyz answers with. A member of a broker
/// group that is not registered has failed, and so has a cluster without brokers. --max-lag and --min-disk add two of this
/// command's own.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to check
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Fail when the lag of a consumer group in a topic is larger
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_lag: u64,
    /// Only this consumer group
    #[arg(short = 'g', long = "group")]
    group: Option<String>,
    /// Fail when less of a disk is free, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    min_disk: u64,
}

/// The subject of a check.
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
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, all) = servers::all(&self.common).await?;
        let mut checked = Vec::new();
        for server in &all {
            let asked = admin.broker(&server.address);
            match asked.describe_server(wire::DescribeServerRequest::default()).await {
                Ok(said) => self.of_server(server, &said, &mut checked),
                // A server that does not answer has failed every check.
                Err(error) => checked.push(Checked::new(&server.name, "liveness", false, error.to_string())),
            }
        }
        let groups = self.groups().await;
        match &groups {
            Ok(groups) => checked.extend(missing(&all, groups)),
            Err(failure) => {
                checked.push(Checked::new("controller", "replication", false, failure.message.clone()));
            }
        }
        if self.what.includes(What::Replication) {
            checked.extend(groups.iter().flatten().map(|group| replication(&all, group)));
        }
        if self.what.includes(What::Lag) {
            self.lag(&admin, &mut checked).await;
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
        let exit = if failed == 0 { ExitStatus::Ok } else { ExitStatus::Failed };
        Ok(CommandReport {
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

    /// The broker groups that the controller knows; a standalone broker has no controller, and nothing to replicate.
    async fn groups(&self) -> Result<Vec<wire::GroupDescription>> {
        match self.common.controller()?.describe_groups(wire::DescribeGroupsRequest::default()).await {
            Ok(answer) => Ok(answer.groups),
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(super::controller::failure(status)),
        }
    }

    /// A broker that does not answer costs the figures of the others nothing.
    async fn lag(&self, admin: &Admin, checked: &mut Vec<Checked>) {
        let masters = match admin.masters(None).await {
            Ok(masters) => masters,
            Err(error) => return checked.push(Checked::new("cluster", "lag", false, error.to_string())),
        };
        let found = lag::standings(admin, &masters, self.group.as_deref(), None).await;
        checked.extend(found.failures.into_iter().map(unknown_lag));
        for ((group, topic), lag) in lag::by_group_and_topic(&found.queues) {
            let reason = format!("{lag} messages to go in topic {topic}");
            checked.push(Checked::new(&format!("group {group}"), "lag", lag <= self.max_lag, reason));
        }
    }
}

fn unknown_lag((master, failure): (Master, CommandFailure)) -> Checked {
    Checked::new(&format!("broker group {}", master.info.group), "lag", false, failure.message)
}

/// The members of broker groups that are not there, as the controller remembers them: the routes forget a broker that is silent.
fn missing(all: &[servers::Server], groups: &[wire::GroupDescription]) -> Vec<Checked> {
    let mut missing = Vec::new();
    for group in groups {
        let Some(state) = &group.state else { continue };
        for member in &state.members {
            let address = format!("{}:{}", member.host, member.port);
            if all.iter().any(|server| server.is_broker && server.address.to_string() == address) {
                continue;
            }
            let silent = group.health.iter().find(|health| health.id == member.id);
            let heard = match silent.and_then(|health| health.silent_ms) {
                Some(silent_ms) => format!("it was heard of {} ago", short_duration(silent_ms)),
                None => "it was not heard of since the controller began".to_owned(),
            };
            let reason = format!(
                "is not registered: {heard}; start it ({address}), or take it out with removeBrokerMember"
            );
            let subject = format!("broker {}/{}", state.group, member.id);
            missing.push(Checked::new(&subject, "liveness", false, reason));
        }
    }
    if missing.is_empty() && !all.iter().any(|server| server.is_broker) {
        let reason = "no broker is registered: clients can neither send nor receive; start one, or check -n";
        missing.push(Checked::new("cluster", "liveness", false, reason));
    }
    missing
}

/// Whether all members of a group are in sync, and its master is there.
fn replication(all: &[servers::Server], group: &wire::GroupDescription) -> Checked {
    let state = group.state.clone().unwrap_or_default();
    let (members, in_sync) = (state.members.len(), state.in_sync.len());
    let there: BTreeSet<String> = all.iter().map(|server| server.address.to_string()).collect();
    let master = state.members.iter().find(|member| member.id == state.master);
    let (is_ok, reason) = match master {
        None => (false, format!("no master: {}", group.waiting_for)),
        Some(master) if !there.contains(&format!("{}:{}", master.host, master.port)) => {
            (false, format!("member {} was the master, and is not there", master.id))
        }
        Some(master) => {
            let reason =
                format!("member {} is the master, {in_sync} of {members} members are in sync", master.id);
            (in_sync == members, reason)
        }
    };
    Checked::new(&format!("broker group {}", state.group), "replication", is_ok, reason)
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
