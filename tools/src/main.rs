//! `mqadmin`: administration of Kerolox with the command names and flags of RocketMQ's tool of the same name.
//!
//! Differences that scripts can rely on: exit codes tell what happened (see [`ExitStatus`]), `--output json` works
//! everywhere, and names of commands match without regard to case.

mod catalog;
mod cli;
mod command;
mod context;
mod foreign;
mod legacy;
mod target;

use kerolox_report::outcome::ExitStatus;
use kerolox_report::output;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut started = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    for note in &started.notes {
        output::print_error(note);
    }
    loop {
        let exit = match started.running.await {
            Ok(report) => report.print(started.format),
            Err(failure) => {
                failure.print(started.format);
                failure.exit
            }
        };
        let Some(again) = &started.again else { return ExitCode::from(exit as u8) };
        tokio::time::sleep(again.pause).await;
        started = again.start().unwrap_or_else(|error| error.exit());
    }
}

const _: () = assert!(ExitStatus::Unreachable as u8 == 6, "exit codes are an interface");
