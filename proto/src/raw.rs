//! [`crate::v2`]'s service for a server that hands messages on as they are: its `Message`s are bytes, still encoded.
//!
//! The types are generated from the same `.proto` files, with `bytes` in place of `Message`, which has the same form on
//! the wire. Whatever holds no message is the type of `v2`.

tonic::include_proto!("raw/apache.rocketmq.v2");
