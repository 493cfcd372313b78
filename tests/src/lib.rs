//! Tests with real processes.
//!
//! [`process`] starts, stops and kills servers. [`crash`] is the `kill -9` loop, which `tests/run.sh crash` runs through
//! the `crash` program; [`chaos`] brings a replicated group into all kinds of trouble, [`hostile`] attacks a broker in a small container, [`clients`] does it to see what the Rust client makes of it, [`torture`] does the same to transactions, [`money`] to the example that moves money. [`cli`] types every command of mqadmin. [`usage`] says
//! what a server uses, [`calls`] are for the programs that measure it; [`cutting`] breaks answers off; [`small_disk`] and [`long_log`] are what makes a broker refuse, or start slowly; [`verdict`] is how the others tell what they found. The tests with the official SDKs live in `tests/sdk`.

pub mod calls;
pub mod chaos;
pub mod cli;
pub mod clients;
pub mod crash;
pub mod cutting;
pub mod hostile;
pub mod leap;
pub mod long_log;
pub mod money;
pub mod process;
pub mod random;
pub mod small_disk;
pub mod torture;
pub mod usage;
pub mod verdict;
