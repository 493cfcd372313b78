//! Settings of the commit log.

use kerolox_core::flush::FlushRequirement;
use kerolox_runtime::config::{ByteSize, TimeSpan, one_of};
use serde::{Deserialize, Deserializer, Serialize};

/// The commit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogConfig {
    /// Size of a segment file.
    pub segment_size: ByteSize,
    /// Space on the disk is reserved ahead of the log's end in steps of this size. A part of it, 8 MiB at the most, is
    /// left for acknowledgements and decisions when the disk is full.
    pub preallocation: ByteSize,
    /// Bytes that may wait for the disk before senders are told to slow down.
    pub max_waiting_bytes: ByteSize,
    /// What an acknowledgement waits for: the disk, or the system's page cache. A topic can have its own setting
    /// (`mqadmin updateTopic -a +flush=async`).
    pub flush: FlushMode,
    /// With `async`: how long a record may stay without a sync, and so the time span that a power cut may take.
    pub flush_interval: TimeSpan,
    /// The newest messages are kept in memory, up to this size, and read from there.
    pub tail_size: ByteSize,
}

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushMode {
    /// The disk.
    Sync,
    /// The page cache.
    Async,
}

impl<'de> Deserialize<'de> for FlushMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("sync", Self::Sync), ("async", Self::Async)])
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_size: ByteSize::from_bytes(1 << 30),
            preallocation: ByteSize::from_bytes(32 << 20),
            max_waiting_bytes: ByteSize::from_bytes(256 << 20),
            flush: FlushMode::Sync,
            flush_interval: TimeSpan::from_millis(200),
            tail_size: ByteSize::from_bytes(32 << 20),
        }
    }
}

impl LogConfig {
    /// The flush mode in the core's form.
    pub fn flush(&self) -> FlushRequirement {
        match self.flush {
            FlushMode::Sync => FlushRequirement::Sync,
            FlushMode::Async => FlushRequirement::Async,
        }
    }
}
