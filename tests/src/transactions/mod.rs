//! The torture of transactions: producers that commit, that roll back and that never decide, all of them processes that are
//! killed at random moments, and so is the broker. Afterwards every transaction must have ended as intended: the committed
//! ones are delivered, the rolled back ones are not, and those that no checker can decide are parked; nothing else.

mod producer;
mod verify;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kerolox_client::Client;
use kerolox_client::admin::wire::CountTransactionsRequest;

use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{Cluster, ClusterPlan, MessageLedger, SeededRandom, SentMessage};
use producer::intent;
pub use producer::{ProducerKind, produce};

const TOPIC: &str = "transactions";
const GROUP: &str = "transactions-readers";
/// Stored half messages that every round must see before its kill, and how long it may take to see them.
const PROGRESS: usize = 40;
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// The kill comes within this time after the progress.
const KILL_WITHIN: Duration = Duration::from_millis(300);
/// The time limit for check-backs to settle the remaining transactions.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Often enough that kills in between do not use the checks up.
const CHECKS: (&str, u32) = ("500ms", 12);

/// The options of a run.
#[derive(Debug, Clone)]
pub struct TransactionSuiteOptions {
    /// Number of kills.
    pub rounds: u32,
    /// Repeats the random choices of a run; the moments themselves depend on the machine.
    pub seed: u64,
    /// The program that runs a producer when it is called with `--producer KIND --address A --name N`.
    pub producer: PathBuf,
}

/// The report of a run.
#[derive(Debug)]
pub struct TransactionSuiteReport {
    /// Half messages that the broker acknowledged.
    pub stored: usize,
    /// Kills of the broker.
    pub broker_kills: u32,
    /// Kills of producers.
    pub producer_kills: u32,
    /// Each check with its outcome in words.
    pub checks: Vec<CheckedProperty>,
}

/// The producers at work, by number.
struct Producers<'a> {
    program: &'a Path,
    address: String,
    ledger: MessageLedger,
    started: usize,
    running: BTreeMap<usize, (ProducerKind, Child)>,
}

impl Producers<'_> {
    /// Starts a producer process, and notes its reports.
    fn start(&mut self, kind: ProducerKind) -> Result<()> {
        self.started += 1;
        let mut child = Command::new(self.program)
            .args(["--producer", kind.word(), "--address", &self.address])
            .args(["--name", &self.started.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let said = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let ledger = self.ledger.clone();
        std::thread::spawn(move || {
            for label in said.lines().map_while(std::io::Result::ok) {
                let stored = SentMessage::acknowledged(TOPIC, intent(&label));
                ledger.note_sent(&label, stored);
            }
        });
        self.running.insert(self.started, (kind, child));
        Ok(())
    }

    /// Kills a producer, and starts another one of its kind.
    fn replace(&mut self, random: &mut SeededRandom) -> Result<()> {
        let numbers: Vec<usize> = self.running.keys().copied().collect();
        let chosen = numbers[usize::try_from(random.below(numbers.len() as u64))?];
        let (kind, mut child) = self.running.remove(&chosen).context("it runs")?;
        child.kill().and_then(|()| child.wait())?;
        self.start(kind)
    }

    fn stop_all(&mut self) -> Result<()> {
        for (_, mut child) in std::mem::take(&mut self.running).into_values() {
            child.kill().and_then(|()| child.wait())?;
        }
        Ok(())
    }
}

impl Drop for Producers<'_> {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = self.stop_all();
    }
}

/// Runs the torture and checks the result.
///
/// # Errors
/// When the test itself cannot go on: the broker does not start again, or takes no half messages after a restart.
pub async fn run(options: &TransactionSuiteOptions) -> Result<TransactionSuiteReport> {
    let mut random = SeededRandom::new(options.seed);
    let mut cluster = ClusterPlan::standalone("transactions").checks(CHECKS.0, CHECKS.1).start()?;
    create_topic(&cluster).await?;
    let address = cluster.access_points();
    let broker = &mut cluster.brokers[0];

    let ledger = MessageLedger::default();
    let mut producers = Producers {
        program: &options.producer,
        address: address.clone(),
        ledger: ledger.clone(),
        started: 0,
        running: BTreeMap::new(),
    };
    for kind in ProducerKind::ALL.into_iter().chain(ProducerKind::ALL) {
        producers.start(kind)?;
    }
    let mut report =
        TransactionSuiteReport { stored: 0, broker_kills: 0, producer_kills: 0, checks: Vec::new() };
    for round in 1..=options.rounds {
        ledger
            .wait_for_more(PROGRESS, PROGRESS_LIMIT, broker)
            .await
            .with_context(|| format!("round {round}"))?;
        std::thread::sleep(random.duration(KILL_WITHIN));
        let victim = if random.below(2) == 0 {
            broker.kill()?;
            broker.start().with_context(|| format!("round {round}"))?;
            report.broker_kills += 1;
            "the broker"
        } else {
            producers.replace(&mut random)?;
            report.producer_kills += 1;
            "a producer"
        };
        println!("round {round}: {victim} was killed, {} half messages stored so far", ledger.acknowledged());
    }
    ledger.wait_for_more(PROGRESS, PROGRESS_LIMIT, broker).await.context("after the last round")?;
    // Producers that start now store nothing: they only answer check-backs for all the others.
    producers.stop_all()?;
    producers.start(ProducerKind::Silent)?;
    wait_until_settled(&address).await?;
    report.stored = ledger.acknowledged();
    report.checks = verify::verify(ledger.history(), &address).await?;
    Ok(report)
}

async fn create_topic(cluster: &Cluster) -> Result<()> {
    cluster.create_topic(TOPIC, "TRANSACTION").await?;
    cluster.create_group(GROUP).await
}

/// Waits until every transaction is decided or parked.
pub(crate) async fn wait_until_settled(address: &str) -> Result<()> {
    let client = Client::builder(address).build()?;
    let admin = client.admin().broker(&address.parse()?);
    let started = Instant::now();
    loop {
        let counts = admin.count_transactions(CountTransactionsRequest::default()).await?;
        let prepared: u64 = counts.topics.iter().map(|topic| topic.prepared).sum();
        if prepared == 0 {
            return Ok(());
        }
        if started.elapsed() > SETTLE_LIMIT {
            bail!("{prepared} transactions are still checked back after {SETTLE_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
