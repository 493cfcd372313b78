//! Delivery: who holds which message until when.
//!
//! A [`Subscription`] is one consumer group on one topic of this broker. It hands messages out, remembers who holds
//! them, takes acknowledgements, and collects the progress that must go into the log. It is plain state: callers pass
//! `now_ms` in, and carry out what it returns.

mod cursor;
mod subscription;

pub use subscription::{HandleError, Held, Lease, Picked, Subscription};

#[cfg(test)]
mod model_test;
