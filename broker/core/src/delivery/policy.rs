//! Delivery rules that follow from a consumer group's configuration.

use super::priorities::PriorityFactor;

/// What happens to a message whose last attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExhaustedAction {
    /// The message goes to the group's dead-letter topic, and the messages behind it proceed.
    #[default]
    DeadLetter,
    /// The message stays and blocks the rest of its message group until an administrator resumes it.
    Block,
}

/// Rules of one subscription; may change while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// Whether messages of one message group are delivered in order.
    pub ordered: bool,
    /// Total deliveries of a message, at least 1.
    pub max_attempts: u32,
    /// What happens after the last delivery.
    pub exhausted: ExhaustedAction,
    /// Messages that may be in flight or wait for another attempt before no further ones are handed out.
    pub in_flight_max: usize,
    /// Ordered delivery only: messages of one queue that may wait behind others of their message group before the
    /// engine stops looking further. It bounds memory.
    pub lookahead_max: usize,
    /// On topics whose queues are priorities: how strictly they count.
    pub priorities: Option<PriorityFactor>,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            ordered: false,
            max_attempts: 17,
            exhausted: ExhaustedAction::DeadLetter,
            in_flight_max: 100_000,
            lookahead_max: 100_000,
            priorities: None,
        }
    }
}
