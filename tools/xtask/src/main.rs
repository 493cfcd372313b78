//! Checks of the repository, for a developer and for the gate:
//!
//! - `cargo xtask verify` reads only, and takes minutes;
//! - `cargo xtask verify-all` runs every test and the quickstart as well;
//! - `cargo xtask english [FILE…]` finds phrases that CONTRIBUTING.md replaces;
//! - `cargo xtask evidence` writes the evidence page of the manual from the records of test runs.

mod english;
mod evidence;
mod record;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks of the Kerolox repository", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every check that reads only: format, lints, unit tests, documentation, licences, spelling, language
    Verify {
        /// Only these steps, by name
        #[arg(long, value_name = "STEP", value_delimiter = ',')]
        only: Vec<String>,
        /// Without these steps
        #[arg(long, value_name = "STEP", value_delimiter = ',')]
        skip: Vec<String>,
    },
    /// Runs `verify`, then all suites of tests/run.sh and the quickstart
    VerifyAll,
    /// Finds phrases that CONTRIBUTING.md replaces by plainer ones
    English {
        /// Files to read instead of all that Git tracks
        files: Vec<PathBuf>,
    },
    /// Writes the evidence page of the manual from the records of test runs
    Evidence,
    /// Keeps the outcome of a suite for the evidence page; tests/run.sh calls it
    #[command(hide = true)]
    Record(record::EndedSuite),
}

fn main() -> ExitCode {
    let root = repository();
    let result = match Arguments::parse().command {
        Command::Verify { only, skip } => steps::verify(root, &only, &skip),
        Command::VerifyAll => steps::verify_all(root),
        Command::English { files } => english::check(root, &files),
        Command::Evidence => evidence::write(root),
        Command::Record(ended) => record::record(root, &ended),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the checkout.
fn repository() -> &'static Path {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    tools.and_then(Path::parent).expect("this crate lies in tools/xtask")
}
