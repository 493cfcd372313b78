//! Settings of half messages and their check-back.

use std::path::PathBuf;

use kerolox_core::transaction::CheckPolicy;
use kerolox_runtime::config::{TimeSpan, comma_list};
use serde::{Deserialize, Deserializer, Serialize};

use crate::tasks::check_back::WebhookHost;

/// When and how often undecided transactions are checked back; defaults as in RocketMQ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TransactionConfig {
    /// Time from storing a half message to its first check, unless the message asks for more.
    pub first_check: TimeSpan,
    /// Time between checks.
    pub check_interval: TimeSpan,
    /// Checks that reach a producer before the half message is parked until an administrator settles it.
    pub check_max: u32,
    /// Age at which an undecided half message is parked, however few checks reached a producer.
    pub max_age: TimeSpan,
    /// File with the key for signing requests to webhooks; without it `webhook-secret` in the data folder, which the
    /// broker creates.
    pub webhook_secret_file: Option<PathBuf>,
    /// How long a webhook may take to answer.
    pub webhook_timeout: TimeSpan,
    /// Hosts that webhooks may be on, since any client that may create a topic can name one: `public` (all addresses of
    /// the Internet), addresses, networks as in 10.1.0.0/16, and host names. An empty list allows none.
    #[serde(deserialize_with = "webhook_hosts")]
    pub webhook_allow: Vec<WebhookHost>,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            first_check: TimeSpan::from_secs(6),
            check_interval: TimeSpan::from_secs(30),
            check_max: 15,
            max_age: TimeSpan::from_secs(3 * 86_400),
            webhook_secret_file: None,
            webhook_timeout: TimeSpan::from_secs(5),
            webhook_allow: vec![WebhookHost::Public],
        }
    }
}

/// Allowed webhook hosts, as a list, or as one text with commas between the entries.
fn webhook_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WebhookHost>, D::Error> {
    let entries = comma_list(deserializer)?;
    entries.iter().map(|entry| entry.parse().map_err(serde::de::Error::custom)).collect()
}

impl TransactionConfig {
    /// Limits of check-backs in the core's form.
    pub fn check_policy(&self) -> CheckPolicy {
        CheckPolicy {
            first_ms: self.first_check.as_millis(),
            interval_ms: self.check_interval.as_millis(),
            max: self.check_max,
            age_max_ms: self.max_age.as_millis(),
        }
    }
}
