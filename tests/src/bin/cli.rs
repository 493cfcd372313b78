//! The test of `mqadmin` as a program; see `kerolox_tests::cli`. `tests/run.sh cli` runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kerolox_harness::built_program;
use kerolox_harness::verdict;
use kerolox_tests::cli::{CliSuiteOptions, run};

/// Runs every command of mqadmin against a cluster of two broker groups with slaves, and checks the answers.
#[derive(Parser)]
struct Arguments {
    /// Number of messages to export and import.
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// Transcript of commands and their expected answers.
    #[arg(long, default_value = "tests/cli/transcript.txt")]
    transcript: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = CliSuiteOptions {
        messages: arguments.messages,
        transcript: arguments.transcript,
        mqadmin: built_program("mqadmin")?,
    };
    let checks = run(&options).await?;
    let (passed, failed) = verdict::show(checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!("cli: mqadmin: {passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
