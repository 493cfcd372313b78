//! The targets of attacks: servers in cages, and topics with messages.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kerolox_client::Client;
use kerolox_harness::raw_calls::{self, resource};
use kerolox_harness::{Cluster, ClusterPlan, ProcessUsage, ServerProcess, SmallDisk};
use kerolox_proto::v2;
use tokio::time::{Instant, sleep};

use super::cage::Cage;
use super::quiet;

pub(super) const BIG_TOPIC: &str = "hostile-big";
pub(super) const SMALL_TOPIC: &str = "hostile-small";
const GROUP: &str = "broker-a";
const BIG_MESSAGES: u64 = 64;
const BIG_BYTES: usize = 1 << 20;
const SMALL_MESSAGES: u64 = 20_000;
/// How long a group of three may take until it has a master.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a broker may take until it serves, also when it has a long log and no index.
pub(super) const START: Duration = Duration::from_secs(180);

/// How many brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    /// One, without slaves.
    Standalone,
    /// A master with two slaves, and a nameserver.
    Group,
}

impl Setup {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Group => "group of three",
        }
    }
}

/// Servers that run. Fields are dropped in their order: a cage can be removed when it is empty.
pub(super) struct Target {
    cluster: Cluster,
    _cages: Vec<Cage>,
    /// Whom to attack: the master.
    pub(super) broker: String,
    master: usize,
    /// Name of the broker group.
    pub(super) group: String,
}

impl Target {
    pub(super) async fn start(setup: Setup, broker: &Path) -> Result<Self> {
        let plan = ClusterPlan::new("hostile").segments_of("64MiB");
        let (plan, names): (_, &[&str]) = match setup {
            Setup::Standalone => (plan.nameservers(0), &["broker"]),
            Setup::Group => (plan, &["broker-1", "broker-2", "broker-3"]),
        };
        let mut target = Self::caged(plan, names, broker)?;
        for broker in &mut target.cluster.brokers {
            broker.start()?;
        }
        target.make_topics().await?;
        target.fill().await?;
        Ok(target)
    }

    /// One broker of its own, without messages and not started yet: its data can be arranged before. With a size it lies on a disk of
    /// its own.
    pub(super) fn alone(program: &Path, environment: &[(&str, &str)], disk: Option<&str>) -> Result<Self> {
        let plan = ClusterPlan::new("hostile").nameservers(0).settings(environment);
        let plan = disk.into_iter().fold(plan, ClusterPlan::small_disks);
        Self::caged(plan, &["alone"], program)
    }

    /// Brokers in cages, not started yet.
    fn caged(plan: ClusterPlan, names: &[&str], program: &Path) -> Result<Self> {
        let (mut cluster, mut cages) = (plan.start()?, Vec::new());
        for name in names {
            let cage = Cage::build(name, program, cluster.folder())?;
            let broker = cluster.new_member(name, GROUP)?.program(cage.script());
            cluster.brokers.push(broker);
            cages.push(cage);
        }
        Ok(Self { cluster, _cages: cages, broker: String::new(), master: 0, group: GROUP.to_owned() })
    }

    /// Starts what [`Self::alone`] prepared, and makes the topics.
    ///
    /// # Errors
    /// When it does not start, or takes no topics.
    pub(super) async fn open(&mut self) -> Result<()> {
        let broker = &mut self.cluster.brokers[0];
        broker.begin()?;
        let began = Instant::now();
        // It may have an index to make first, which a start does not wait for long enough on a busy machine.
        while broker.probe("/readyz")?.status != 200 {
            anyhow::ensure!(began.elapsed() < START, "it does not serve after {} s", START.as_secs());
            sleep(Duration::from_millis(50)).await;
        }
        broker.wait()?;
        self.make_topics().await
    }

    /// The disk with the broker's data.
    ///
    /// # Errors
    /// When it has none of its own.
    pub(super) fn disk(&self) -> Result<&SmallDisk> {
        self.cluster.disk_of(&self.cluster.brokers[0])
    }

    /// Whom clients are configured with.
    pub(super) fn access_points(&self) -> String {
        self.cluster.access_points()
    }

