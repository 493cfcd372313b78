//! The SDKs' protocol and the administration, as this broker serves them.

mod admin;
mod admission;
mod messaging;

pub(crate) use admin::{Admin, Counters, TransactionsService};
pub(crate) use admission::AdmissionGate;
pub(crate) use messaging::{AutoTopics, Context, Messaging, Policy, Turns};
