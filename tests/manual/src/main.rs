//! The manual in `deploy/manual`: builds it, checks it, and runs the programs in it.
//!
//! `deploy/manual/README.md` has the conventions of its pages. [`book`] reads them with mdBook as a library, [`check`] looks at links and
//! fences, [`blocks`] finds what runs, and [`page_run`] runs it in a [`shell`] of the page's own.

mod addresses;
mod blocks;
mod book;
mod check;
mod expected;
mod links;
mod page_run;
mod shell;
mod stand_ins;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks and runs the manual.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Makes HTML of it.
    Build {
        /// Folder of the HTML, instead of deploy/manual/book.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Checks pages, links, anchors and fences.
    Check,
    /// Runs the blocks of its pages against real servers.
    Run {
        /// Only pages whose path has one of these words.
        pages: Vec<String>,
        /// Pages that run at a time.
        #[arg(long, default_value_t = 4)]
        jobs: usize,
    },
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Task::Build { out } => book::build(out).map(|folder| {
            println!("the manual is in {}", folder.display());
            true
        }),
        Task::Check => checked(),
        Task::Run { pages, jobs } => suite::run(&pages, jobs),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints complaints about the manual; true when there are none.
fn checked() -> Result<bool> {
    let found = check::check()?;
    for complaint in &found.complaints {
        println!("{complaint}");
    }
    println!("check: {} pages, {} links: {} complaints", found.pages, found.links, found.complaints.len());
    Ok(found.complaints.is_empty())
}
