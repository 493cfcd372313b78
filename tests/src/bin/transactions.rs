//! The torture of transactions as a program; see `kerolox_tests::transactions`. `tests/run.sh transactions` runs it. With
//! `--producer` it is one of the producers.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use kerolox_harness::verdict;
use kerolox_tests::transactions::{ProducerKind, TransactionSuiteOptions, produce, run};

/// Kills a broker and producers again and again and checks that every transaction ends as it should.
#[derive(Parser)]
struct Arguments {
    /// Number of kills.
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Seed of the random choices; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Be a producer of this kind, until it is killed.
    #[arg(long, hide = true, requires_all = ["address", "name"])]
    producer: Option<String>,
    #[arg(long, hide = true)]
    address: Option<String>,
    #[arg(long, hide = true)]
    name: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let (Some(kind), Some(address), Some(name)) =
        (&arguments.producer, &arguments.address, &arguments.name)
    {
        let kind = ProducerKind::named(kind).with_context(|| format!("{kind:?} is no kind of producer"))?;
        produce(kind, address, name).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let seed = verdict::seed(arguments.seed);
    println!("seed {seed}, {} rounds", arguments.rounds);
    let producer = std::env::current_exe()?;
    let report = run(&TransactionSuiteOptions { rounds: arguments.rounds, seed, producer }).await?;
    let (passed, failed) = verdict::show(report.checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!(
        "transactions: {} half messages, the broker killed {} times, producers {} times, seed {seed}: {passed} passed, {failed} failed",
        report.stored, report.broker_kills, report.producer_kills,
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
