//! A seeded simulation of power cuts: the real storage engine on a simulated disk, a random workload, a cut in the middle
//! of anything, and after every restart a comparison with what was answered. `tests/run.sh powercut` runs it.
//!
//! A seed repeats its run: the workload, the batches that the writer makes (see [`gate`]), the operation in which the
//! power goes and what survives of it. Only the system's scheduling stays a matter of chance, where the engine looks at the
//! real clock: a run that stands still for longer than 200 ms flushes its index at another moment than before, and one
//! that does so for a second writes a checkpoint more.

mod gate;
mod model;
mod observe;
mod once;
mod plan;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use kerolox_log::sabotage;

use crate::world::{Figures, PowercutWorld};

/// Failures after which the run ends: more of the same tell nothing new.
const FAILURES_MAX: u32 = 5;

/// Cuts the power of a simulated machine again and again and checks that the storage engine keeps its word.
#[derive(Parser)]
struct Arguments {
    /// Number of runs, with one seed each.
    #[arg(long, default_value_t = 1500)]
    seeds: u64,
    /// The first seed; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every step.
    #[arg(long)]
    trace: bool,
    /// Prints the names of the ways in which the engine can be broken, and ends.
    #[arg(long, hide = true)]
    list_sabotages: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_sabotages {
        sabotage::SWITCHES.iter().for_each(|(name, what)| println!("{name} {what}"));
        return ExitCode::SUCCESS;
    }
    let first = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    let begin = Instant::now();
    let (mut total, mut failed, mut done) = (Figures::default(), 0, 0);
    for seed in first..first.saturating_add(arguments.seeds) {
        done += 1;
        match run(seed, arguments.trace) {
            Ok(figures) => total.add(&figures),
            Err(wrong) => {
                failed += 1;
                println!("FAILED  seed {seed}: {wrong}");
                println!("        again: tests/run.sh powercut --seeds 1 --seed {seed} --trace");
                if failed == FAILURES_MAX {
                    break;
                }
            }
        }
    }
    println!(
        "powercut: {done} seeds from {first}, {} power cuts, {} kills, {} recoveries interrupted, {} records answered, \
         {} trims, {} expiries, {:.1} s: {} passed, {failed} failed",
        total.cuts,
        total.kills,
        total.interrupted,
        total.answered,
        total.trims,
        total.expiries,
        begin.elapsed().as_secs_f64(),
        done - failed,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seed: u64, trace: bool) -> Result<Figures, String> {
    catch_unwind(AssertUnwindSafe(|| PowercutWorld::new(seed, trace).run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")))
    })
}
