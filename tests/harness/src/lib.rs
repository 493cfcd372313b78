//! What tests with real processes share.
//!
//! [`ServerProcess`] is a nameserver or a broker that is started, stopped, killed and started again. [`SmallDisk`],
//! [`LeapingClock`] and [`CuttingProxy`] are what happens to it, [`ProcessUsage`] is what it uses, [`long_log`] makes it start slowly.
//! [`raw_calls`] are the protocol's calls without a client around them. [`verdict`] is how the suites tell what they found.

mod cutting_proxy;
mod kept_logs;
mod leaping_clock;
pub mod long_log;
mod process;
mod process_usage;
mod programs;
pub mod raw_calls;
mod seeded_random;
mod small_disk;
pub mod verdict;

pub use cutting_proxy::{CuttingProxy, ProxyCut};
pub use kept_logs::{keep_log, kept_logs};
pub use leaping_clock::LeapingClock;
pub use process::{HealthProbe, ServerProcess};
pub use process_usage::ProcessUsage;
pub use programs::built_program;
pub use seeded_random::SeededRandom;
pub use small_disk::SmallDisk;
