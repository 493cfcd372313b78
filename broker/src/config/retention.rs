//! Settings of retention: limits of age and size.

use kerolox_runtime::config::{ByteSize, TimeSpan};
use serde::{Deserialize, Serialize};

/// Limits of age and size. Whole segments are removed, oldest first; their records that are still needed (undecided
/// transactions, messages that wait for their next attempt) are carried forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// Messages are kept this long; when there is no space, sends are refused (RocketMQ's default is 72 h). A topic can have its own
    /// time, shorter or longer (`mqadmin updateTopic -a +retention.time=12h`).
    pub time: TimeSpan,
    /// The log is kept below this size, by removing its oldest segments, read or not; 0 means that only time counts, and free
    /// space with `remove-early`.
    pub log_size: ByteSize,
    /// Below this much free space on the disk, the operator is warned and, with `remove-early`, old segments are removed
    /// early; 0 means two and a half segments.
    pub free_space_low: ByteSize,
    /// Whether old segments are removed early when free space is low, read or not, as in RocketMQ; the losses of groups are in the
    /// log, in `consumerProgress` and in a warning of `check`. Off: no message is removed before its time, and sends are refused
    /// instead.
    pub remove_early: bool,
    /// Below this much free space, sends are refused while everything else continues; 0 means four times
    /// `log.preallocation`. The index needs a part of it.
    pub free_space_min: ByteSize,
    /// Interval of the checks.
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
