//! Settings of lite topics.

use kerolox_runtime::config::TimeSpan;
use serde::{Deserialize, Serialize};

/// Lite topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LiteConfig {
    /// Maximum number of lite topics below one topic. Each takes some 150 bytes of memory.
    pub max_topics: u64,
    /// Maximum number of subscriptions to lite topics, of all clients together (RocketMQ's default).
    pub max_subscriptions: usize,
    /// Interval between searches for expired lite topics.
    pub check_interval: TimeSpan,
}

impl Default for LiteConfig {
    fn default() -> Self {
        Self { max_topics: 2_000_000, max_subscriptions: 100_000, check_interval: TimeSpan::from_secs(120) }
    }
}
