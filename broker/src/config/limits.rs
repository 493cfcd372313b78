//! Limits for messages.

use kerolox_core::publish::PublishLimits;
use kerolox_model::limits;
use kerolox_runtime::config::{ByteSize, TimeSpan};
use serde::{Deserialize, Serialize};

/// Limits for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Largest message body. C#, Node.js and Rust SDKs cannot receive more than 4 MiB with everything around the body.
    pub max_body_bytes: ByteSize,
    /// Largest sum of property keys and values, tag and keys.
    pub max_properties_bytes: ByteSize,
    /// Maximum number of user properties of a message.
    pub max_properties: usize,
    /// How far ahead a delivery time may lie. Ten years, so that a time in the wrong unit is noticed; RocketMQ allows `24h`. A topic
    /// can have a lower limit (`mqadmin updateTopic -a +limits.max-delay=24h`).
    pub max_delay: TimeSpan,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: ByteSize::from_bytes(limits::BODY_BYTES_MAX as u64),
            max_properties_bytes: ByteSize::from_bytes(limits::PROPERTIES_BYTES_MAX as u64),
            max_properties: limits::USER_PROPERTIES_MAX,
            max_delay: TimeSpan::from_secs(3_650 * 86_400),
        }
    }
}

impl LimitsConfig {
    /// The limits in the core's form.
    pub fn publish_limits(&self) -> PublishLimits {
        PublishLimits {
            body_bytes_max: self.max_body_bytes.as_usize(),
            properties_bytes_max: self.max_properties_bytes.as_usize(),
            properties_max: self.max_properties,
        }
    }
}