    /// The broker that is attacked.
    pub(super) fn server(&mut self) -> &mut ServerProcess {
        &mut self.cluster.brokers[self.master]
    }

    pub(super) fn client(&self) -> Client {
        self.cluster.client()
    }

    /// Waits until a broker takes topics: the master. It is attacked from then on.
    async fn make_topics(&mut self) -> Result<()> {
        let began = Instant::now();
        self.master = loop {
            if let Some(at) = self.find_master().await {
                break at;
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "no broker takes a topic");
            sleep(Duration::from_millis(200)).await;
        };
        self.broker = self.cluster.brokers[self.master].address()?.to_owned();
        Ok(())
    }

    /// Sends what attackers ask for.
    async fn fill(&self) -> Result<()> {
        let mut stub = raw_calls::stub(&self.broker).await?;
        for number in 0..BIG_MESSAGES {
            raw_calls::send(&mut stub, vec![raw_calls::message(BIG_TOPIC, number, BIG_BYTES)]).await?;
        }
        for batch in 0..SMALL_MESSAGES / 100 {
            let messages = (0..100).map(|number| raw_calls::message(SMALL_TOPIC, batch * 100 + number, 100));
            raw_calls::send(&mut stub, messages.collect()).await?;
        }
        Ok(())
    }

    /// The broker that takes topics.
    async fn find_master(&self) -> Option<usize> {
        for (at, broker) in self.cluster.brokers.iter().enumerate() {
            let address = broker.address().ok()?;
            let mut is_master = true;
            for topic in [BIG_TOPIC, SMALL_TOPIC, quiet::TOPIC] {
                is_master &= raw_calls::create_topic(address, topic, "NORMAL").await.is_ok();
            }
            if is_master {
                return Some(at);
            }
        }
        None
    }

    /// Memory of the broker that is attacked, in bytes.
    ///
    /// # Errors
    /// When it does not run any more.
    pub(super) fn memory(&self) -> Result<u64> {
        Ok(ProcessUsage::of(self.cluster.brokers[self.master].pid()?)?.resident)
    }

    /// Which brokers do not run any more.
    pub(super) fn dead(&mut self) -> Vec<String> {
        let dead = self.cluster.brokers.iter_mut().filter_map(|broker| {
            (!broker.is_running())
                .then(|| format!("a broker died; the end of its log:\n{}", broker.log_tail()))
        });
        dead.collect()
    }

    /// Kills the broker, damages what follows from its log, and starts it again.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn damage_index(&mut self) -> Result<()> {
        let broker = self.server();
        broker.kill()?;
        for entry in std::fs::read_dir(broker.data().join("index"))?.flatten() {
            let path = entry.path();
            // Whatever it is: tables, the manifest, the file that names it.
            let Ok(mut bytes) = std::fs::read(&path) else { continue };
            for byte in bytes.iter_mut().step_by(64) {
                *byte ^= 0x5a;
            }
            std::fs::write(&path, bytes)?;
        }
        broker.start()?;
        Ok(())
    }

    /// Starts brokers again that died.
    ///
    /// # Errors
    /// When they do not start.
    pub(super) fn revive(&mut self) -> Result<()> {
        for broker in &mut self.cluster.brokers {
            if !broker.is_running() {
                broker.kill()?;
                broker.start()?;
            }
        }
        Ok(())
    }
}

/// A pull of as many messages as there are.
pub(super) fn pull(topic: &str, broker: &str, queue: i32) -> v2::PullMessageRequest {
    v2::PullMessageRequest {
        group: resource("hostile-pulls"),
        message_queue: Some(v2::MessageQueue {
            topic: resource(topic),
            id: queue,
            broker: Some(v2::Broker { name: broker.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        batch_size: 32,
        ..Default::default()
    }
}

/// A receive that waits for half a minute.
pub(super) fn receive(topic: &str, group: &str, condition: &str) -> v2::ReceiveMessageRequest {
    v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(v2::MessageQueue { topic: resource(topic), ..Default::default() }),
        filter_expression: Some(v2::FilterExpression {
            r#type: v2::FilterType::Sql.into(),
            expression: condition.to_owned(),
        }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    }
}
