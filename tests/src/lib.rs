//! Suites with real processes, each run by `tests/run.sh` under its name.
//!
//! [`crash`] is the `kill -9` loop; [`chaos`] brings a replicated group into all kinds of trouble, [`hostile`] attacks a broker in a
//! small container, [`client`] does it to see what the Rust client makes of it, [`transactions`] does the same to transactions, [`money`]
//! to the example that moves money. [`cli`] types every command of mqadmin. They start their servers with `kerolox-harness`. The
//! tests with the official SDKs live in `tests/sdk`; [`cluster_server`] starts their servers for them.

pub mod chaos;
pub mod cli;
pub mod client;
pub mod cluster_server;
pub mod crash;
pub mod hostile;
pub mod money;
pub mod transactions;
