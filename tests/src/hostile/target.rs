//! What is attacked: servers in cages, and topics with something in them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kerolox_client::Client;
use kerolox_proto::v2;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::cage::Cage;
use super::quiet;
use kerolox_harness::ProcessUsage;
use kerolox_harness::ServerProcess;
use kerolox_harness::SmallDisk;
use kerolox_harness::raw_calls::{self, resource};

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
    brokers: Vec<ServerProcess>,
    _nameservers: Vec<ServerProcess>,
    _cages: Vec<Cage>,
    disk: Option<SmallDisk>,
    _folder: TempDir,
    /// Whom clients are configured with.
    pub(super) access_points: String,
    /// Whom to attack: the master.
    pub(super) broker: String,
    master: usize,
    /// Name of the broker group.
    pub(super) group: String,
}

impl Target {
    pub(super) async fn start(setup: Setup, broker: &Path, nameserver: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kerolox-hostile-").tempdir()?;
        let (mut nameservers, mut brokers, mut cages) = (Vec::new(), Vec::new(), Vec::new());
        let names: &[&str] = match setup {
            Setup::Standalone => &["broker"],
            Setup::Group => &["broker-1", "broker-2", "broker-3"],
        };
        let mut flags = vec!["--standalone".to_owned()];
        if setup == Setup::Group {
            let mut server = ServerProcess::new("nameserver", nameserver, folder.path(), &[]);
            server.start()?;
            flags = vec!["--nameserver".to_owned(), server.address()?.to_owned()];
            nameservers.push(server);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for name in names {
            let cage = Cage::build(name, broker, folder.path())?;
            let server = ServerProcess::new(name, cage.script(), folder.path(), &flags);
            let mut server = server.env("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "64MiB");
            server.start().with_context(|| format!("starting {name}"))?;
            brokers.push(server);
            cages.push(cage);
        }
        let mut target = Self {
            access_points: match nameservers.first() {
                Some(server) => server.address()?.to_owned(),
                None => brokers[0].address()?.to_owned(),
            },
            broker: brokers[0].address()?.to_owned(),
            master: 0,
            group: GROUP.to_owned(),
            brokers,
            _nameservers: nameservers,
            _cages: cages,
            disk: None,
            _folder: folder,
        };
        target.make_topics().await?;
        target.fill().await?;
        Ok(target)
    }

    /// One broker of its own, without messages and not started yet: its disk can be arranged before.
    pub(super) fn alone(program: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kerolox-hostile-").tempdir()?;
        let cage = Cage::build("alone", program, folder.path())?;
        let server = ServerProcess::standalone(cage.script(), folder.path(), &[]);
        let server = environment.iter().fold(server, |server, (name, value)| server.env(name, value));
        Ok(Self {
            access_points: String::new(),
            broker: String::new(),
            master: 0,
            group: GROUP.to_owned(),
            brokers: vec![server],
            _nameservers: Vec::new(),
            _cages: vec![cage],
            disk: None,
            _folder: folder,
        })
    }

    /// Starts what [`Self::alone`] prepared, and makes the topics.
    ///
    /// # Errors
    /// When it does not start, or takes no topics.
    pub(super) async fn open(&mut self) -> Result<()> {
        let broker = &mut self.brokers[0];
        broker.begin()?;
        let began = Instant::now();
        // It may have an index to make first, which a start does not wait for long enough on a busy machine.
        while broker.probe("/readyz")?.status != 200 {
            anyhow::ensure!(began.elapsed() < START, "it does not serve after {} s", START.as_secs());
            sleep(Duration::from_millis(50)).await;
        }
        broker.wait()?;
        self.access_points = broker.address()?.to_owned();
        self.make_topics().await
    }

    /// Puts the data of a broker that has not been started on a disk of its own.
    ///
    /// # Errors
    /// Without root.
    pub(super) fn mount(&mut self, size: &str) -> Result<()> {
        self.disk = Some(SmallDisk::mount(&self.brokers[0].data(), size)?);
        Ok(())
    }

    /// The disk that [`Self::mount`] made.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().context("a disk of its own")
    }

    /// The broker that is attacked.
    pub(super) fn server(&mut self) -> &mut ServerProcess {
        &mut self.brokers[self.master]
    }

    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&self.access_points).build()?)
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
        self.broker = self.brokers[self.master].address()?.to_owned();
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
        for (at, broker) in self.brokers.iter().enumerate() {
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
        Ok(ProcessUsage::of(self.brokers[self.master].pid()?)?.resident)
    }

    /// Which brokers do not run any more.
    pub(super) fn dead(&mut self) -> Vec<String> {
        let dead = self.brokers.iter_mut().filter_map(|broker| {
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
        for broker in &mut self.brokers {
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
