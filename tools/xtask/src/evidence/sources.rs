//! What the page is made from.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::faults::{self, FaultRow};
use crate::record::{RunRecords, SuiteRecord, TestRecord};

/// All rows of the page.
#[derive(Debug, Serialize)]
pub(crate) struct EvidencePage {
    pub(crate) guarantees: Vec<GuaranteeRow>,
    pub(crate) faults: Vec<FaultRow>,
    pub(crate) switches: Vec<SwitchRow>,
    pub(crate) suites: Vec<SuiteRow>,
    /// What SCENARIOS.md says is not tested.
    pub(crate) gaps: Vec<KnownGap>,
    /// Failures of other systems, or of an earlier state of this one, and the tests that notice them.
    pub(crate) regressions: Vec<ShownRegression>,
}

/// One promise.
#[derive(Debug, Serialize)]
pub(crate) struct GuaranteeRow {
    /// As in G12.
    pub(crate) id: String,
    pub(crate) text: String,
    /// Tests as GUARANTEES.md names them.
    pub(crate) tests: Vec<String>,
    /// Command that runs the first of them.
    pub(crate) command: String,
    /// Runs of all its tests that are on record.
    pub(crate) runs: u64,
    /// Runs among those that failed.
    pub(crate) failures: u64,
    /// Commit and day of the last run; empty without one.
    pub(crate) commit: String,
    pub(crate) date: String,
}

/// One way to break the code on purpose.
#[derive(Debug, Serialize)]
pub(crate) struct SwitchRow {
    pub(crate) switch: String,
    pub(crate) breaks: String,
    /// Suite and seconds; empty before the first run.
    pub(crate) noticed_by: String,
}

/// One suite.
#[derive(Debug, Serialize)]
pub(crate) struct SuiteRow {
    pub(crate) suite: String,
    #[serde(flatten)]
    pub(crate) record: SuiteRecord,
}

/// Something that no test exercises.
#[derive(Debug, Serialize)]
pub(crate) struct KnownGap {
    /// Scenario that it belongs to.
    pub(crate) scenario: String,
    pub(crate) text: String,
}

/// A failure that tests notice.
#[derive(Debug, Serialize)]
pub(crate) struct ShownRegression {
    pub(crate) scenario: String,
    pub(crate) what: String,
    pub(crate) tests: Vec<String>,
}

/// Reads everything.
pub(crate) fn gather(root: &Path, records: &RunRecords) -> Result<EvidencePage> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let text = read("tests/SCENARIOS.md")?;
    let scenarios = scenarios(&text);
    ensure!(
        scenarios.len() > 50,
        "only {} scenarios: is tests/SCENARIOS.md still read right?",
        scenarios.len()
    );
    let faults = faults::rows(&read("tests/sim/src/swarm.rs")?, &read("tests/src/chaos/plan.rs")?, records);
    Ok(EvidencePage {
        guarantees: guarantees(&read("GUARANTEES.md")?, records),
        faults,
        switches: switches(&read("broker/log/src/sabotage.rs")?, records),
        suites: records
            .suites
            .iter()
            .map(|(suite, record)| SuiteRow { suite: suite.clone(), record: record.clone() })
            .collect(),
        gaps: scenarios.iter().filter_map(Scenario::gap).collect(),
        regressions: scenarios.iter().filter_map(Scenario::regression).collect(),
    })
}

fn guarantees(text: &str, records: &RunRecords) -> Vec<GuaranteeRow> {
    let promises = text.split("\n**G").skip(1);
    promises.map(|promise| guarantee(promise.split("\n#").next().unwrap_or(promise), records)).collect()
}

