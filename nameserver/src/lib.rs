//! The nameserver: routes, and an access point for every official SDK.
//!
//! Routes are soft state: brokers tell them again every few seconds. What the SDKs ask of an access point is answered
//! here; what belongs to a broker is passed on, one hop. Which member of a broker group is its master the nameservers
//! decide together, by consensus.

mod access;
pub mod config;
mod controller;
mod registry;
mod server;

pub use access::AccessPoint;
pub use controller::{ControllerError, PeersError, StoreError};
pub use registry::RegistryService;
pub use server::{Nameserver, ServeError};
