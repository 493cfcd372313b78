//! The gateway that nameserver and broker share: the SDKs' protocol, as far as it needs no messages of its own.
//!
//! Both programs are access points for the SDKs. Routes, client sessions, Telemetry, the way to the broker that owns a call, and the
//! administration of the SDKs' protocol are here, once.

pub mod access;
pub mod access_point;
pub mod admin;
pub mod answers;
pub mod clients;
pub mod headers;
pub mod inspect;
pub mod lite;
pub mod polling;
pub mod producers;
pub mod refusal;
pub mod registrar;
pub mod registry;
pub mod relay;
pub mod routes;
pub mod sdk;
pub mod spread;
pub mod stack;
pub mod telemetry;
