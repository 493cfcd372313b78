//! Starts a broker and prints what delivery costs it: messages received and acknowledged for each second of processor time,
//! memory of a message in flight, memory and processor time of consumers that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use kerolox_harness::ClusterPlan;
use kerolox_harness::ProcessUsage;
use kerolox_harness::raw_calls::{self, MessagingStub, POLL_MAX, create_topic, message, receive, send, stub};
use tokio::task::JoinSet;

/// Messages of one request when the topic is filled.
const BATCH: u64 = 500;
/// What all pollers have to themselves of a poll: enough to see what they cost, and over before the first one ends.
const QUIET_MIN: Duration = Duration::from_secs(4);
/// Pollers of one connection; a broker takes up to 10,000 streams on each.
const POLLERS_PER_CONNECTION: u64 = 5_000;

/// Measures receive and acknowledge, messages in flight, and waiting consumers.
#[derive(Parser)]
struct Arguments {
    /// Messages that are received.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Receives under way at the same time.
    #[arg(long, default_value_t = 16)]
    consumers: u64,
    /// Consumers that wait at the same time: one figure for each number.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    pollers: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut cluster = ClusterPlan::standalone("delivery").start()?;
    let server = &mut cluster.brokers[0];
    let broker = Broker { pid: server.pid()?, address: server.address()?.to_owned() };
    for topic in ["busy", "idle"] {
        create_topic(&broker.address, topic, "NORMAL").await?;
    }
    fill(&broker, arguments.messages, arguments.bytes).await?;
    received_and_acknowledged(&broker, &arguments).await?;
    in_flight(&broker, &arguments).await?;
    for pollers in &arguments.pollers {
        waiting(&broker, *pollers).await?;
    }
    server.stop()
}

struct Broker {
    pid: u32,
    address: String,
}

impl Broker {
    async fn stub(&self) -> Result<MessagingStub> {
        stub(&self.address).await
    }

    fn usage(&self) -> Result<ProcessUsage> {
        ProcessUsage::of(self.pid)
    }
}

async fn fill(broker: &Broker, messages: u64, bytes: usize) -> Result<()> {
    let mut stub = broker.stub().await?;
    for begin in (0..messages).step_by(usize::try_from(BATCH)?) {
        let batch = (begin..messages.min(begin + BATCH)).map(|number| message("busy", number, bytes));
        send(&mut stub, batch.collect()).await?;
    }
    Ok(())
}

async fn received_and_acknowledged(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let before = broker.usage()?;
    let started = Instant::now();
    consume(broker, arguments, "acknowledging", true).await?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), broker.usage()?.cpu - before.cpu);
    println!(
        "received and acknowledged: {:.0} messages/s, {:.0} for each second of the broker's processor time ({} messages of {} B, {} consumers)",
        arguments.messages as f64 / seconds,
        arguments.messages as f64 / cpu.as_secs_f64(),
        arguments.messages,
        arguments.bytes,
        arguments.consumers,
    );
    Ok(())
}

async fn in_flight(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let before = broker.usage()?.resident;
    consume(broker, arguments, "holding", false).await?;
    let grown = broker.usage()?.resident.saturating_sub(before);
    println!(
        "in flight: {:.0} B of memory for each of {} messages",
        grown as f64 / arguments.messages as f64,
        arguments.messages
    );
    Ok(())
}

/// Receives all messages of the topic, once; acknowledges them if wanted.
async fn consume(
    broker: &Broker,
    arguments: &Arguments,
    group: &'static str,
    acknowledge: bool,
) -> Result<()> {
    let left = Arc::new(AtomicU64::new(arguments.messages));
    let mut consumers = JoinSet::new();
    for _ in 0..arguments.consumers {
        let (mut stub, left) = (broker.stub().await?, Arc::clone(&left));
        consumers.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let entries = receive(&mut stub, "busy", group, Duration::from_millis(100)).await?;
                left.fetch_sub(u64::try_from(entries.len())?, Ordering::Relaxed);
                if acknowledge && !entries.is_empty() {
                    raw_calls::acknowledge(&mut stub, "busy", group, entries).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = consumers.join_next().await {
        done??;
    }
    Ok(())
}

/// What consumers cost that wait for messages: after all have begun to wait, and before the first poll ends.
async fn waiting(broker: &Broker, pollers: u64) -> Result<()> {
    let before = broker.usage()?;
    let ended = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut polls = JoinSet::new();
    let mut stub = broker.stub().await?;
    for poller in 0..pollers {
        if poller % POLLERS_PER_CONNECTION == 0 {
            stub = broker.stub().await?;
        }
        let (mut stub, ended) = (stub.clone(), Arc::clone(&ended));
        polls.spawn(async move {
            let entries = receive(&mut stub, "idle", "waiting", POLL_MAX).await;
            ended.fetch_add(1, Ordering::Relaxed);
            entries.map(|entries| entries.len())
        });
    }
    let begun = settled(broker).await?;
    let end = started + POLL_MAX - Duration::from_secs(1);
    let window = end.saturating_duration_since(Instant::now());
    ensure!(window >= QUIET_MIN, "{pollers} polls took {:?} to begin; try fewer", started.elapsed());
    tokio::time::sleep(window).await;
    let after = broker.usage()?;
    ensure!(ended.load(Ordering::Relaxed) == 0, "polls ended before their time");
    println!(
        "waiting: {pollers} consumers use {:.2} % of a core and {:.0} B of memory each; to begin and end a poll takes {:.0} us of processor time",
        (after.cpu - begun.cpu).as_secs_f64() / window.as_secs_f64() * 100.0,
        after.resident.saturating_sub(before.resident) as f64 / pollers as f64,
        cost_of_a_poll(broker, &mut polls, before, begun, pollers).await?,
    );
    Ok(())
}

/// What the broker uses when it has nothing to do any more.
async fn settled(broker: &Broker) -> Result<ProcessUsage> {
    let mut usage = broker.usage()?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = broker.usage()?;
        if next.cpu - usage.cpu < Duration::from_millis(50) {
            return Ok(next);
        }
        usage = next;
    }
}

/// Waits until all polls are over; microseconds that one took, from its request to its answer, without the wait.
async fn cost_of_a_poll(
    broker: &Broker,
    polls: &mut JoinSet<Result<usize>>,
    before: ProcessUsage,
    begun: ProcessUsage,
    pollers: u64,
) -> Result<f64> {
    let waited = broker.usage()?;
    while let Some(poll) = polls.join_next().await {
        ensure!(poll?? == 0, "there is nothing to receive");
    }
    let used = (begun.cpu - before.cpu) + (broker.usage()?.cpu - waited.cpu);
    Ok(used.as_secs_f64() * 1e6 / pollers as f64)
}
