//! What transactions cost: against plain sends in the same run, and what very many undecided ones take: memory, start-up, and how
//! fast they are checked back when all come due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use kerolox_client::admin::wire;
use kerolox_client::{Address, Client, Message, Producer, Resolution};
use kerolox_core::record::RecordKind;
use kerolox_harness::ProcessUsage;
use kerolox_harness::{Cluster, ClusterPlan, ServerProcess};
use kerolox_log::fs::OsFolder;
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use tokio::task::JoinSet;

const PLAIN: &str = "plain";
const PAYMENTS: &str = "payments";
/// Tasks that store the undecided half messages in parallel.
const FILLERS: u64 = 256;
/// Time for which checks are counted.
const PACING: Duration = Duration::from_secs(20);

/// Measures what transactions cost.
#[derive(Parser)]
struct Arguments {
    /// Numbers of parallel producers: one comparison for each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    producers: Vec<u64>,
    /// Seconds for each side of a comparison.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Number of transactions that stay undecided; 0 for none.
    #[arg(long, default_value_t = 1_000_000)]
    undecided: u64,
    /// Seconds from the storing of an undecided one to its first check: longer than it takes to store them all and to start
    /// the broker twice.
    #[arg(long, default_value_t = 240)]
    first_check: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    compare(&arguments).await?;
    if arguments.undecided > 0 {
        undecided(&arguments).await?;
    }
    Ok(())
}

/// A broker with both topics.
struct Broker {
    cluster: Cluster,
}

impl Broker {
    async fn start(first_check: &str) -> Result<Self> {
        let plan = ClusterPlan::standalone("halves").flags(&["--transaction-first-check", first_check]);
        let cluster = plan.start()?;
        for (name, kind) in [(PLAIN, "NORMAL"), (PAYMENTS, "TRANSACTION")] {
            cluster.create_topic(name, kind).await?;
        }
        Ok(Self { cluster })
    }

    fn server(&mut self) -> &mut ServerProcess {
        &mut self.cluster.brokers[0]
    }

    fn address(&self) -> Address {
        self.cluster.broker_address(0)
    }

    fn client(&self) -> Client {
        self.cluster.client()
    }

    async fn undecided(&self) -> Result<u64> {
        let request = wire::DescribeTopicRequest { name: PAYMENTS.to_owned() };
        let answer = self.client().admin().broker(&self.address()).describe_topic(request).await?;
        Ok(answer.undecided_transactions)
    }

    /// A producer that commits every transaction it is asked about, and counts the checks.
    async fn producer(&self, asked: &Arc<AtomicU64>) -> Result<Producer> {
        let asked = Arc::clone(asked);
        let checker = move |_: &_| {
            asked.fetch_add(1, Ordering::Relaxed);
            Resolution::Commit
        };
        let producer = self.client().producer().topic(PLAIN).topic(PAYMENTS);
        Ok(producer.transaction_checker_sync(checker).start().await?)
    }
}

fn message(topic: &str, bytes: usize) -> Message {
    Message::builder(topic).body(vec![b'.'; bytes]).build()
}

/// How long each of many took, in order.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// Milliseconds.
    fn at(&self, part: f64) -> f64 {
        let place = ((self.0.len().saturating_sub(1)) as f64 * part) as usize;
        self.0.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Repeats `work` for a time with several tasks at once; how often it was done in a second, and how long it took.
async fn repeat<F: Future<Output = Result<()>> + Send + 'static>(
    tasks: u64,
    time: Duration,
    work: impl Fn() -> F + Clone + Send + 'static,
) -> Result<(f64, Latencies)> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let work = work.clone();
        running.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < time {
                let began = Instant::now();
                work().await?;
                latencies.push(began.elapsed());
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = running.join_next().await {
        all.extend(done??);
    }
    Ok((all.len() as f64 / started.elapsed().as_secs_f64(), Latencies::of(all)))
}

async fn compare(arguments: &Arguments) -> Result<()> {
    let mut broker = Broker::start("1h").await?;
    let producer = Arc::new(broker.producer(&Arc::default()).await?);
    let (time, bytes) = (Duration::from_secs(arguments.seconds), arguments.bytes);
    for producers in &arguments.producers {
        let plain = producer.clone();
        let two_sends = move || {
            let producer = plain.clone();
            async move {
                producer.send(message(PLAIN, bytes)).await?;
                producer.send(message(PLAIN, bytes)).await?;
                Ok(())
            }
        };
        let both = producer.clone();
        let transaction = move || {
            let producer = both.clone();
            async move {
                let half = producer.send_in_transaction(message(PAYMENTS, bytes)).await?;
                Ok(half.commit().await?)
            }
        };
        let (plain_rate, plain) = repeat(*producers, time, two_sends).await?;
        let (rate, transactions) = repeat(*producers, time, transaction).await?;
        println!(
            "{producers} producers: {rate:.0} transactions/s against {plain_rate:.0} pairs of plain sends/s ({:.2}); p99 {:.2} ms against {:.2} ms ({:.2}), p50 {:.2} ms against {:.2} ms",
            rate / plain_rate,
            transactions.at(0.99),
            plain.at(0.99),
            transactions.at(0.99) / plain.at(0.99),
            transactions.at(0.5),
            plain.at(0.5)
        );
    }
    broker.server().stop()?;
    let written = Written::of(broker.server())?;
    println!(
        "bytes of log, body of {bytes} B: {:.0} for a transaction, {:.0} for a plain message",
        written.transaction, written.plain
    );
    Ok(())
}

