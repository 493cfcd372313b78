//! Generated code of the wire protocols, how calls of our own fail ([`errors`]), and paths of calls ([`path`]).
//!
//! [`v2`] is the protocol of the official RocketMQ 5 SDKs, [`kerolox`] the one that Kerolox's own processes and
//! tools speak among themselves; [`raw`] is the service of `v2` with messages left encoded. The `.proto` files beside this crate carry the documentation.
#![allow(missing_docs, clippy::all, clippy::unwrap_used)]

/// `apache.rocketmq.v2`: what the official SDKs speak.
pub mod v2 {
    tonic::include_proto!("apache.rocketmq.v2");
}

pub mod errors;
pub mod path;
pub mod raw;

/// `kerolox.v1`: registration of brokers, administration, and the way to producers that are connected elsewhere.
pub mod kerolox {
    tonic::include_proto!("kerolox.v1");
}
