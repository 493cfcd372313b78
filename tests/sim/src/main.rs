//! `tests/run.sh sim`: see the library.

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use kerolox_sim::{SimFigures, run};

/// Failures after which the run ends: more of the same tell nothing new.
const FAILURES_MAX: u32 = 5;

/// Simulates clusters with everything that can go wrong, and checks that they keep their word.
#[derive(Parser)]
struct Arguments {
    /// Number of runs, with one seed each.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happens. Runs the one seed, unless --seeds says more.
    #[arg(short, long, requires = "seed")]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    let seeds = if arguments.verbose { 1 } else { arguments.seeds };
    let begin = Instant::now();
    let (mut total, mut failed, mut done) = (SimFigures::default(), 0, 0);
    for seed in first..first.saturating_add(seeds) {
        done += 1;
        match run(seed, arguments.verbose) {
            Ok((figures, _)) => total.add(&figures),
            Err(wrong) => {
                failed += 1;
                println!("FAILED  seed {seed}: {wrong}");
                println!("        again: tests/run.sh sim --seed {seed} -v");
                if failed == FAILURES_MAX {
                    break;
                }
            }
        }
    }
    println!(
        "sim: {done} seeds from {first}, {total}, lost 0, {:.1} s: {} passed, {failed} failed",
        begin.elapsed().as_secs_f64(),
        done - failed,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
