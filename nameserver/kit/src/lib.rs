//! What every Kerolox server process needs: listeners, configuration, routes, client sessions, relay.
//!
//! The nameserver and the broker are both access points for the SDKs; what they have in common is here, once.

pub mod access;
pub mod admin;
pub mod answers;
pub mod clients;
pub mod config;
pub mod controller;
pub mod data_folder;
pub mod headers;
pub mod health;
pub mod inspect;
pub mod listen;
pub mod lite;
pub mod memory;
pub mod polling;
pub mod process;
pub mod producers;
pub mod refusal;
pub mod registrar;
pub mod relay;
pub mod reminder;
pub mod routes;
pub mod spread;
pub mod telemetry;
pub mod tls;
