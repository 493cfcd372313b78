//! `bench`: measures the storage engine and prints tables.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use kerolox_bench::child::ChildTask;
use kerolox_bench::groups;
use kerolox_bench::machine::MachineFacts;
use kerolox_bench::report::{BenchReport, FigureGroup};
use kerolox_bench::settings::{BenchSettings, GroupName};

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
    /// Messages of the group `startup`.
    #[arg(long)]
    records: Option<u64>,
    /// Instead of the groups: that many small messages, and whether the last are as fast as the first.
    #[arg(long, value_name = "MESSAGES")]
    big: Option<u64>,
    #[command(subcommand)]
    task: Option<ChildTask>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.task {
        Some(task) => task.run().map(|()| true),
        None => run(&arguments),
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

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let settings = BenchSettings {
        folder: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
        quick: arguments.quick,
        batch: arguments.batch.max(1),
        body: arguments.body,
        queues: arguments.queues.max(1),
        keys: arguments.keys,
        seconds: arguments.seconds,
        records: arguments.records,
    };
    let machine = MachineFacts::look(&settings.folder);
    println!("{}", machine.describe());
    let mut report = BenchReport {
        machine,
        arguments: std::env::args().skip(1).collect(),
        judged: !settings.quick,
        groups: Vec::new(),
    };
    if let Some(messages) = arguments.big {
        measure(&mut report, || groups::big::run(&settings, messages))?;
    } else {
        let only = if arguments.only.is_empty() { GroupName::value_variants() } else { &arguments.only };
        for name in only {
            measure(&mut report, || match name {
                GroupName::Append => groups::append::run(&settings),
                GroupName::Commit => groups::commit::run(&settings),
                GroupName::Queues => groups::indexed::queues(&settings),
                GroupName::Indexed => groups::indexed::sustained(&settings),
                GroupName::Read => groups::read::run(&settings),
                GroupName::Dedup => groups::dedup::run(&settings),
                GroupName::Find => groups::find::run(&settings),
                GroupName::Startup => groups::startup::run(&settings),
            })?;
        }
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

fn measure(
    report: &mut BenchReport,
    group: impl FnOnce() -> anyhow::Result<FigureGroup>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut group = group()?;
    group.seconds = begin.elapsed().as_secs_f64();
    report.take(group);
    Ok(())
}
