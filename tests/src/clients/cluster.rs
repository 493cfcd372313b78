//! A nameserver, a broker group of two members, and one of one; and what happens to them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerolox_client::Client;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest, WithholdPermRequest};
use kerolox_proto::kerolox::{DescribeGroupsRequest, GroupState};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::{CALM, ORDERED, Options, TRANSACTIONS, UNIQUE};
use kerolox_harness::SeededRandom;
use kerolox_harness::ServerProcess;

const PAIR: &str = "broker-a";
const SINGLE: &str = "broker-b";
/// The consumer group for whom order matters.
pub(super) const ORDERED_GROUP: &str = "ordered-push";
/// Permission to write, as mqadmin knows it.
const WRITE: u32 = 2;
/// How long somebody is away, at the least and in addition.
const AWAY: Duration = Duration::from_millis(500);
const AWAY_MORE: Duration = Duration::from_secs(2);

/// What happens to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    KillMaster,
    StopMaster,
    KillSlave,
    KillSingle,
    StopSingle,
    DrainSingle,
    KillNameserver,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::KillMaster,
        Self::StopMaster,
        Self::KillSlave,
        Self::KillSingle,
        Self::StopSingle,
        Self::DrainSingle,
        Self::KillNameserver,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillMaster => "kill -9 of a master that has a slave",
            Self::StopMaster => "orderly restart of a master that has a slave",
            Self::KillSlave => "kill -9 of a slave",
            Self::KillSingle => "kill -9 of a broker without slave",
            Self::StopSingle => "orderly restart of a broker without slave",
            Self::DrainSingle => "a broker takes no messages for a while",
            Self::KillNameserver => "kill -9 of the nameserver",
        }
    }
}

pub(super) struct Cluster {
    nameserver: ServerProcess,
    pair: [ServerProcess; 2],
    single: ServerProcess,
    _folder: TempDir,
}

impl Cluster {
    /// Starts the servers, and makes topics and groups.
    pub(super) async fn start(options: &Options) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("kerolox-clients-").tempdir().context("making a data folder")?;
        let mut nameserver = ServerProcess::new("nameserver", &options.nameserver, folder.path(), &[]);
        block_in_place(|| nameserver.start())?;
        let address = nameserver.address()?.to_owned();
        let broker = |name: &str, group: &str| {
            let flags = ["--group", group, "--nameserver", &address, "--transaction-first-check", "1s"];
            let flags = [&flags[..], &["--transaction-check-interval", "1s"]].concat();
            ServerProcess::new(name, &options.broker, folder.path(), &flags)
                .env("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "64MiB")
        };
        let mut cluster = Self {
            pair: [broker("member-1", PAIR), broker("member-2", PAIR)],
            single: broker("single", SINGLE),
            nameserver,
            _folder: folder,
        };
        for server in cluster.pair.iter_mut().chain([&mut cluster.single]) {
            block_in_place(|| server.start())?;
        }
        cluster.in_sync().await?;
        cluster.make_topics().await?;
        Ok(cluster)
    }

    pub(super) fn access_points(&self) -> Result<&str> {
        self.nameserver.address()
    }

    async fn make_topics(&self) -> Result<()> {
        let admin = Client::builder(self.access_points()?).build()?.admin();
        for master in admin.masters(None).await? {
            let broker = admin.broker(&master.address);
            let topic = |name: &str, attributes: &[&str]| UpdateTopicRequest {
                name: name.to_owned(),
                attributes: attributes.iter().map(|text| (*text).to_owned()).collect(),
                ..Default::default()
            };
            broker.update_topic(topic(UNIQUE, &["+dedup=id"])).await?;
            broker.update_topic(topic(TRANSACTIONS, &["+message.type=TRANSACTION"])).await?;
            // Message groups stay where they are when brokers come and go only if they have one broker group.
            if master.info.group == PAIR {
                broker.update_topic(topic(ORDERED, &["+message.type=FIFO"])).await?;
            }
            for (name, is_fifo) in [(ORDERED_GROUP, true), ("push", false), ("transactions-push", false)] {
                let request = UpdateGroupRequest {
                    name: name.to_owned(),
                    fifo: Some(is_fifo),
                    attributes: vec!["+retry.backoff=1s".to_owned()],
                    ..Default::default()
                };
                broker.update_group(request).await?;
            }
        }
        Ok(())
    }

    /// Brings it about, and makes it good again.
    pub(super) async fn inflict(&mut self, fault: Fault, random: &mut SeededRandom) -> Result<()> {
        let away = AWAY + random.duration(AWAY_MORE);
        match fault {
            Fault::KillMaster | Fault::StopMaster | Fault::KillSlave => {
                let master = self.master().await?;
                let victim = if fault == Fault::KillSlave { 1 - master } else { master };
                restart(&mut self.pair[victim], fault == Fault::StopMaster, away).await?;
                self.in_sync().await
            }
            Fault::KillSingle | Fault::StopSingle => {
                restart(&mut self.single, fault == Fault::StopSingle, away).await
            }
            Fault::DrainSingle => {
                self.withhold(true).await?;
                tokio::time::sleep(away).await;
                self.withhold(false).await
            }
            Fault::KillNameserver => restart(&mut self.nameserver, false, away).await,
        }
    }

    async fn withhold(&self, withhold: bool) -> Result<()> {
        let admin = Client::builder(self.access_points()?).build()?.admin();
        let request = WithholdPermRequest { perm: if withhold { WRITE } else { 0 } };
        admin.broker(&self.single.address()?.parse()?).withhold_perm(request).await?;
        Ok(())
    }

    async fn state(&self) -> Result<GroupState> {
        let controller = ControllerClient::new(&[self.access_points()?.to_owned()])?;
        let groups = controller.describe_groups(DescribeGroupsRequest::default()).await?.groups;
        let states = groups.into_iter().filter_map(|group| group.state);
        Ok(states.into_iter().find(|state| state.group == PAIR).unwrap_or_default())
    }

    async fn master(&self) -> Result<usize> {
        let state = self.state().await?;
        let master = state.members.iter().find(|member| member.id == state.master);
        let address = master.map(|master| format!("{}:{}", master.host, master.port)).unwrap_or_default();
        let is_it = |server: &ServerProcess| server.address().is_ok_and(|at| at == address);
        self.pair.iter().position(is_it).context("the pair has no master")
    }

    /// Waits until both members of the pair are in sync.
    async fn in_sync(&self) -> Result<()> {
        let started = std::time::Instant::now();
        loop {
            if let Ok(state) = self.state().await
                && state.master != 0
                && state.in_sync.len() == 2
            {
                return Ok(());
            }
            ensure!(started.elapsed() < CALM, "the pair is not in sync after {CALM:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn restart(server: &mut ServerProcess, is_orderly: bool, away: Duration) -> Result<()> {
    block_in_place(|| if is_orderly { server.stop() } else { server.kill() })?;
    tokio::time::sleep(away).await;
    block_in_place(|| server.start())?;
    Ok(())
}
