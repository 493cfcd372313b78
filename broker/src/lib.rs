//! One member of a broker group.
//!
//! The path of a message by file: `rpc/messaging/send.rs` (decode, validate) → [`log_client`] (propose) → `kerolox-store`
//! (log, state machine) → [`delivery`] (choose a consumer) → `rpc/messaging/receive.rs`.
//!
//! | room | what it holds |
//! |---|---|
//! | `rpc/messaging`, `rpc/admin` | calls that this broker answers itself, one file for each family of calls; `rpc/admission.rs` lets calls in |
//! | [`delivery`] | the owners of delivery engines, and the wake-ups of consumers |
//! | [`tasks`] | background tasks of a leader: check-back, timers, retention, expiry of lite topics, migration of ordering slots |
//! | `replication` | carries out the decisions of the member machine |
//! | `wire` | messages as bytes |

mod announce;
mod ballast;
mod broker;
pub mod config;
mod creation_quota;
mod dedup_gate;
pub mod delivery;
mod health;
mod index_folder;
mod leader_tasks;
pub mod log_client;
mod message_reader;
pub mod metadata;
mod news;
mod pace;
mod refused;
mod replication;
mod rpc;
mod serving;
mod setup;
pub mod tasks;
#[cfg(test)]
mod test_store;
mod wire;

pub use broker::{Broker, BrokerError};
