//! What the Rust client promises while brokers die, restart, drain and fail over: no send fails, nothing that was sent is lost or
//! stored twice, order holds, transactions end as they should, nothing hangs, and memory does not grow.

mod cluster;
mod consumers;
mod examples;
mod ledger;
mod producers;
mod verify;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use cluster::{Fault, FaultyCluster};
use consumers::Consumers;
use kerolox_harness::ProcessUsage;
use kerolox_harness::SeededRandom;
use kerolox_harness::verdict::CheckedProperty;
use ledger::ClientLedger;
use producers::Producers;

/// Takes each message once: `dedup=id`.
const UNIQUE: &str = "unique";
/// Takes message groups.
const ORDERED: &str = "ordered";
/// Takes half messages.
const TRANSACTIONS: &str = "transactions";

/// How long everything may take to calm down: longer than a failover, a retry of a message, and an invisible duration.
const CALM: Duration = Duration::from_secs(60);
/// Before the first fault, between two of them, and after the last.
const QUIET: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Debug, Clone)]
pub struct ClientSuiteOptions {
    /// How often each fault comes.
    pub rounds: u32,
    /// Repeats the order of the faults; the moments depend on the machine.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub struct ClientSuiteReport {
    /// Messages that were sent and acknowledged.
    pub sent: usize,
    /// How often each fault came.
    pub faults: BTreeMap<&'static str, u32>,
    /// Each check with its outcome in words.
    pub checks: Vec<CheckedProperty>,
}

/// Runs clients through all faults and checks what they learnt.
///
/// # Errors
/// When the test itself cannot go on: a server does not start, or the group does not get in sync again.
pub async fn run(options: &ClientSuiteOptions) -> Result<ClientSuiteReport> {
    let examples = examples::run().await.map(|count| format!("{count} of them"));
    let mut cluster = FaultyCluster::start().await?;
    let client = cluster.client();
    let ledger = ClientLedger::default();
    let consumers = Consumers::start(&client, &ledger).await.context("starting the consumers")?;
    let mut producers = Producers::start(&client, &ledger).await.context("starting the producers")?;
    tokio::time::sleep(QUIET).await;
    let before = ProcessUsage::of(std::process::id())?;

    let mut random = SeededRandom::new(options.seed);
    let mut faults = BTreeMap::new();
    for _ in 0..options.rounds {
        for fault in shuffled(&mut random) {
            println!("        {} ({} messages so far)", fault.name(), ledger.sent());
            cluster.inflict(fault, &mut random).await.with_context(|| fault.name())?;
            *faults.entry(fault.name()).or_default() += 1;
            tokio::time::sleep(QUIET).await;
        }
    }
    let stopped = producers.stop().await;
    consumers.wait_for_all(&ledger).await;
    let after = ProcessUsage::of(std::process::id())?;
    let left = consumers.stop().await;
    let mut checks = verify::checks(&ledger);
    checks.push(("every example works", examples.map_err(|error| format!("{error:#}"))));
    checks.push(("nothing hangs", verify::hangs(stopped, left)));
    checks.push(("memory is bounded", verify::memory(&before, &after)));
    Ok(ClientSuiteReport { sent: ledger.sent(), faults, checks })
}

fn shuffled(random: &mut SeededRandom) -> Vec<Fault> {
    let mut rest = Fault::ALL.to_vec();
    let mut order = Vec::new();
    while !rest.is_empty() {
        let at = usize::try_from(random.below(rest.len() as u64)).expect("it is below a length");
        order.push(rest.swap_remove(at));
    }
    order
}

/// Whether `check` holds within [`CALM`].
async fn eventually(mut check: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !check() {
        if started.elapsed() > CALM {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
