//! Delivery at the rim: the pure engine of `kerolox-core`, its locks, clocks and waiters.
//!
//! [`Deliveries`] is the directory of subscriptions, [`Subscription`] the owner of one, [`ProgressLog`] the road of what
//! consumers did into the commit log, `alarm` what wakes subscriptions when something comes due, `dead` the way of dead
//! letters.

mod alarm;
mod dead;
mod directory;
mod progress;
mod subscription;

pub use directory::{Arrivals, Deliveries};
pub use progress::ProgressLog;
pub use subscription::{Seat, Subscription};
