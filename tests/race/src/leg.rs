//! Legs of the race: what the clients do, alike for all systems.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Queues or partitions of the raced topic, on all systems.
pub(crate) const QUEUES: u32 = 4;
/// Messages of an explicit batch.
pub(crate) const BATCH: usize = 100;
/// Messages a second of the leg [`LegName::EndToEnd`].
pub(crate) const PACE: u32 = 1000;
/// Messages of a backlog for each second of a leg that acknowledges them: more than any system gets through.
const RECEIVED_A_SECOND: f64 = 250_000.0;
/// Messages of a backlog that is read again and again, for each second of the leg.
const READ_A_SECOND: f64 = 100_000.0;

/// One leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LegName {
    /// Single sends of 100 B: 64 callers, each waits for its answer
    Single,
    /// Batches of 100 messages of 10 B, 16 at a time
    Batch10,
    /// Batches of 100 messages of 100 B, 16 at a time
    Batch100,
    /// Batches of 100 messages of 1 KiB, 16 at a time
    Batch1k,
    /// One caller hands over messages of 100 B, and the client makes batches
    Auto,
    /// Reads a backlog of 100 B messages by offset, again and again
    Read,
    /// Receives a backlog of 100 B messages and acknowledges each
    Receive,
    /// Transactions of one message of 100 B, 16 callers
    Transactions,
    /// 1,000 messages a second of 100 B from a producer to a consumer that listens
    EndToEnd,
}

impl LegName {
    /// Size of a body in bytes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Batch10 => 10,
            Self::Batch1k => 1024,
            _ => 100,
        }
    }

    /// Callers at the same time.
    pub(crate) fn callers(self) -> usize {
        match self {
            Self::Single => 64,
            Self::Auto | Self::EndToEnd => 1,
            Self::Read => QUEUES as usize,
            _ => 16,
        }
    }

    /// Messages that are stored before the clock runs, for a window of so many seconds.
    pub(crate) fn backlog(self, seconds: f64) -> u64 {
        let messages = match self {
            Self::Read => READ_A_SECOND * seconds,
            Self::Receive => RECEIVED_A_SECOND * seconds,
            _ => 0.0,
        };
        // In whole batches.
        (messages as u64).next_multiple_of(BATCH as u64)
    }

    /// Whether the consumer's part is measured.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::Receive)
    }

    /// What it is, for people.
    pub(crate) fn about(self) -> String {
        let value = self.to_possible_value().expect("no leg is skipped");
        value.get_help().map(ToString::to_string).unwrap_or_default()
    }
}

impl fmt::Display for LegName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no leg is skipped").get_name())
    }
}

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FlushMode {
    /// The page cache has the message
    Async,
    /// The disk has the message (fsync)
    Sync,
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Self::Sync { "sync" } else { "async" })
    }
}
