//! Delivery: who holds which message until when.
//!
//! A [`DeliveryEngine`] is one consumer group on one topic of this broker. It hands messages out, remembers who holds
//! them, takes acknowledgements, keeps the order within message groups where the group asks for it, and collects the
//! progress that must go into the log. It is plain state: callers pass `now_ms` in, and carry out what it returns.
//!
//! | file | what it holds |
//! |---|---|
//! | `engine`, `engine/receiving`, `engine/broken_receives` | one group on one topic: its queues, members and leases |
//! | `queue` | one queue: the decisions that both orders share |
//! | `ledger` | progress, open deliveries and what has to be logged |
//! | `unordered`, `ordered` with `message_groups` | which message is next |
//! | `flight`, `flight_times` | one open delivery, and when it needs attention |
//! | `wake_times` | when each subscription has due work |

mod engine;
mod fate;
mod flight;
mod flight_times;
mod handle;
mod ledger;
mod members;
mod message_groups;
mod ordered;
mod policy;
mod priorities;
mod queue;
mod repeatable;
mod types;
mod unordered;
mod wake_times;

pub use engine::DeliveryEngine;
pub use fate::MessageFate;
pub use flight::{LeaseId, ReceiveId};
pub use handle::{DeliveryHandle, HandleError};
pub use members::{FilterId, MEMBER_FORGOTTEN_MS};
pub use message_groups::OrderingKey;
pub use policy::{DeliveryPolicy, ExhaustedAction};
pub use priorities::PriorityFactor;
pub use types::{
    BacklogCounts, BlockedMessage, DeliveredMessage, ExhaustedMessage, FilterResult, LeaseTerm,
    OrderingKeysWanted, QueuePosition, ReceiveRequest, RetryingMessage,
};
pub use wake_times::{NextWake, WakeTimes};

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod offsets_test;
#[cfg(test)]
mod priorities_test;
#[cfg(test)]
mod tests;
