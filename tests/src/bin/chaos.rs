//! Chaos as a program; see `kerolox_tests::chaos`. `tests/run.sh chaos` runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kerolox_harness::{NetworkVisit, enter_network, verdict};
use kerolox_tests::chaos::{BROKERS, ChaosOptions, ChaosReport, NAMESERVERS, percentile, run};

/// Kills, pauses, cuts and fills the members of a replicated group under clients, and checks what the clients were promised.
#[derive(Parser)]
struct Arguments {
    /// Number of rounds.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Seed of the faults; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults whose name contains one of these, such as "nameserver,kill all"; the figures name them.
    #[arg(long, default_value = "")]
    only: String,
    /// Folder for the logs of the servers, which stay there; by default a temporary one.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// A Python that has the official SDK: a producer of it sends, too.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Run in the network that this process made.
    #[arg(long, hide = true)]
    inside: Option<u32>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let Some(owner) = arguments.inside else { return outside().await };
    let seed = verdict::seed(arguments.seed);
    println!("seed {seed}, {} rounds", arguments.rounds);
    let temporary = tempfile::Builder::new().prefix("kerolox-chaos-").tempdir()?;
    let folder = arguments.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    if arguments.python.is_none() {
        println!("without the official SDK: --python names no Python that has it");
    }
    let Arguments { rounds, only, python, .. } = arguments;
    let report = run(&ChaosOptions { rounds, seed, only, folder, python, owner }).await?;
    let (passed, failed) = verdict::show(report.checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!("{}, seed {seed}: {passed} passed, {failed} failed", figures(&report));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn outside() -> anyhow::Result<ExitCode> {
    Ok(match enter_network(NAMESERVERS, BROKERS).await? {
        NetworkVisit::Ended(status) if status.success() => ExitCode::SUCCESS,
        NetworkVisit::Ended(_) | NetworkVisit::Interrupted => ExitCode::FAILURE,
        NetworkVisit::Impossible(why) => {
            println!("chaos: skipped: {why}");
            ExitCode::SUCCESS
        }
    })
}

fn figures(report: &ChaosReport) -> String {
    let faults: Vec<String> = report.faults.iter().map(|(words, times)| format!("{times} {words}")).collect();
    let millis = |duration: Duration| duration.as_millis();
    format!(
        "chaos: {} rounds, faults: {}; {} failovers, {} acknowledged messages ({} of the official SDK), lost {}, {} received twice, {} stored twice, {} transactions committed, without writes p50 {} ms, max {} ms",
        report.rounds,
        faults.join(", "),
        report.failovers,
        report.acknowledged,
        report.official.unwrap_or_default(),
        report.lost,
        report.duplicates,
        report.stored_twice,
        report.committed,
        millis(percentile(&report.pauses, 50)),
        millis(percentile(&report.pauses, 100)),
    )
}
