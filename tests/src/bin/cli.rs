//! The test of `mqadmin` as a program; see `kerolox_tests::cli`. `tests/run.sh cli` runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kerolox_harness::built_program;
use kerolox_harness::verdict;
use kerolox_tests::cli::{Options, run};

/// Types every command of mqadmin against a cluster of two broker groups with slaves, and looks at the answers.
#[derive(Parser)]
struct Arguments {
    /// Messages that are exported and imported.
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// What is typed, and what is to be answered.
    #[arg(long, default_value = "tests/cli/transcript.txt")]
    transcript: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = Options {
        messages: arguments.messages,
        transcript: arguments.transcript,
        mqadmin: built_program("mqadmin")?,
    };
    let checks = run(&options).await?;
    let (passed, failed) = verdict::show(checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!("cli: mqadmin: {passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
