//! What a leader does by itself, each task in a file of its own.

pub mod check_back;
mod due;
pub mod early_removal;
pub(crate) mod lite_expiry;
pub mod retention;
pub(crate) mod slot_migration;
pub mod timers;

pub(crate) use due::DueArrivals;
