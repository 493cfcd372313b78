//! Settings of retention: how long and how much is kept.

use kerolox_runtime::config::{ByteSize, TimeSpan};
use serde::{Deserialize, Serialize};

/// How long and how much is kept. Whole segments go, oldest first; what is still needed of them (undecided
/// transactions, messages that wait for their next attempt) is carried forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// Messages are kept this long; when there is no room, sends are refused (RocketMQ's default is 72 h). A topic can have its own time,
    /// shorter or longer (`mqadmin updateTopic -a +retention.time=12h`).
    pub time: TimeSpan,
    /// The log is kept below this size, by removing its oldest segments, read or not; 0 means that only time counts, and free
    /// space with `remove-early`.
    pub log_size: ByteSize,
    /// Below this much free space on the disk, the operator is warned and, with `remove-early`, old segments go early; 0 means
    /// two and a half segments.
    pub free_space_low: ByteSize,
    /// Whether old segments go early when free space is low, read or not, as in RocketMQ; what groups lose by that is in the log, in
    /// `consumerProgress` and a warning of `check`. Off: nothing goes before its time, and sends are refused instead.
    pub remove_early: bool,
    /// Below this much free space, sends are refused while everything else goes on; 0 means four times `log.preallocation`.
    /// The index needs some of it.
    pub free_space_min: ByteSize,
    /// How often to look.
    pub check_interval: TimeSpan,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            time: TimeSpan::from_secs(72 * 3600),
            log_size: ByteSize::from_bytes(0),
            free_space_low: ByteSize::from_bytes(0),
            remove_early: false,
            free_space_min: ByteSize::from_bytes(0),
            check_interval: TimeSpan::from_secs(5),
        }
    }
}
