//! Attacks on a broker in a small container; see `kerolox_tests::hostile`. `tests/run.sh hostile` runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kerolox_harness::built_program;
use kerolox_tests::hostile::{HostileOptions, impossible, run};

/// Attacks a broker with 256 MiB and 1,024 open files in all kinds of ways, beside a quiet client.
#[derive(Parser)]
struct Arguments {
    /// Attacks last 20 s instead of 6 s.
    #[arg(long)]
    long: bool,
    /// Only attacks whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// The broker program; by default the one that was built beside this one.
    #[arg(long)]
    broker: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = HostileOptions {
        broker: arguments.broker.map_or_else(|| built_program("broker"), Ok)?,
        attack: Duration::from_secs(if arguments.long { 20 } else { 6 }),
        only: arguments.only,
    };
    if let Some(why) = impossible(&options) {
        println!("hostile: skipped: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let report = run(&options).await?;
    let failed = report.checks.iter().filter(|(_, outcome)| outcome.is_err()).count();
    println!(
        "hostile: {} messages acknowledged, p99 of a quiet client at most {:.1} times, memory at most {} MiB: {} passed, {failed} failed",
        report.acknowledged,
        report.worst_ratio,
        report.peak >> 20,
        report.checks.len() - failed,
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
