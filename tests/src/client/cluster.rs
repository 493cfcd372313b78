//! A nameserver, a broker group of two members, and one of one; and what happens to them.

use std::time::Duration;

use anyhow::Result;
use kerolox_client::Client;
use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest, WithholdPermRequest};
use kerolox_harness::{Cluster, ClusterPlan, SeededRandom, ServerProcess};
use tokio::task::block_in_place;

use super::{ORDERED, TRANSACTIONS, UNIQUE};

const PAIR: &str = "broker-a";
const SINGLE: &str = "broker-b";
/// The consumer group that receives in order.
pub(super) const ORDERED_GROUP: &str = "ordered-push";
/// Permission to write, as mqadmin knows it.
const WRITE: u32 = 2;
/// How long a server is away: at least this long, and a random time more.
const AWAY: Duration = Duration::from_millis(500);
const AWAY_MORE: Duration = Duration::from_secs(2);

/// An event in a cluster.
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

/// The broker of [`SINGLE`] comes after the pair.
const SINGLE_BROKER: usize = 2;

pub(super) struct FaultyCluster(Cluster);

impl FaultyCluster {
    /// Starts the servers, and makes topics and groups.
    pub(super) async fn start() -> Result<Self> {
        let plan = ClusterPlan::new("client").group(PAIR, 2).group(SINGLE, 1).segments_of("64MiB");
        let plan = plan.flags(&["--transaction-first-check", "1s", "--transaction-check-interval", "1s"]);
        let cluster = Self(block_in_place(|| plan.start())?);
        cluster.0.wait_until_in_sync(PAIR, 2).await?;
        cluster.make_topics().await?;
        Ok(cluster)
    }

    pub(super) fn client(&self) -> Client {
        self.0.client()
    }

    async fn make_topics(&self) -> Result<()> {
        let admin = self.client().admin();
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

    /// Carries the event out, and undoes it.
    pub(super) async fn inflict(&mut self, fault: Fault, random: &mut SeededRandom) -> Result<()> {
        let away = AWAY + random.duration(AWAY_MORE);
        match fault {
            Fault::KillMaster | Fault::StopMaster | Fault::KillSlave => {
                let master = self.0.wait_for_master(PAIR).await?;
                let victim = if fault == Fault::KillSlave { 1 - master } else { master };
                restart(&mut self.0.brokers[victim], fault == Fault::StopMaster, away).await?;
                self.0.wait_until_in_sync(PAIR, 2).await.map(drop)
            }
            Fault::KillSingle | Fault::StopSingle => {
                restart(&mut self.0.brokers[SINGLE_BROKER], fault == Fault::StopSingle, away).await
            }
            Fault::DrainSingle => {
                self.withhold(true).await?;
                tokio::time::sleep(away).await;
                self.withhold(false).await
            }
            Fault::KillNameserver => restart(&mut self.0.nameservers[0], false, away).await,
        }
    }

    async fn withhold(&self, withhold: bool) -> Result<()> {
        let admin = self.client().admin();
        let request = WithholdPermRequest { perm: if withhold { WRITE } else { 0 } };
        admin.broker(&self.0.broker_address(SINGLE_BROKER)).withhold_perm(request).await?;
        Ok(())
    }
}

async fn restart(server: &mut ServerProcess, is_orderly: bool, away: Duration) -> Result<()> {
    block_in_place(|| if is_orderly { server.stop() } else { server.kill() })?;
    tokio::time::sleep(away).await;
    block_in_place(|| server.start())?;
    Ok(())
}
