//! Real servers for test suites that are not written in Rust: the program `with_cluster` runs such a suite as a command.
//!
//! The command finds in `KEROLOX_HARNESS` an address (`HOST:PORT`) that answers one line per connection with a line of JSON:
//!
//! ```text
//! cluster [NAME=VALUE]    starts a nameserver and a broker, which gets these environment variables:
//!                         {"id": 0, "nameserver": ADDRESS, "broker": ADDRESS}. With KEROLOX_SDK_GROUPS there are so many
//!                         brokers, each a group of its own
//! standalone              a broker that is its own nameserver, and makes no topics by itself; "nameserver" is null
//! group MEMBERS           a nameserver and one broker group of so many members, all of them in sync, whose first check-back
//!                         leaves time for an election
//! add-group ID GROUP      starts a broker that is a group of its own, and has its name: see server
//! server ID SERVER        tells of the server of that name, which is nameserver, broker, broker-2 and so on for its other
//!                         members, broker-b and so on for other groups; "master" is the broker that rules the first group:
//!                         {"server": NAME, "address": ADDRESS, "pid": PROCESS}, with null for a process that does not run
//! kill ID SERVER          kill -9, and tells the same
//! stop ID SERVER          stops it cleanly
//! start ID SERVER         starts it again on the same port and data
//! in-sync ID              answers when a master rules and all running members are in sync: {}
//! restart-in-turn ID      stops and starts the members one after the other, each when all are in sync: {}
//! logs                    {"logs": [TEXT]}, for each cluster that was not closed the ends of its servers' logs
//! close ID                ends a cluster and removes its data: {}
//! ```
//!
//! and `{"error": TEXT}` for what fails. When the command ends, so do all servers; if it failed, the ends of their logs are shown.

mod clusters;
mod request;
mod suite_command;

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use clusters::StartedClusters;
use request::ClusterRequest;
use suite_command::SuiteCommand;

/// Exit codes of a program that a signal ended, as shells have them.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Runs a command with servers on request, and returns its exit code. `groups` is how many broker groups a cluster has that
/// does not say how many it needs.
///
/// # Errors
/// When the command cannot be started, or the listener for its requests fails.
pub async fn run(command: &[String], groups: u8) -> Result<u8> {
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening for requests")?;
    let clusters = Arc::new(StartedClusters::new(groups));
    let mut command = SuiteCommand::start(command, listener.local_addr()?)?;
    let code = tokio::select! {
        code = command.wait() => code?,
        failed = serve(&listener, &clusters) => match failed? {},
        _ = interrupted.recv() => return Ok(INTERRUPTED),
        _ = terminated.recv() => return Ok(TERMINATED),
    };
    if code != 0 {
        clusters.log_tails().await.iter().for_each(|tails| println!("{tails}"));
    }
    Ok(code)
}

/// Answers requests until it is dropped, which ends those that are under way.
async fn serve(listener: &TcpListener, clusters: &Arc<StartedClusters>) -> Result<Infallible> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.context("accepting a request")?;
        let clusters = Arc::clone(clusters);
        connections.spawn(async move {
            // A suite that went away needs no answer.
            let _ = answer(stream, &clusters).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one request; whatever fails, the suite hears of it.
async fn answer(mut stream: TcpStream, clusters: &StartedClusters) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    let answer =
        answer_to(&line, clusters).await.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}

async fn answer_to(line: &str, clusters: &StartedClusters) -> Result<Value> {
    clusters.answer(ClusterRequest::parse(line)?).await
}
