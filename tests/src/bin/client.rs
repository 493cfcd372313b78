//! The torture of the Rust client as a program; see `kerolox_tests::client`. `tests/run.sh client` runs it.

use std::process::ExitCode;

use clap::Parser;
use kerolox_harness::verdict;
use kerolox_tests::client::{ClientSuiteOptions, run};

/// Kills, restarts and drains the servers under clients of all kinds, and checks that each keeps what it promises.
#[derive(Parser)]
struct Arguments {
    /// How often each fault comes.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Seed of the random choices; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = verdict::seed(arguments.seed);
    println!("seed {seed}, {} rounds", arguments.rounds);
    let report = run(&ClientSuiteOptions { rounds: arguments.rounds, seed }).await?;
    let (passed, failed) = verdict::show(report.checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!(
        "client: {} messages sent, {} faults, seed {seed}: {passed} passed, {failed} failed",
        report.sent,
        report.faults.values().sum::<u32>(),
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
