//! `bench`: measures the storage engine and prints tables.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kerolox_bench::groups;
use kerolox_bench::machine::Machine;
use kerolox_bench::report::Report;
use kerolox_bench::settings::{GroupName, Settings};

/// Measures the storage engine against what this machine's disk and processor can do.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<GroupName>,
    /// Some seconds per group; nothing is judged.
    #[arg(long)]
    quick: bool,
    /// Writes all figures and facts about the machine to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for the data; by default that for temporary files.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Messages per batch.
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Bytes of a message body, where a group does not try several.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Queues of the group `indexed`.
    #[arg(long, default_value_t = 64)]
    queues: u32,
    /// Messages of the group `indexed` have a key each.
    #[arg(long)]
    keys: bool,
    /// Seconds of the group `indexed`.
    #[arg(long)]
    seconds: Option<f64>,
}

const ALL: [GroupName; 4] = [GroupName::Append, GroupName::Commit, GroupName::Queues, GroupName::Indexed];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let settings = Settings {
        folder: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
        quick: arguments.quick,
        batch: arguments.batch.max(1),
        body: arguments.body,
        queues: arguments.queues.max(1),
        keys: arguments.keys,
        seconds: arguments.seconds,
    };
    let machine = Machine::look(&settings.folder);
    println!("{}", machine.describe());
    let mut report = Report {
        machine,
        arguments: std::env::args().skip(1).collect(),
        judged: !settings.quick,
        groups: Vec::new(),
    };
    for name in if arguments.only.is_empty() { &ALL[..] } else { &arguments.only } {
        let begin = Instant::now();
        let mut group = match name {
            GroupName::Append => groups::append::run(&settings)?,
            GroupName::Commit => groups::commit::run(&settings)?,
            GroupName::Queues => groups::indexed::queues(&settings)?,
            GroupName::Indexed => groups::indexed::sustained(&settings)?,
        };
        group.seconds = begin.elapsed().as_secs_f64();
        report.take(group);
    }
    if let Some(path) = &arguments.json {
        report.save(path)?;
    }
    let figures: usize = report.groups.iter().map(|group| group.figures.len()).sum();
    let (met, missed) = report.aims();
    println!(
        "\nbench: {figures} figures in {} groups, {:.0} s: {met} aims met, {missed} missed",
        report.groups.len(),
        begin.elapsed().as_secs_f64()
    );
    Ok(missed == 0)
}
