//! Background tasks of a leader, each in its own file.

pub mod check_back;
mod due;
pub mod early_removal;
pub(crate) mod lite_expiry;
pub mod retention;
pub(crate) mod slot_migration;
pub mod timers;

pub(crate) use due::DueArrivals;
