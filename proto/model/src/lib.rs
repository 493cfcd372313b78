//! Kerolox's vocabulary, shared by servers, client and tools: names and their limits ([`names`]), the tokens that
//! clients hand back to us ([`token`]), the limits of the protocol ([`limits`]), durations and sizes ([`units`]), delays
//! between delivery attempts ([`backoff`]), what a server says of its health ([`health`]).
//!
//! Nothing here does I/O, reads a clock or knows the generated protocol types.

#![warn(clippy::iter_over_hash_type)]

pub mod backoff;
pub mod health;
pub mod limits;
pub mod names;
pub mod token;
pub mod units;
