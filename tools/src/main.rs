//! `mqadmin`: administration of Kerolox with the command names and flags of RocketMQ's tool of the same name.
//!
//! Differences that scripts can rely on: exit codes tell what happened (see [`ExitStatus`]), `--output json` works
//! everywhere, and names of commands match without regard to case.
//!
//! # Administer
//!
//! `mqadmin` talks to services of `kerolox.v1`: Registry and Controller of a nameserver, BrokerAdmin, Transactions
//! and Replication of a broker, and Server (`gateway/src/inspect.rs`, `runtime/src/inspect.rs`), which every
//! process has: what it is, its settings with secrets masked, its figures and threads, its clients, and questions
//! to them over their telemetry stream. A call of `kerolox.v1` that fails ends with a gRPC status; its details
//! (`proto/kerolox/v1/errors.proto`) tell a service's refusal from trouble on the way: `RpcError` of
//! `proto/src/errors.rs` at both ends. The administration of
//! the SDKs' protocol, `apache.rocketmq.v2.Admin` (`gateway/src/admin/`), is answered everywhere as well: it asks
//! the other servers through the routes, as `mqadmin` would. A command is a struct of flags and a `run` that makes
//! a `CommandReport`; how that is printed and how the process ends is in one place (`tools/report/src/output.rs`,
//! `outcome.rs`). RocketMQ's commands that have no meaning here say what to use (`foreign.rs`).

mod catalog;
mod cli;
mod command;
mod context;
mod foreign;
mod legacy;
mod target;

use kerolox_report::logging;
use kerolox_report::outcome::ExitStatus;
use kerolox_report::output;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    logging::init();
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
