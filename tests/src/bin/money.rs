//! The torture of the example that moves money as a program; see `kerolox_tests::money`. `tests/run.sh money` runs it.

use std::process::ExitCode;

use clap::Parser;
use kerolox_harness::built_program;
use kerolox_harness::verdict;
use kerolox_tests::money::{MoneyOptions, run};

/// Kills the sender, the receiver and the broker of the example `money`, and checks that no cent is lost or created.
#[derive(Parser)]
struct Arguments {
    /// Number of kills at random moments, besides those at each step of a transfer.
    #[arg(long, default_value_t = 12)]
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
    let example = built_program("examples/money")?;
    let report = run(&MoneyOptions { rounds: arguments.rounds, seed, example }).await?;
    let (passed, failed) = verdict::show(report.checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!(
        "money: {} transfers credited, senders killed {} times, receivers {} times, the broker {} times, seed {seed}: {passed} passed, {failed} failed",
        report.credited, report.sender_kills, report.receiver_kills, report.broker_kills,
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
