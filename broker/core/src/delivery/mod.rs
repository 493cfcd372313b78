//! Delivery: who holds which message until when.
//!
//! A [`Subscription`] is one consumer group on one topic of this broker. It hands messages out, remembers who holds
//! them, takes acknowledgements, keeps the order within message groups where the group asks for it, and collects the
//! progress that must go into the log. It is plain state: callers pass `now_ms` in, and carry out what it returns.

mod batches;
mod cursor;
mod fate;
mod handle;
mod lanes;
mod members;
mod policy;
mod priorities;
mod requests;
mod subscription;
mod times;

pub use cursor::Counts;
pub use fate::Fate;
pub use handle::{HandleError, Lease};
pub use lanes::Lane;
pub use members::{FilterId, MEMBER_FORGOTTEN_MS};
pub use policy::{Exhausted, Policy};
pub use priorities::PriorityFactor;
pub use requests::{Ask, Blocked, Dead, Held, LanesWanted, Picked, Retrying, Standing, Verdict};
pub use subscription::Subscription;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod offsets_test;
#[cfg(test)]
mod priorities_test;
#[cfg(test)]
mod tests;
