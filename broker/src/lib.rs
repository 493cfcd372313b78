//! One member of a broker group.
//!
//! The road of a message by file: `service/send.rs` (decode, validate) → [`engine`] (propose) → `kerolox-store` (log,
//! fold) → [`delivery`] (who gets it) → `service/receive.rs`. Half messages are settled in `service/transaction.rs` and
//! asked about in [`check_back`], scheduled ones are delivered by [`timers`].

mod announce;
mod ballast;
mod broker;
pub mod check_back;
pub mod config;
pub mod delivery;
mod due;
pub mod early;
pub mod engine;
mod index_folder;
mod lite_expiry;
mod made_by;
mod moving;
mod once;
mod pace;
mod replication;
pub mod retention;
mod service;
mod serving;
pub mod timers;
mod vitals;
mod wire;

pub use broker::{Broker, BrokerError};
