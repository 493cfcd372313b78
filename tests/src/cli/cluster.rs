//! A nameserver and two broker groups of two members, and `mqadmin` beside them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kerolox_harness::{Cluster, ClusterPlan};
use serde_json::Value;
use tokio::task::block_in_place;

use super::CliSuiteOptions;

const GROUPS: [&str; 2] = ["broker-a", "broker-b"];
const MEMBERS: usize = 2;
const CHECKS: (&str, u32) = ("1s", 2);

/// See the module.
pub(super) struct CliCluster {
    pub(super) servers: Cluster,
    mqadmin: PathBuf,
}

/// What `mqadmin` answered.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl CliCluster {
    pub(super) async fn start(options: &CliSuiteOptions) -> Result<Self> {
        let mut plan = ClusterPlan::new("cli").checks(CHECKS.0, CHECKS.1).segments_of("64MiB");
        for group in GROUPS {
            plan = plan.group(group, MEMBERS);
        }
        let servers = block_in_place(|| plan.start())?;
        for group in GROUPS {
            servers.wait_until_in_sync(group, MEMBERS).await?;
        }
        Ok(Self { servers, mqadmin: options.mqadmin.clone() })
    }

    pub(super) fn address(&self) -> Result<&str> {
        self.servers.nameservers[0].address()
    }

    /// The master of a group.
    pub(super) async fn master(&self, group: &str) -> Result<String> {
        let master = self.servers.wait_for_master(group).await?;
        Ok(self.servers.brokers[master].address()?.to_owned())
    }

    /// `mqadmin` of another cluster, or without one.
    pub(super) fn command(&self, nameserver: &str) -> Command {
        let mut command = Command::new(&self.mqadmin);
        command
            .env("NAMESRV_ADDR", nameserver)
            .env("MQADMIN_CONTEXTS", self.servers.folder().join("contexts.toml"))
            .current_dir(self.servers.folder());
        command
    }

    pub(super) fn run(&self, words: &[String], input: &str) -> Result<Said> {
        let mut command = self.command(self.address()?);
        command.args(words);
        said(command, input)
    }

    /// What a command line says, which must be well.
    pub(super) fn ok(&self, line: &str) -> Result<String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let said = self.run(&words, "")?;
        ensure!(said.code == 0, "mqadmin {line} ended with {}: {}{}", said.code, said.out, said.err);
        Ok(said.out)
    }

    /// The output of a command with `--output json`.
    pub(super) fn json(&self, line: &str) -> Result<Value> {
        let out = self.ok(&format!("{line} --output json"))?;
        serde_json::from_str(&out).with_context(|| format!("mqadmin {line}: {out}"))
    }

    pub(super) fn program(&self) -> &Path {
        &self.mqadmin
    }
}

pub(super) fn said(mut command: Command, input: &str) -> Result<Said> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    // A command that does not read its input closes the pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
