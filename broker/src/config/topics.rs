//! Settings of topics.

use kerolox_runtime::config::one_of;
use serde::{Deserialize, Deserializer, Serialize};

/// Topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TopicsConfig {
    /// Number of queues of a new topic, unless specified.
    pub default_queues: u32,
    /// Whether a topic is created with the first message sent to it, with `default-queues` queues and for messages of
    /// that type. Parents of lite topics never are.
    pub auto_create: AutoCreate,
    /// Number of topics on the broker at which automatic creation stops.
    pub auto_create_max: usize,
    /// Maximum number of topics that one client may create automatically.
    pub auto_create_max_per_client: usize,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            default_queues: 8,
            auto_create: AutoCreate::Standalone,
            auto_create_max: 1_000,
            auto_create_max_per_client: 100,
        }
    }
}

/// Whether topics are created with their first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoCreate {
    /// They are.
    On,
    /// Only administrators create topics.
    Off,
    /// They are on a broker that is its own nameserver.
    Standalone,
}

impl<'de> Deserialize<'de> for AutoCreate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("on", Self::On), ("off", Self::Off), ("standalone", Self::Standalone)])
    }
}