fn guarantee(promise: &str, records: &RunRecords) -> GuaranteeRow {
    let (id, rest) = promise.split_once(". ").unwrap_or((promise, ""));
    let text = rest.split("**").next().unwrap_or(rest).replace('\n', " ");
    let tests: Vec<String> = promise
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`').map(str::to_owned))
        .collect();
    let known: Vec<TestRecord> = tests.iter().filter_map(|test| record_of(test, records)).collect();
    let last = known.iter().max_by(|a, b| a.date.cmp(&b.date)).cloned().unwrap_or_default();
    GuaranteeRow {
        id: format!("G{id}"),
        text: text.trim_end_matches('.').to_owned(),
        command: tests.first().map_or_else(String::new, |test| command(test)),
        tests,
        runs: known.iter().map(|test| test.runs).sum(),
        failures: known.iter().map(|test| test.failures).sum(),
        commit: last.commit,
        date: last.date,
    }
}

/// The record of a test; that of a suite for a function by which the suite judges, and of all unit tests for a file of them.
fn record_of(test: &str, records: &RunRecords) -> Option<TestRecord> {
    let (path, name) = test.split_once("::").unwrap_or((test, ""));
    let suite = suite_of(path).or(name.is_empty().then_some("unit"));
    let suite = suite.and_then(|suite| records.suites.get(suite)).map(|suite| suite.test.clone());
    records.tests.get(name).cloned().or(suite)
}

/// The suite that a source belongs to, if it is not one of Rust's own tests.
fn suite_of(path: &str) -> Option<&'static str> {
    let suites = ["crash", "transactions", "money", "client", "chaos", "hostile", "cli"];
    if let Some(rest) = path.strip_prefix("tests/src/") {
        return suites.into_iter().find(|suite| rest.starts_with(suite));
    }
    match path {
        _ if path.starts_with("tests/harness/") => Some("chaos"),
        _ if path.starts_with("tests/powercut/") => Some("powercut"),
        _ if path.starts_with("tests/sim/") => Some("sim"),
        _ => None,
    }
}

/// A command that runs a test alone.
fn command(test: &str) -> String {
    let (path, name) = test.split_once("::").unwrap_or((test, ""));
    if let Some(suite) = suite_of(path) {
        return format!("tests/run.sh {suite} --seed 1");
    }
    if path.starts_with("tests/e2e/") {
        return format!("tests/run.sh e2e {name}");
    }
    if path.starts_with("tests/sdk/python/") {
        return format!("tests/run.sh sdk --python -k {name}");
    }
    // A whole file is a module of that name.
    let name =
        if name.is_empty() { path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs") } else { name };
    let folder = path.split("/src/").next().unwrap_or(path).split("/tests/").next().unwrap_or(path);
    format!("(cd {folder} && cargo test --release {name})")
}

fn switches(source: &str, records: &RunRecords) -> Vec<SwitchRow> {
    let list =
        source.split("pub const SWITCHES").nth(1).and_then(|rest| rest.split("];").next()).unwrap_or("");
    let texts: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    texts
        .chunks_exact(2)
        .map(|pair| SwitchRow {
            switch: pair[0].to_owned(),
            breaks: pair[1].to_owned(),
            noticed_by: records.switches.get(pair[0]).cloned().unwrap_or_default(),
        })
        .collect()
}

/// A section of SCENARIOS.md.
struct Scenario<'a> {
    name: &'a str,
    body: &'a str,
}

fn scenarios(text: &str) -> Vec<Scenario<'_>> {
    let sections = text.split("\n### ").skip(1);
    sections
        .filter_map(|section| section.split_once('\n').map(|(name, body)| Scenario { name, body }))
        .collect()
}

impl Scenario<'_> {
    fn what(&self) -> String {
        self.body.trim().lines().next().unwrap_or("").to_owned()
    }

    fn gap(&self) -> Option<KnownGap> {
        let text = self.body.split("Not tested: ").nth(1)?;
        Some(KnownGap { scenario: self.name.to_owned(), text: text.trim().replace('\n', " ") })
    }

    fn regression(&self) -> Option<ShownRegression> {
        let tests: Vec<String> = self
            .body
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains("::"))
            .map(str::to_owned)
            .collect();
        (!tests.is_empty()).then(|| ShownRegression {
            scenario: self.name.to_owned(),
            what: self.what(),
            tests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_has_its_tests_and_their_runs() {
        let mut records = RunRecords::default();
        let run =
            TestRecord { runs: 3, failures: 1, commit: "abcd".to_owned(), date: "2026-11-25".to_owned() };
        records.tests.insert("it_holds".to_owned(), run);
        let text = "\n**G7. No offset is given\ntwice**, ever.\n- `tests/e2e/a.rs::it_holds`\n- `broker/log/tests/b.rs::new`\n";
        let row = guarantees(text, &records).remove(0);
        assert_eq!((row.id.as_str(), row.text.as_str()), ("G7", "No offset is given twice"));
        assert_eq!((row.runs, row.failures, row.commit.as_str()), (3, 1, "abcd"));
        assert_eq!(row.command, "tests/run.sh e2e it_holds");
        assert_eq!(command("broker/log/tests/b.rs::new"), "(cd broker/log && cargo test --release new)");
        assert_eq!(command("broker/core/src/a/b_test.rs"), "(cd broker/core && cargo test --release b_test)");
        assert_eq!(command("tests/src/crash/verify.rs::verify"), "tests/run.sh crash --seed 1");
    }

    #[test]
    fn gaps_and_regressions_come_from_scenarios() {
        let text = "# S\n\n### sc01\n\nA sync fails.\n\n- `a/b.rs::c`\n\nNot tested: two\nof them.\n";
        let scenarios = scenarios(text);
        assert_eq!(scenarios[0].gap().expect("a gap").text, "two of them.");
        assert_eq!(scenarios[0].regression().expect("a test").tests, ["a/b.rs::c"]);
    }
}
