//! `mqadmin`: administration of Kerolox with the command names and flags of RocketMQ's tool of the same name.
//!
//! Differences that scripts can rely on: exit codes tell what happened (see [`outcome::Exit`]), `--output json` works
//! everywhere, and names of commands match without regard to case.

mod cli;
mod command;
mod outcome;
mod output;
mod target;

use clap::Parser;
use outcome::Exit;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let cli = cli::Cli::parse_from(cli::with_known_spelling(std::env::args_os()));
    let format = cli.command.format();
    let exit = match cli.command.run().await {
        Ok(report) => report.print(format),
        Err(failure) => {
            failure.print(format);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

const _: () = assert!(Exit::Unreachable as u8 == 6, "exit codes are an interface");
