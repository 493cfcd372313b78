//! The nameserver: a gateway (routes, and an access point for every official SDK), and the controller of the broker groups.
//!
//! Routes are soft state: brokers tell them again every few seconds. What the SDKs ask of an access point is answered
//! here; what belongs to a broker is passed on, one hop. Which member of a broker group is its master the nameservers
//! decide together, by consensus.

pub mod config;
mod controller;
mod server;

pub use controller::{ControllerError, PeersError, StoreError};
pub use server::{Nameserver, ServeError};
