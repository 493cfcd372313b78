//! `race`: Kerolox against other message brokers. `tests/run.sh race` installs these and runs it.
//!
//! A [`Lane`](lane::Lane) is a server with the best client for it; a [`LegName`] is what the client does. Each
//! [`turn`] starts a server in an empty folder, has a driver process do the leg, and looks what the server used for it; no other server
//! runs meanwhile. Turns are kept in a [`RaceReport`], of which the [`page`] of the manual is made.

mod drive;
mod lane;
mod leg;
mod page;
mod race;
mod report;
mod servers;
mod task;
mod turn;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::lane::PeerName;
use crate::leg::{FlushMode, LegName};
use crate::report::RaceReport;
use crate::task::DriverTask;

/// Races Kerolox against other message brokers, one server at a time.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Only against these, separated by commas
    #[arg(long = "peer", value_name = "PEER", value_delimiter = ',')]
    peers: Vec<PeerName>,
    /// Without peers: the Rust client of Kerolox alone
    #[arg(long, conflicts_with = "peers")]
    alone: bool,
    /// Only these legs, separated by commas
    #[arg(long = "leg", value_name = "LEG", value_delimiter = ',')]
    legs: Vec<LegName>,
    /// Only with acknowledgements that wait for this
    #[arg(long)]
    flush: Option<FlushMode>,
    /// Turns of each leg and lane
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Seconds of a turn on the clock
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Seconds of a turn before the clock runs
    #[arg(long, default_value_t = 10.0)]
    warmup: f64,
    /// Messages that are stored before they are read or received; by default as many as the seconds need
    #[arg(long, value_name = "MESSAGES")]
    backlog: Option<u64>,
    /// Folder for the servers' data; by default that for temporary files
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// File for the results
    #[arg(long, value_name = "FILE", env = "KEROLOX_RACE_JSON", default_value = "race.json")]
    json: PathBuf,
    #[command(subcommand)]
    command: Option<RaceCommand>,
}

#[derive(Debug, Subcommand)]
enum RaceCommand {
    /// Makes the manual's page of a race that was run
    Page {
        /// Results of the race, JSON
        file: PathBuf,
        /// The page
        #[arg(long, value_name = "FILE", default_value = "deploy/manual/src/reference/race.md")]
        to: PathBuf,
    },
    /// Is the client of a turn
    #[command(hide = true)]
    Drive(DriverTask),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(RaceCommand::Page { file, to }) => write_page(file, to).map(|()| true),
        Some(RaceCommand::Drive(task)) => drive::drive(task).map(|()| true),
        None => race::run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_page(file: &Path, to: &Path) -> Result<()> {
    let page = page::page(&RaceReport::load(file)?);
    fs::write(to, page).with_context(|| format!("writing {}", to.display()))
}
