//! The page of the manual, made from a report.

use std::fmt::{self, Write as _};

use crate::leg::{FlushMode, LegName};
use crate::report::{LegRatio, RaceReport, RatioSpread};
use crate::turn::TurnFigures;

/// The page.
pub(crate) fn page(report: &RaceReport) -> String {
    let mut page = String::new();
    write(&mut page, report).expect("a string takes everything");
    page
}

fn write(page: &mut String, report: &RaceReport) -> fmt::Result {
    writeln!(page, "<!-- Made from the results of a race by tests/run.sh race page FILE. -->\n")?;
    writeln!(page, "# Race against other brokers\n")?;
    writeln!(
        page,
        "`tests/run.sh race` runs the same legs on Kerolox and on other systems, one server at a time, with the client on the \
         same machine. Each turn has a new server with an empty folder, {} s of warm-up and {} s on the clock; a leg has {} \
         turns for each lane, which take turns at being first. Acknowledged messages are compared with stored or \
         consumed ones afterwards; a turn with a failed call or a missing message has no figures.\n",
        report.warmup, report.seconds, report.repeats
    )?;
    writeln!(page, "Ratios hold for machines like this one; absolute figures do not travel.\n")?;
    writeln!(page, "| | |\n|---|---|\n| date | {} |\n| machine | {} |", report.date, report.machine)?;
    writeln!(page, "| commit of Kerolox | {} |\n", report.commit)?;
    lanes(page, report)?;
    legs(page, report)?;
    ratios(page, report)?;
    figures(page, report)?;
    failures(page, report)
}

fn lanes(page: &mut String, report: &RaceReport) -> fmt::Result {
    writeln!(page, "## Lanes\n\n| lane | server | client | settings |\n|---|---|---|---|")?;
    for lane in &report.lanes {
        let (name, system, version) = (&lane.name, &lane.system, &lane.version);
        writeln!(page, "| {name} | {system} {version} | {} | {} |", lane.client, lane.settings)?;
    }
    writeln!(page, "\nThe raced topic has {} queues or partitions everywhere.\n", crate::leg::QUEUES)
}

fn legs(page: &mut String, report: &RaceReport) -> fmt::Result {
    let mut names: Vec<LegName> = report.legs().into_iter().map(|(leg, _)| leg).collect();
    names.dedup();
    writeln!(page, "## Legs\n\n| leg | clients |\n|---|---|")?;
    for leg in names {
        writeln!(page, "| {leg} | {} |", leg.about())?;
    }
    writeln!(
        page,
        "\nWith `async`, an acknowledgement waits for the page cache; with `sync`, for fsync. Explicit batches are the client's \
         own where it has no others: kafka-clients fills its batches with its defaults.\n"
    )
}

fn ratios(page: &mut String, report: &RaceReport) -> fmt::Result {
    writeln!(
        page,
        "## Ratios\n\nKerolox divided by the peer in the same repeat: the median, and least to most. More is better for the \
         rate, less for the server's CPU per message.\n\n| leg | flush | Kerolox | peer | rate | server CPU |\n|---|---|---|---|---|---|"
    )?;
    for LegRatio { leg, flush, ours, peer, rate, server_cpu } in &report.ratios {
        writeln!(
            page,
            "| {leg} | {flush} | {ours} | {peer} | {} | {} |",
            spread(*rate),
            spread(*server_cpu)
        )?;
    }
    writeln!(page)
}

/// `1.25x (1.10–1.30)`.
pub(crate) fn spread(ratio: RatioSpread) -> String {
    format!("{:.2}x ({:.2}–{:.2})", ratio.median, ratio.least, ratio.most)
}

fn figures(page: &mut String, report: &RaceReport) -> fmt::Result {
    writeln!(
        page,
        "## Figures\n\nThe median of the repeats. A latency is that of a call: a send, a batch, a pull, a receive with its \
         acknowledgements, a transaction with its commit; in `auto` from handing a message over to its answer, end to end from \
         the send to the listener. CPU and bytes are the server's for a message, all its processes together; memory is its \
         most resident since the start.\n\n\
         | leg | flush | lane | messages/s | p50 ms | p99 ms | p99.9 ms | CPU µs | memory MiB | written B |\n|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for (leg, flush) in report.legs() {
        for lane in &report.lanes {
            let turns: Vec<_> = report.figures(&lane.name, leg, flush).map(|(_, figures)| figures).collect();
            row(page, leg, flush, &lane.name, &turns)?;
        }
    }
    Ok(())
}

fn row(page: &mut String, leg: LegName, flush: FlushMode, lane: &str, turns: &[&TurnFigures]) -> fmt::Result {
    let median = |figure: fn(&TurnFigures) -> f64| {
        RatioSpread::of(turns.iter().map(|turn| figure(turn)).collect()).map(|spread| spread.median)
    };
    let Some(rate) = median(|turn| turn.rate) else { return Ok(()) };
    let of = |figure| median(figure).unwrap_or_default();
    let ms = |figure| of(figure) / 1000.0;
    writeln!(
        page,
        "| {leg} | {flush} | {lane} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
        grouped(rate),
        ms(|turn| turn.p50_us),
        ms(|turn| turn.p99_us),
        ms(|turn| turn.p999_us),
        of(|turn| turn.server_cpu_us),
        of(|turn| turn.server_resident_peak as f64) / f64::from(1 << 20),
        of(|turn| turn.written_per_message),
    )
}

/// Whole numbers with commas between thousands.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn failures(page: &mut String, report: &RaceReport) -> fmt::Result {
    let mut failed = report.turns.iter().filter_map(|turn| Some((turn, turn.error.as_ref()?))).peekable();
    if failed.peek().is_some() {
        writeln!(
            page,
            "\n## Turns without figures\n\n| leg | flush | lane | repeat | why |\n|---|---|---|---|---|"
        )?;
    }
    for (turn, error) in failed {
        let reason = error.lines().next_back().unwrap_or_default().replace('|', "/");
        writeln!(page, "| {} | {} | {} | {} | {reason} |", turn.leg, turn.flush, turn.lane, turn.repeat)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_grouped() {
        let grouped = |number: f64| super::grouped(number);
        assert_eq!([grouped(0.4), grouped(999.6), grouped(1_234_567.0)], ["0", "1,000", "1,234,567"]);
    }
}