/// Bytes of log for one of each kind, on the average.
struct Written {
    plain: f64,
    transaction: f64,
}

impl Written {
    fn of(server: &ServerProcess) -> Result<Self> {
        let folder = OsFolder::create(&server.data().join("log"))?;
        let (mut plain, mut halves, mut decisions) = ((0, 0_u64), (0, 0_u64), (0, 0_u64));
        for finding in LogInspector::open(&folder, InspectMode::Offline)? {
            let LogFinding::Record(frame) = finding? else { continue };
            let sum = if frame.kind == RecordKind::Release as u8 {
                &mut decisions
            } else if frame.kind == RecordKind::Message as u8 {
                let routing = kerolox_core::record::MessageRouting::decode_from(frame.body.clone())?;
                if routing.hold == 0 { &mut plain } else { &mut halves }
            } else {
                continue;
            };
            *sum = (sum.0 + u64::from(frame.len), sum.1 + 1);
        }
        ensure!(plain.1 > 0 && halves.1 > 0, "nothing was written");
        let each = |(bytes, count): (u64, u64)| bytes as f64 / count.max(1) as f64;
        Ok(Self { plain: each(plain), transaction: each(halves) + each(decisions) })
    }
}

async fn undecided(arguments: &Arguments) -> Result<()> {
    let mut broker = Broker::start(&format!("{}s", arguments.first_check)).await?;
    let asked = Arc::new(AtomicU64::new(0));
    let producer = Arc::new(broker.producer(&asked).await?);
    let before = ProcessUsage::of(broker.server().pid()?)?.resident;
    let began = Instant::now();
    fill(&producer, arguments).await?;
    let filled = began.elapsed();
    let first_due = began + Duration::from_secs(arguments.first_check);
    let grown = ProcessUsage::of(broker.server().pid()?)?.resident.saturating_sub(before);
    println!(
        "{} undecided, stored in {:.0} s: the broker grew by {} MiB, {:.1} bytes for each",
        arguments.undecided,
        filled.as_secs_f64(),
        grown >> 20,
        grown as f64 / arguments.undecided as f64
    );
    broker.server().stop()?;
    let clean = broker.server().start()?;
    broker.server().kill()?;
    let killed = broker.server().start()?;
    ensure!(broker.undecided().await? == arguments.undecided, "some are missing after the restarts");
    let resident = ProcessUsage::of(broker.server().pid()?)?.resident;
    println!(
        "start with them: {} ms after a clean stop, {} ms after kill -9; {} MiB resident then",
        clean.as_millis(),
        killed.as_millis(),
        resident >> 20
    );
    ensure!(
        Instant::now() < first_due,
        "the first checks came due before everything was ready; raise --first-check"
    );
    drop(producer);
    let producer = Arc::new(broker.producer(&asked).await?);
    tokio::time::sleep_until((first_due + Duration::from_secs(1)).into()).await;
    let asked_before = asked.load(Ordering::Relaxed);
    let bytes = arguments.bytes;
    let send = move || {
        let producer = producer.clone();
        async move {
            producer.send(message(PLAIN, bytes)).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        }
    };
    let (_, meanwhile) = repeat(1, PACING, send).await?;
    let checks = asked.load(Ordering::Relaxed) - asked_before;
    // Each of them waits for 10 ms as well.
    println!(
        "checks when they come due: {:.0}/s to one producer that commits; plain sends meanwhile: p50 {:.1} ms, p99 {:.1} ms",
        checks as f64 / PACING.as_secs_f64(),
        meanwhile.at(0.5) - 10.0,
        meanwhile.at(0.99) - 10.0
    );
    Ok(())
}

async fn fill(producer: &Arc<Producer>, arguments: &Arguments) -> Result<()> {
    let (count, bytes) = (arguments.undecided, arguments.bytes);
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..FILLERS {
        let (producer, next) = (producer.clone(), next.clone());
        running.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                // It stays undecided.
                drop(producer.send_in_transaction(message(PAYMENTS, bytes)).await?);
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}
