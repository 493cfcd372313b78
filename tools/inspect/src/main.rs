//! `kerolox-inspect`: looks into the data folder of a broker without a broker, and without changing it.
//!
//! The only tool that reads the store's files, and so the only one that links RocksDB; `mqadmin` talks to servers.

mod commands;
mod describe;
mod dump;
mod folder;
mod progress;
mod stats;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kerolox_report::output::OutputFormat;

/// Looks into a broker's data folder without a broker, and without changing it
#[derive(Debug, Parser)]
#[command(name = "kerolox-inspect", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: InspectCommand,
}

#[derive(Debug, Subcommand)]
enum InspectCommand {
    #[command(after_help = "Example: kerolox-inspect verify data")]
    Verify(verify::Verify),
    #[command(after_help = "Example: kerolox-inspect dump data --limit 3")]
    Dump(dump::Dump),
    #[command(after_help = "Example: kerolox-inspect stats data")]
    Stats(stats::Stats),
    #[command(after_help = "Example: kerolox-inspect commands")]
    Commands(commands::Commands),
    #[command(after_help = "Example: kerolox-inspect completion bash")]
    Completion(commands::Completion),
}

impl InspectCommand {
    fn format(&self) -> OutputFormat {
        match self {
            Self::Verify(verify) => verify.source.output,
            Self::Dump(dump) => dump.source.output,
            Self::Stats(stats) => stats.source.output,
            Self::Commands(_) | Self::Completion(_) => OutputFormat::Table,
        }
    }
}

fn main() -> ExitCode {
    kerolox_report::logging::init();
    let command = CommandLine::parse().command;
    let format = command.format();
    let result = match command {
        InspectCommand::Verify(verify) => verify.run(),
        InspectCommand::Dump(dump) => dump.run(),
        InspectCommand::Stats(stats) => stats.run(),
        InspectCommand::Commands(commands) => Ok(commands.run()),
        InspectCommand::Completion(completion) => Ok(completion.run()),
    };
    let exit = match result {
        Ok(report) => report.print(format),
        Err(failure) => {
            failure.print(format);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}
