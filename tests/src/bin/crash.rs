//! The `kill -9` loop as a program, with or without power cuts; see `kerolox_tests::crash`. `tests/run.sh crash` runs it, and
//! `tests/powercut/real.sh` with a disk.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kerolox_harness::built_program;
use kerolox_harness::verdict;
use kerolox_tests::crash::{CrashOptions, MountedDisk, run};

/// Kills a broker again and again under writing clients and checks that nothing acknowledged is lost.
#[derive(Parser)]
struct Arguments {
    /// Number of kills.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Seed of the random choices; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The broker program; by default the one that was built beside this one.
    #[arg(long)]
    broker: Option<PathBuf>,
    /// Image of an ext4 file system whose power is cut after each kill; it holds the broker's data.
    #[arg(long, requires = "mounted_at")]
    disk: Option<PathBuf>,
    /// Where the image is mounted.
    #[arg(long, requires = "disk")]
    mounted_at: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = verdict::seed(arguments.seed);
    let broker = arguments.broker.map_or_else(|| built_program("broker"), Ok)?;
    println!("seed {seed}, {} rounds", arguments.rounds);
    let disk =
        arguments.disk.zip(arguments.mounted_at).map(|(image, mounted_at)| MountedDisk { image, mounted_at });
    let (suite, what) = if disk.is_some() { ("powercut", "real power cuts") } else { ("crash", "rounds") };
    let report = run(&CrashOptions { rounds: arguments.rounds, seed, broker, disk }).await?;

    let (passed, failed) = verdict::show(report.checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!(
        "{suite}: {} {what}, {} acknowledged messages, {} restarts, slowest start {} ms, seed {seed}: {passed} passed, {failed} failed",
        arguments.rounds,
        report.acknowledged,
        report.restarts,
        report.slowest_start.as_millis(),
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
