//! The server's decisions about its clients' settings.

use std::sync::Arc;
use std::time::Duration;

use kerolox_model::backoff::{BACKOFF_STEPS_MAX, Backoff};
use kerolox_proto::v2;

use crate::refusal::Refusal;
use crate::routes::ClusterRoutes;

/// These delays, or the closest to them, as an exponential strategy of the protocol.
pub(super) fn to_exponential(backoff: &Backoff, attempts: u32) -> v2::ExponentialBackoff {
    let (initial, max, multiplier) = match backoff {
        Backoff::Exponential { initial, max, multiplier } => (*initial, *max, *multiplier),
        Backoff::Listed(_) => (backoff.delay(1), backoff.delay(attempts), 2.0),
    };
    v2::ExponentialBackoff {
        initial: Some(to_proto(initial)),
        max: Some(to_proto(max.max(initial))),
        multiplier,
    }
}

/// The delays of the first `attempts` attempts as a list of the protocol.
pub(super) fn to_customized(backoff: &Backoff, attempts: u32) -> v2::CustomizedBackoff {
    // No SDK needs more steps than this, and a group may allow thousands of attempts.
    let steps_max = u32::try_from(BACKOFF_STEPS_MAX).expect("small");
    let steps = 1..=attempts.clamp(1, steps_max);
    v2::CustomizedBackoff { next: steps.map(|attempt| to_proto(backoff.delay(attempt))).collect() }
}

/// The settings for a consumer group's members.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPolicy {
    /// Deliveries of a message before it is a dead letter, the first one included.
    pub max_attempts: u32,
    /// Whether messages of one message group are delivered in order.
    pub fifo: bool,
    /// Delays between attempts, if the group sets them; see [`Backoff::by_default`].
    pub backoff: Option<Backoff>,
    /// To how many lite topics one client may subscribe.
    pub lite_quota: usize,
}

/// To how many lite topics one client subscribes unless its group says otherwise (RocketMQ's default).
const LITE_QUOTA_DEFAULT: usize = 2_000;

impl Default for GroupPolicy {
    /// RocketMQ's defaults for a group without settings: 16 retries, not ordered.
    fn default() -> Self {
        Self { max_attempts: 17, fifo: false, backoff: None, lite_quota: LITE_QUOTA_DEFAULT }
    }
}

/// The server's part of the settings; a broker answers out of its configuration and its groups.
pub trait SettingsPolicy: Send + Sync {
    /// Largest message body that is accepted, in bytes.
    fn max_body_bytes(&self) -> usize;

    /// The policy of a consumer group (stored name, namespace included); `None` when this server does not know the group.
    fn group(&self, stored_group: &str) -> Option<GroupPolicy>;

    /// Checks a subscription's filter.
    ///
    /// # Errors
    /// ILLEGAL_FILTER_EXPRESSION when it cannot be used.
    fn check_filter(&self, filter: &v2::FilterExpression) -> Result<(), Refusal> {
        let _ = filter;
        Ok(())
    }
}

/// The policy of a server that knows groups from what brokers register.
#[derive(Debug, Clone)]
pub struct RegisteredPolicy {
    /// What brokers registered.
    pub routes: Arc<ClusterRoutes>,
    /// Largest message body that is accepted, in bytes.
    pub max_body_bytes: usize,
}

impl SettingsPolicy for RegisteredPolicy {
    fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    fn group(&self, stored_group: &str) -> Option<GroupPolicy> {
        let group = self.routes.consumer_group(stored_group)?;
        Some(GroupPolicy {
            max_attempts: group.max_attempts,
            fifo: group.fifo,
            // What this version cannot read is told by the broker itself.
            backoff: group.backoff.parse().ok(),
            lite_quota: match group.lite_quota {
                0 => LITE_QUOTA_DEFAULT,
                quota => quota as usize,
            },
        })
    }
}

pub(super) fn to_proto(duration: Duration) -> prost_types::Duration {
    // Centuries do not occur, and the protocol could not carry them.
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}
