//! The official RocketMQ crate against real servers. Each test runs with the nameserver and with the broker as endpoint.

mod failover;
mod fifo;
mod filters;
mod limits;
mod messages;
mod restarts;
mod scheduled;
mod transactions;
