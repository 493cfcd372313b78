//! The page as Markdown.

use std::fmt::{self, Write as _};

use super::faults::SUITES;
use super::sources::EvidencePage;

/// Renders all rows.
pub(crate) fn render(evidence: &EvidencePage) -> String {
    let mut page = String::new();
    write(&mut page, evidence).expect("a text takes everything");
    page
}

fn write(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str(
        "<!-- Made by tests/run.sh evidence; do not edit. -->

# Evidence

Each promise with its tests, how often they ran on record, and a command that repeats the first of them. Records are kept by
`tests/run.sh` on the machine that made this page; [evidence.json](evidence.json) has all columns.

",
    );
    guarantees(page, evidence)?;
    faults(page, evidence)?;
    switches(page, evidence)?;
    suites(page, evidence)?;
    gaps(page, evidence)?;
    regressions(page, evidence)
}

fn guarantees(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str("## Guarantees\n\n| promise | tests | runs | violations | last | reproduce |\n|---|---|---|---|---|---|\n");
    for row in &evidence.guarantees {
        let last = match row.commit.is_empty() {
            true => "never".to_owned(),
            false => format!("{} {}", row.date, row.commit),
        };
        writeln!(
            page,
            "| **{}** {} | {} | {} | {} | {last} | `{}` |",
            row.id,
            row.text.replace('|', "\\|"),
            row.tests.len(),
            row.runs,
            row.failures,
            row.command
        )?;
    }
    Ok(())
}

/// A cell of the fault matrix: the darker, the more often the fault came.
fn cell(times: Option<u64>) -> String {
    let shade = match times {
        None => return String::new(),
        Some(0) => "not in the last run",
        Some(1..10) => "░",
        Some(10..100) => "▒",
        Some(100..500) => "▓",
        Some(_) => "█",
    };
    match times {
        Some(times @ 1..) => format!("{shade} {times}"),
        _ => shade.to_owned(),
    }
}

fn faults(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    writeln!(
        page,
        "\n## Faults\n\nHow often each fault came in the last run of a suite; an empty cell is not tested by that suite. Every run \
         checks all its properties after every fault: acknowledged messages, one leader per epoch, equal prefixes, order, \
         decisions.\n\n| fault | {} |\n|---|{}",
        SUITES.join(" | "),
        "---|".repeat(SUITES.len())
    )?;
    for row in &evidence.faults {
        writeln!(page, "| {} | {} |", row.fault, row.times.map(cell).join(" | "))?;
    }
    Ok(())
}

fn switches(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str("\n## Mutations\n\nEach switch breaks the product on purpose (`tests/run.sh sabotage SWITCH`).\n\n| switch | breaks | first noticed by, after seconds |\n|---|---|---|\n");
    for row in &evidence.switches {
        let by = if row.noticed_by.is_empty() { "not run" } else { &row.noticed_by };
        writeln!(page, "| `{}` | {} | {by} |", row.switch, row.breaks)?;
    }
    Ok(())
}

fn suites(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str("\n## Suites\n\n| suite | runs | failed checks | last | seconds | figures of the last run |\n|---|---|---|---|---|---|\n");
    for row in &evidence.suites {
        let test = &row.record.test;
        writeln!(
            page,
            "| {} | {} | {} | {} {} | {} | {} |",
            row.suite,
            test.runs,
            test.failures,
            test.date,
            test.commit,
            row.record.seconds,
            row.record.figures.replace('|', "\\|")
        )?;
    }
    Ok(())
}

fn gaps(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str("\n## Known gaps\n\n");
    for gap in &evidence.gaps {
        writeln!(page, "- **{}**: {}", gap.scenario, gap.text)?;
    }
    Ok(())
}

fn regressions(page: &mut String, evidence: &EvidencePage) -> fmt::Result {
    page.push_str("\n## Failures that tests notice\n\n");
    for regression in &evidence.regressions {
        let first = regression.tests.first().map_or("", String::as_str);
        let more = match regression.tests.len() {
            0 | 1 => String::new(),
            all => format!(" and {} more", all - 1),
        };
        writeln!(page, "- **{}**: {} `{first}`{more}", regression.scenario, regression.what)?;
    }
    Ok(())
}
