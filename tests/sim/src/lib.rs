//! A cluster in one thread, by seed: broker groups, controllers, clients, a network that delays, loses and parts, disks that
//! forget, and clocks that disagree. `tests/run.sh sim` runs it.
//!
//! # Real parts and stand-ins
//!
//! The log, its recovery and truncation, the index and its fold are the real `kerolox-store`, driven by hand on simulated disks
//! ([`kerolox_log::fs::MemFolder`]). What a member decides is the real machine of `kerolox-replication`, which the broker drives with
//! threads and sockets and `member` with virtual ones; the decisions of the controller are the real `kerolox-controller`. What
//! `member` adds is what the broker's threads do without deciding: it writes batches, cuts logs into pieces for followers, copies,
//! and answers. The consensus protocol of the nameservers is not simulated: `controllers` is a stand-in that commits with a majority,
//! changes its leader, and leaves a deposed one with stale knowledge. Threads, sockets and RocksDB are not here either; the end-to-end
//! tests have those.
//!
//! # A run
//!
//! A seed draws a world (`swarm`): sizes, speeds, and which faults there are how often. Faults go on for some tens of
//! virtual seconds, then they stop, and the cluster has to come back by itself. What must hold is in `invariants`, one rule in a
//! file. A seed repeats its run to the last event.

mod clients;
mod controllers;
mod faults;
mod figures;
mod history;
mod invariants;
mod liveness;
mod machine;
mod member;
mod message;
mod net;
mod swarm;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use figures::SimFigures;
use world::SimWorld;

/// Runs the world of a seed. The answer is what it did, and a number that sums up everything that happened.
///
/// # Errors
/// What does not hold.
pub fn run(seed: u64, is_verbose: bool) -> Result<(SimFigures, u64), String> {
    let live = AssertUnwindSafe(|| {
        let mut world = SimWorld::new(seed, is_verbose);
        world.run()?;
        Ok(world.finish())
    });
    catch_unwind(live).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")))
    })
}
