//! Settings of topics.

use kerolox_runtime::config::one_of;
use serde::{Deserialize, Deserializer, Serialize};

/// Topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TopicsConfig {
    /// Queues of a new topic that does not say.
    pub default_queues: u32,
    /// Whether a topic comes into being with the first message that is sent to it, with `default-queues` queues and for
    /// messages of that type. Parents of lite topics never do.
    pub auto_create: AutoCreate,
    /// No topic comes into being by itself on a broker that has so many.
    pub auto_create_max: usize,
    /// How many one client may have made by itself.
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

/// Whether topics come into being with their first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoCreate {
    /// They do.
    On,
    /// They are made by administrators.
    Off,
    /// They do on a broker that is its own nameserver.
    Standalone,
}

impl<'de> Deserialize<'de> for AutoCreate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("on", Self::On), ("off", Self::Off), ("standalone", Self::Standalone)])
    }
}
