//! Consumers that receive: the simple one, and what the push consumer is made of.

mod acks;
mod merged;
pub(crate) mod receiver;
mod simple;

pub use simple::{SimpleConsumer, SimpleConsumerBuilder};
