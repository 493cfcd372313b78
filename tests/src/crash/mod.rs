//! The `kill -9` loop: a standalone broker is killed at random moments while clients write, and started again on the
//! same data. Afterwards every acknowledged message must be there, none twice, and no queue offset used twice.
//!
//! With a [`MountedDisk`] the power of the broker's file system is cut after each kill as well. The kill comes first, because a
//! sync that is under way when the file system stops may still report success: the machine would be gone by then.

mod disk;
mod verify;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use disk::Cut;
pub use disk::MountedDisk;
use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{Cluster, ClusterPlan, MessageLedger, SeededRandom};
use writers::Writers;

const TOPIC: &str = "crash";
const TX_TOPIC: &str = "crash-transactions";
const GROUP: &str = "crash-readers";
const QUEUES: u32 = 4;
/// Acknowledgements that every round must see before its kill, and how long it may take to see them.
const PROGRESS: usize = 50;
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);
/// The kill comes within this time after the progress.
const KILL_WITHIN: Duration = Duration::from_millis(500);
/// Some restarts are killed within this time of their start.
const EARLY_KILL_WITHIN: Duration = Duration::from_millis(150);
/// Segments on a disk whose power is cut: small, so that cuts meet the change from one to the next.
const DISK_SEGMENT: &str = "4MiB";

/// The options of a run.
#[derive(Debug, Clone)]
pub struct CrashOptions {
    /// Number of kills.
    pub rounds: u32,
    /// Repeats the random choices of a run; the moments themselves depend on the machine.
    pub seed: u64,
    /// The broker program.
    pub broker: PathBuf,
    /// The file system for the broker's data whose power is to be cut; without one, only the process is killed.
    pub disk: Option<MountedDisk>,
}

/// The report of a run.
#[derive(Debug)]
pub struct CrashReport {
    /// Messages that the broker acknowledged as stored.
    pub acknowledged: usize,
    /// Starts of the broker after the first one.
    pub restarts: u32,
    /// Longest time from the start of the process until it served.
    pub slowest_start: Duration,
    /// Each check with its outcome in words.
    pub checks: Vec<CheckedProperty>,
}

/// Runs the loop and checks the result.
///
/// # Errors
/// When the test itself cannot go on: the broker does not start again, or takes no writes after a restart.
pub async fn run(options: &CrashOptions) -> Result<CrashReport> {
    let mut random = SeededRandom::new(options.seed);
    // No check-backs are sent: transactions that the writers leave undecided must stay invisible.
    let plan = ClusterPlan::standalone("crash").flags(&["--transaction-first-check", "1h"]);
    let mut plan = plan.broker_program(&options.broker).queues(QUEUES);
    if let Some(disk) = &options.disk {
        plan = plan.segments_of(DISK_SEGMENT).data_at(&disk.mounted_at);
    }
    let mut cluster = plan.start()?;
    create_topics(&cluster).await?;
    let address = cluster.access_points();

    let broker = &mut cluster.brokers[0];
    let ledger = MessageLedger::default();
    let writers = Writers::start(&address, &ledger, &mut random).await?;
    let mut report =
        CrashReport { acknowledged: 0, restarts: 0, slowest_start: Duration::ZERO, checks: Vec::new() };
    for round in 1..=options.rounds {
        ledger
            .wait_for_more(PROGRESS, PROGRESS_LIMIT, broker)
            .await
            .with_context(|| format!("round {round}"))?;
        tokio::time::sleep(random.duration(KILL_WITHIN)).await;
        broker.kill()?;
        let cut = cut_power(options, &mut random)?;
        if random.below(4) == 0 {
            broker.start_and_kill(random.duration(EARLY_KILL_WITHIN))?;
            cut_power(options, &mut random)?;
            report.restarts += 1;
        }
        let took = broker.start().with_context(|| format!("round {round}"))?;
        report.restarts += 1;
        report.slowest_start = report.slowest_start.max(took);
        let cut = cut.map_or_else(String::new, |cut| format!("power cut ({cut:?}), "));
        println!(
            "round {round}: {cut}{} acknowledged so far, serving again after {} ms",
            ledger.acknowledged(),
            took.as_millis()
        );
    }
    ledger.wait_for_more(PROGRESS, PROGRESS_LIMIT, broker).await.context("after the last round")?;
    writers.stop().await;
    report.acknowledged = ledger.acknowledged();
    report.checks = verify::verify(&ledger, &address, broker).await?;
    Ok(report)
}

fn cut_power(options: &CrashOptions, random: &mut SeededRandom) -> Result<Option<Cut>> {
    let Some(disk) = &options.disk else { return Ok(None) };
    let cut = Cut::choose(random);
    disk.cut(cut)?;
    Ok(Some(cut))
}

async fn create_topics(cluster: &Cluster) -> Result<()> {
    cluster.create_topic(TOPIC, "NORMAL").await?;
    cluster.create_topic(TX_TOPIC, "TRANSACTION").await?;
    cluster.create_group(GROUP).await
}
