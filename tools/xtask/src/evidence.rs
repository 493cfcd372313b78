//! The evidence page: each promise with what attacks it, how often it was tested, and how to repeat that.
//!
//! Made from GUARANTEES.md, tests/SCENARIOS.md, the lists of faults and switches in the code, and the records of test runs.

mod faults;
mod page;
mod sources;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::record::RunRecords;

const PAGE: &str = "deploy/manual/src/reference/evidence.md";
const DATA: &str = "deploy/manual/src/reference/evidence.json";

/// Writes the page and its data.
pub(crate) fn write(root: &Path) -> Result<()> {
    let evidence = sources::gather(root, &RunRecords::load()?)?;
    let text = page::render(&evidence);
    fs::write(root.join(PAGE), text).context(PAGE)?;
    let mut data = serde_json::to_string_pretty(&evidence)?;
    data.push('\n');
    fs::write(root.join(DATA), data).context(DATA)?;
    let tested = evidence.guarantees.iter().filter(|row| row.runs > 0).count();
    println!(
        "evidence: {} guarantees, {tested} of them with runs, {} faults, {} switches, {} gaps: {PAGE}",
        evidence.guarantees.len(),
        evidence.faults.len(),
        evidence.switches.len(),
        evidence.gaps.len(),
    );
    Ok(())
}
