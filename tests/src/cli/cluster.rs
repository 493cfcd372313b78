//! A nameserver and two broker groups of two members, and `mqadmin` beside them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kerolox_client::Client;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_proto::kerolox::DescribeGroupsRequest;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::Options;
use kerolox_harness::ServerProcess;

const GROUPS: [&str; 2] = ["broker-a", "broker-b"];
/// How long the groups may take to be in sync.
const CALM: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Cluster {
    pub(super) nameserver: ServerProcess,
    _brokers: Vec<ServerProcess>,
    mqadmin: PathBuf,
    pub(super) folder: TempDir,
}

/// What `mqadmin` answered.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Cluster {
    pub(super) async fn start(options: &Options) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("kerolox-cli-").tempdir().context("making a data folder")?;
        let mut nameserver = ServerProcess::new("nameserver", &options.nameserver, folder.path(), &[]);
        block_in_place(|| nameserver.start())?;
        let address = nameserver.address()?.to_owned();
        let mut brokers = Vec::new();
        for group in GROUPS {
            for member in 1..=2 {
                let flags = [
                    "--group",
                    group,
                    "--nameserver",
                    &address,
                    "--transaction-first-check",
                    "1s",
                    "--transaction-check-interval",
                    "1s",
                    "--transaction-check-max",
                    "2",
                ];
                let server =
                    ServerProcess::new(&format!("{group}-{member}"), &options.broker, folder.path(), &flags);
                brokers.push(server.env("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "64MiB"));
            }
        }
        for broker in &mut brokers {
            block_in_place(|| broker.start())?;
        }
        let cluster = Self { nameserver, _brokers: brokers, mqadmin: options.mqadmin.clone(), folder };
        cluster.in_sync().await?;
        Ok(cluster)
    }

    async fn in_sync(&self) -> Result<()> {
        let controller = ControllerClient::new(&[self.address()?.to_owned()])?;
        let started = Instant::now();
        loop {
            let answer = controller.describe_groups(DescribeGroupsRequest::default()).await;
            let states = answer.map(|answer| answer.groups).unwrap_or_default();
            let whole = states.iter().filter_map(|group| group.state.as_ref());
            if whole.filter(|state| state.master != 0 && state.in_sync.len() == 2).count() == GROUPS.len() {
                return Ok(());
            }
            ensure!(started.elapsed() < CALM, "the broker groups are not in sync after {CALM:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn address(&self) -> Result<&str> {
        self.nameserver.address()
    }

    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::builder(self.address()?).build()?)
    }

    /// The master of a group.
    pub(super) async fn master(&self, group: &str) -> Result<String> {
        let masters = self.client()?.admin().masters(None).await?;
        let master = masters.into_iter().find(|master| master.info.group == group);
        Ok(master.with_context(|| format!("{group} has no master"))?.address.to_string())
    }

    /// `mqadmin` of another cluster, or without one.
    pub(super) fn command(&self, nameserver: &str) -> Command {
        let mut command = Command::new(&self.mqadmin);
        command
            .env("NAMESRV_ADDR", nameserver)
            .env("MQADMIN_CONTEXTS", self.folder.path().join("contexts.toml"))
            .current_dir(self.folder.path());
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

    /// The same as JSON.
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
    // Whoever does not want it closes it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
