//! Kerolox's vocabulary, shared by servers, client and tools: names and their limits ([`names`]), the tokens that
//! clients hand back to us ([`token`]) and the limits of the protocol ([`limits`]).
//!
//! Nothing here does I/O, reads a clock or knows the generated protocol types.

pub mod limits;
pub mod names;
pub mod token;
