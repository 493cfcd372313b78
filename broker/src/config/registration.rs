//! Settings of the registration with nameservers.

use kerolox_gateway::routes::{DEFAULT_HEARTBEAT, DEFAULT_LEASE};
use kerolox_runtime::config::TimeSpan;
use serde::{Deserialize, Serialize};

/// Registration with the nameservers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistrationConfig {
    /// How often the broker registers. Keep it well below the nameservers' lease (10 s by default).
    pub heartbeat: TimeSpan,
    /// How long the routes of other brokers are trusted without news of them.
    pub lease: TimeSpan,
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            heartbeat: TimeSpan::from_secs(DEFAULT_HEARTBEAT.as_secs()),
            lease: TimeSpan::from_secs(DEFAULT_LEASE.as_secs()),
        }
    }
}
