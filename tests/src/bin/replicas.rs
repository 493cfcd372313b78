//! What slaves cost: messages a second that are acknowledged with no, one and two slaves in sync, and bytes between the members for
//! each byte of the log.
//!
//! All processes share one machine, so more members also means less processor time for each; the ratios say more than the
//! rates. Slaves reach the master through a relay in this program, which counts.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kerolox_client::admin::controller::connection;
use kerolox_client::admin::wire::DescribeReplicationRequest;
use kerolox_harness::raw_calls::{create_topic, message, send, stub};
use kerolox_harness::{Cluster, ClusterPlan};
use kerolox_proto::kerolox::DescribeReplicationResponse;
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a group may take until all members are in sync.
const PATIENCE: Duration = Duration::from_secs(30);
/// Members of the groups that are compared.
const MEMBERS: [usize; 3] = [1, 2, 3];

/// Measures groups of one, two and three members in turn, several times.
#[derive(Parser)]
struct Arguments {
    /// How often each group is measured; the best counts, since other work on the machine only takes away.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Messages that are sent, each time.
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// Messages of one request.
    #[arg(long, default_value_t = 64)]
    batch: u64,
    /// Requests under way at the same time.
    #[arg(long, default_value_t = 16)]
    concurrent: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
}

/// Bytes that went through a relay.
#[derive(Default)]
struct Counted {
    to_master: AtomicU64,
    from_master: AtomicU64,
}

/// What one group did.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    /// Bytes from and to the master, for each slave and byte of the log.
    from_master: f64,
    to_master: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut best: Vec<Option<Figures>> = vec![None; MEMBERS.len()];
    for _ in 0..arguments.rounds {
        for (members, best) in MEMBERS.into_iter().zip(&mut best) {
            let figures = measure(members, &arguments).await?;
            if best.is_none_or(|best| best.rate < figures.rate) {
                *best = Some(figures);
            }
        }
    }
    let alone = best[0].context("no round was measured")?.rate;
    for (members, figures) in MEMBERS.into_iter().zip(best.into_iter().flatten()) {
        println!(
            "{} slaves in sync: {:.0} messages/s acknowledged ({} B, {} requests of {} under way), {:.2} of none; \
             for each slave and byte stored {:.3} bytes from the master and {:.3} to it",
            members - 1,
            figures.rate,
            arguments.bytes,
            arguments.concurrent,
            arguments.batch,
            figures.rate / alone,
            figures.from_master,
            figures.to_master,
        );
    }
    Ok(())
}

async fn measure(members: usize, arguments: &Arguments) -> Result<Figures> {
    let mut cluster = ClusterPlan::new("replicas").start()?;
    let counted = Arc::new(Counted::default());
    for number in 1..=members {
        start_member(number, &mut cluster, &counted).await?;
    }
    let address = cluster.brokers[0].address()?.to_owned();
    let began = Instant::now();
    while describe(&address).await?.slaves.iter().filter(|slave| slave.in_sync).count() + 1 < members {
        ensure!(began.elapsed() < PATIENCE, "{members} members are not in sync after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    create_topic(&address, "measured", "NORMAL").await?;
    fill(&address, arguments, arguments.messages / 10).await?;

    let counts = || {
        (counted.from_master.load(Ordering::Relaxed) as f64, counted.to_master.load(Ordering::Relaxed) as f64)
    };
    let (log_before, before) = (describe(&address).await?.end, counts());
    let started = Instant::now();
    fill(&address, arguments, arguments.messages).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (log, after) = ((describe(&address).await?.end - log_before) as f64, counts());
    let slaves = members.saturating_sub(1).max(1) as f64;
    for broker in cluster.brokers.iter_mut().rev() {
        broker.kill()?;
    }
    Ok(Figures {
        rate: arguments.messages as f64 / seconds,
        from_master: (after.0 - before.0) / log / slaves,
        to_master: (after.1 - before.1) / log / slaves,
    })
}

async fn start_member(number: usize, cluster: &mut Cluster, counted: &Arc<Counted>) -> Result<()> {
    // Free a moment ago; the relay has to be known before the broker listens.
    let address = StdListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let relay = relay(address.clone(), Arc::clone(counted)).await?;
    let member = cluster.new_member(&format!("member-{number}"), "measured")?;
    let mut member = member.listen(&address).env("KEROLOX_BROKER__REPLICATION__ADVERTISE", &relay);
    member.start()?;
    cluster.brokers.push(member);
    Ok(())
}

async fn describe(address: &str) -> Result<DescribeReplicationResponse> {
    let mut client = ReplicationClient::new(connection(address)?);
    Ok(client.describe_replication(DescribeReplicationRequest {}).await?.into_inner())
}

async fn fill(address: &str, arguments: &Arguments, messages: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..arguments.concurrent {
        let (next, mut stub) = (Arc::clone(&next), stub(address).await?);
        let (batch, bytes) = (arguments.batch, arguments.bytes);
        senders.spawn(async move {
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= messages {
                    return Ok::<_, anyhow::Error>(());
                }
                let numbers = first..(first + batch).min(messages);
                send(&mut stub, numbers.map(|number| message("measured", number, bytes)).collect()).await?;
            }
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    Ok(())
}

/// Passes connections on to `target`, and counts; returns its address.
async fn relay(target: String, counted: Arc<Counted>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((slave, _)) = listener.accept().await {
            let Ok(master) = TcpStream::connect(&target).await else { continue };
            let (from_slave, to_slave) = slave.into_split();
            let (from_master, to_master) = master.into_split();
            let (one, other) = (Arc::clone(&counted), Arc::clone(&counted));
            tokio::spawn(async move {
                pump(from_slave, to_master, |n| one.to_master.fetch_add(n, Ordering::Relaxed)).await
            });
            tokio::spawn(async move {
                pump(from_master, to_slave, |n| other.from_master.fetch_add(n, Ordering::Relaxed)).await
            });
        }
    });
    Ok(address)
}

/// Copies until either side is gone.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    count: impl Fn(u64) -> u64,
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        count(n as u64);
    }
}
