//! Delivery around the pure engine of `kerolox-core`: its locks, clocks and waiters.
//!
//! [`DeliveryDirectory`] is the directory of subscriptions, [`TopicSubscription`] the owner of one, [`ProgressLog`] the road of what
//! consumers did into the commit log, [`QueueArrivals`] the road of what the store tells to subscriptions, `alarm` what wakes them when
//! something comes due, `dead` the way of dead letters. [`LiteDirectory`] knows which clients subscribe to which lite topics, each of
//! which has a subscription of its own while it is at work (`lites`). Who reads without a subscription waits with [`WatchedQueue`].

mod acknowledged;
mod alarm;
mod arrivals;
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
pub use arrivals::QueueArrivals;
pub use broadcast_members::BroadcastMembers;
pub use directory::{AutoGroups, DeliveryDirectory};
pub use lite_subscriptions::{LiteDirectory, LiteInbox};
pub(crate) use offsets::cursors;
pub use progress::ProgressLog;
pub use subscription::{TopicSubscription, WaiterRegistration};
pub use watch::WatchedQueue;
