//! The SDKs' protocol and the administration, as this broker serves them.

mod admin;
mod admission;
mod messaging;

pub(crate) use admin::{Admin, Counters, DeskServer};
pub(crate) use admission::Door;
pub(crate) use messaging::{AutoTopics, Context, Messaging, Policy, Turns};
