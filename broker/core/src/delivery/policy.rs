//! What a consumer group's configuration asks of the delivery engine.

use super::priorities::PriorityFactor;

/// What happens to a message whose last attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExhaustedAction {
    /// It goes to the group's dead-letter topic, and what is behind it goes on.
    #[default]
    DeadLetter,
    /// It stays, and with it the rest of its message group, until an administrator lets it go on.
    Block,
}

/// Rules of one subscription; may change while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// Whether messages of one message group are delivered in order.
    pub ordered: bool,
    /// Deliveries that a message gets in all, at least 1.
    pub max_attempts: u32,
    /// What happens after the last of them.
    pub exhausted: ExhaustedAction,
    /// Messages that may be out with consumers or wait for another attempt before no further ones are handed out.
    pub in_flight_max: usize,
    /// Ordered delivery only: messages of one queue that are known to wait behind others of their message group before
    /// nothing further behind them is looked at. It bounds memory.
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
