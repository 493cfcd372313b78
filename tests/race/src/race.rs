//! The race: its turns, and the lines about them.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;
use kerolox_bench::machine::MachineFacts;

use crate::Arguments;
use crate::lane::{Lane, PeerName, RUST};
use crate::leg::{FlushMode, LegName};
use crate::page::{grouped, spread};
use crate::report::{LegRatio, RaceReport, TurnReport};
use crate::turn::{self, TurnFigures, TurnLength};

/// Runs all turns; returns whether each went well.
///
/// # Errors
/// When the race cannot begin, or its results cannot be kept.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(arguments.seconds > 0.0 && arguments.repeats > 0, "a race needs time on the clock and a repeat");
    let begun = Instant::now();
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = MachineFacts::look(&dir).describe();
    println!("{machine}");
    let lanes = lanes(arguments);
    let Arguments { seconds, warmup, repeats, backlog, .. } = *arguments;
    let length = TurnLength { seconds, warmup, backlog };
    let mut report = RaceReport::new(&lanes, machine, seconds, warmup, repeats)?;
    for (leg, flush) in legs(arguments) {
        for repeat in 1..=repeats {
            for lane in in_turn(&lanes, repeat).filter(|lane| lane.runs(leg)) {
                let outcome = turn::run(lane, leg, flush, &length, &dir);
                tell(lane, leg, flush, outcome.as_ref());
                let (figures, error) = match outcome {
                    Ok(figures) => (Some(figures), None),
                    Err(error) => (None, Some(format!("{error:#}"))),
                };
                report.turns.push(TurnReport {
                    lane: lane.name.to_owned(),
                    leg,
                    flush,
                    repeat,
                    figures,
                    error,
                });
                report.compare();
                // After each turn: an interrupted race has results.
                report.save(&arguments.json)?;
            }
        }
    }
    Ok(conclude(&report, begun))
}

/// Lanes without repetitions, those of Kerolox first.
fn lanes(arguments: &Arguments) -> Vec<Lane> {
    if arguments.alone {
        return vec![RUST];
    }
    let peers = if arguments.peers.is_empty() { PeerName::value_variants() } else { &arguments.peers };
    let all =
        peers.iter().flat_map(|peer| peer.ours().iter().copied()).chain(peers.iter().map(|peer| peer.lane()));
    let mut lanes = Vec::new();
    for lane in all {
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }
    lanes
}

/// Reading waits for no disk, so it is raced once.
fn legs(arguments: &Arguments) -> Vec<(LegName, FlushMode)> {
    let names = if arguments.legs.is_empty() { LegName::value_variants() } else { &arguments.legs };
    let is_wanted = |flush: &FlushMode| arguments.flush.is_none_or(|only| only == *flush);
    let of_leg = |leg: LegName| match leg {
        LegName::Read => vec![(leg, FlushMode::Async)],
        _ => FlushMode::value_variants()
            .iter()
            .filter(|flush| is_wanted(flush))
            .map(|flush| (leg, *flush))
            .collect(),
    };
    names.iter().flat_map(|leg| of_leg(*leg)).collect()
}

/// Each repeat begins with another lane.
fn in_turn(lanes: &[Lane], repeat: u32) -> impl Iterator<Item = &Lane> {
    lanes.iter().cycle().skip(repeat as usize % lanes.len()).take(lanes.len())
}

fn tell(lane: &Lane, leg: LegName, flush: FlushMode, outcome: Result<&TurnFigures, &anyhow::Error>) {
    match outcome {
        Ok(figures) => println!(
            "ok      {leg:<12} {flush:<5} {:<13} {:>11}/s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; server: {:.2} us, \
             {} MiB, {:.0} bytes written a message",
            lane.name,
            grouped(figures.rate),
            figures.p50_us / 1000.0,
            figures.p99_us / 1000.0,
            figures.p999_us / 1000.0,
            figures.server_cpu_us,
            figures.server_resident_peak >> 20,
            figures.written_per_message,
        ),
        Err(error) => println!("FAILED  {leg:<12} {flush:<5} {}: {error:#}", lane.name),
    }
}

/// Prints the ratios and the line of figures.
fn conclude(report: &RaceReport, begun: Instant) -> bool {
    for LegRatio { leg, flush, ours, peer, rate, server_cpu } in &report.ratios {
        let (rate, cpu) = (spread(*rate), spread(*server_cpu));
        println!("ratio   {leg:<12} {flush:<5} {ours} / {peer}: rate {rate}, server CPU {cpu}");
    }
    let failed = report.turns.iter().filter(|turn| turn.error.is_some()).count();
    println!(
        "race: {} legs, {} lanes, {} turns of {} s, {:.0} s: {} passed, {failed} failed",
        report.legs().len(),
        report.lanes.len(),
        report.turns.len(),
        report.seconds,
        begun.elapsed().as_secs_f64(),
        report.turns.len() - failed,
    );
    failed == 0
}
