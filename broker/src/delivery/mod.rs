//! Delivery around the pure engine of `kerolox-core`: its locks, clocks and waiters.
//!
//! [`DeliveryDirectory`] is the directory of subscriptions, [`TopicSubscription`] the owner of one, [`ProgressLog`] the path of
//! consumers' progress into the commit log, `alarm` wakes subscriptions with due work, `dead` stores dead letters. [`LiteDirectory`]
//! knows which clients subscribe to which lite topics, each of which has its own subscription while it is active (`lites`). Readers
//! without a subscription wait with [`WatchedQueue`].

mod acknowledged;
mod alarm;
mod broadcast_members;
mod dead;
mod directory;
mod lite_subscriptions;
mod lites;
mod offsets;
mod progress;
mod subscription;
mod watch;

pub use acknowledged::{AckJournal, AcknowledgedMessages, MessagePlace};
pub use broadcast_members::BroadcastMembers;
pub use directory::{AutoGroups, DeliveryDirectory, QueueArrivals};
pub use lite_subscriptions::{LiteDirectory, LiteInbox};
pub(crate) use offsets::cursors;
pub use progress::ProgressLog;
pub use subscription::{TopicSubscription, WaiterRegistration};
pub use watch::WatchedQueue;
