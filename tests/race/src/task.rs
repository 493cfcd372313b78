//! What a driver is asked to do, and what it answers.
//!
//! A driver is a client process: the program `race` itself with the subcommand `drive`, or a Java program. It has the task as
//! arguments. It prepares, warms up, prints the line `begin`, runs the leg for the window, prints `end`, verifies that what
//! was acknowledged is stored or consumed, prints a [`DriverResult`] as JSON in one line, and ends with code 0. Whatever fails
//! ends it with another code.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::leg::{FlushMode, LegName};

/// Topic of every leg but that of transactions.
pub(crate) const TOPIC: &str = "race";
/// Topic of transactions.
pub(crate) const TRANSACTION_TOPIC: &str = "race-transactions";
/// Group of consumers on the clock.
pub(crate) const GROUP: &str = "racers";
/// Group of consumers that warm up.
pub(crate) const WARM_GROUP: &str = "warmers";

/// A leg for one driver.
#[derive(Debug, Clone, Args)]
pub(crate) struct DriverTask {
    /// The leg
    #[arg(long)]
    pub(crate) leg: LegName,
    /// What acknowledgements wait for
    #[arg(long)]
    pub(crate) flush: FlushMode,
    /// Address of the server
    #[arg(long)]
    pub(crate) address: String,
    /// Seconds on the clock
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Seconds before the clock runs
    #[arg(long)]
    pub(crate) warmup: f64,
    /// Messages that are stored before
    #[arg(long)]
    pub(crate) backlog: u64,
    /// Size of a body in bytes
    #[arg(long)]
    pub(crate) bytes: usize,
    /// Callers at the same time
    #[arg(long)]
    pub(crate) callers: usize,
}

impl DriverTask {
    /// As words of a command line.
    pub(crate) fn words(&self) -> Vec<String> {
        let words: [(&str, &dyn ToString); 8] = [
            ("--leg", &self.leg),
            ("--flush", &self.flush),
            ("--address", &self.address),
            ("--seconds", &self.seconds),
            ("--warmup", &self.warmup),
            ("--backlog", &self.backlog),
            ("--bytes", &self.bytes),
            ("--callers", &self.callers),
        ];
        words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_string()]).collect()
    }

    /// The window.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The time before it.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

/// What a driver saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DriverResult {
    /// Messages in the window.
    pub(crate) messages: u64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Messages that were acknowledged, or that were sent to be consumed, in and outside the window.
    pub(crate) acknowledged: u64,
    /// Messages that the server has, or that a consumer got, in and outside the window; none where the client cannot tell.
    pub(crate) verified: Option<u64>,
    /// Latencies in the window, microseconds.
    pub(crate) p50: f64,
    /// See [`Self::p50`].
    pub(crate) p99: f64,
    /// See [`Self::p50`].
    pub(crate) p999: f64,
}

impl DriverResult {
    /// Refuses a result that is no rate of messages that were kept, where so many are there.
    ///
    /// # Errors
    /// When nothing was done in the window, or acknowledged messages are missing.
    pub(crate) fn verify(&self, there: u64) -> Result<()> {
        ensure!(self.messages > 0, "not one message in {} s", self.seconds);
        ensure!(
            self.acknowledged == there,
            "{} messages were acknowledged, and {there} are there",
            self.acknowledged
        );
        Ok(())
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}
