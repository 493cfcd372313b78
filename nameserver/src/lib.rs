//! The nameserver: routes, and an access point for every official SDK.
//!
//! Routes are soft state: brokers tell them again every few seconds. What the SDKs ask of an access point is answered
//! here; what belongs to a broker is passed on, one hop.

mod access;
pub mod config;
mod registry;
mod server;

pub use access::AccessPoint;
pub use registry::RegistryService;
pub use server::{Nameserver, ServeError};
