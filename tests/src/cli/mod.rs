//! `mqadmin` against a live cluster of two broker groups with slaves: each of its commands, moving 100,000 messages to another
//! cluster with interruptions, each reason of `message why`, the terminal view in a terminal, and the administration that the SDKs'
//! protocol defines. `tests/run.sh cli` runs it.

mod admin;
mod cluster;
mod live;
mod screen;
mod transcript;
mod transfer;
mod why;

use std::path::PathBuf;

use anyhow::Result;
use cluster::CliCluster;

/// The options of a run.
#[derive(Debug, Clone)]
pub struct CliSuiteOptions {
    /// Number of messages to export and import.
    pub messages: usize,
    /// The `mqadmin` program.
    pub mqadmin: PathBuf,
    /// Transcript of commands and their expected answers.
    pub transcript: PathBuf,
}

/// Each check with its outcome in words.
pub type CheckOutcomes = Vec<(&'static str, Result<String, String>)>;

/// Runs all checks.
///
/// # Errors
/// When the cluster does not start.
pub async fn run(options: &CliSuiteOptions) -> Result<CheckOutcomes> {
    let mut cluster = CliCluster::start(options).await?;
    let said = |outcome: Result<String>| outcome.map_err(|error| format!("{error:#}"));
    let mut checks: CheckOutcomes = vec![
        ("each command says how it is used", said(transcript::help(&cluster))),
        ("each command does what it says", said(transcript::play(&mut cluster, options).await)),
        ("the administration of the SDKs' protocol", said(admin::ask(&cluster).await)),
        ("a message shown to a listener", said(live::verify(&cluster).await)),
        ("a topic watched", said(live::tail(&cluster).await)),
        ("a list shown again and again", said(live::repeat(&cluster))),
        ("the terminal view", said(screen::watch(&cluster).await)),
        ("message why", said(why::explain(&cluster).await)),
    ];
    checks.push(("export and import", said(transfer::move_all(&cluster, options).await)));
    Ok(checks)
}
