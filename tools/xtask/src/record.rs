//! Memory of test runs: what each test and suite did, how often, and when last.
//!
//! `tests/run.sh` hands the output of every suite over when it ends. The records lie in the cache beside the build results, and the
//! evidence page is made from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What happened to one test over all runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TestRecord {
    /// How often it ran.
    pub(crate) runs: u64,
    /// How often it failed.
    pub(crate) failures: u64,
    /// Commit of the last run; `+` behind it when files differed from it.
    pub(crate) commit: String,
    /// Day of the last run, as in 2026-11-25.
    pub(crate) date: String,
}

/// What happened to one suite over all runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuiteRecord {
    /// Runs, failed checks of all of them, commit and day of the last one.
    #[serde(flatten)]
    pub(crate) test: TestRecord,
    /// Its line of figures in the last run, such as "sim: 300 seeds from 1, …".
    pub(crate) figures: String,
    /// How long the last run took, seconds.
    pub(crate) seconds: u64,
}

/// All records.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RunRecords {
    /// By the test's own name, the last part of its path.
    pub(crate) tests: BTreeMap<String, TestRecord>,
    /// By name of the suite.
    pub(crate) suites: BTreeMap<String, SuiteRecord>,
    /// What noticed each sabotage switch: suite and seconds, as printed.
    pub(crate) switches: BTreeMap<String, String>,
}

/// A suite that ended.
#[derive(Debug, clap::Args)]
pub(crate) struct EndedSuite {
    /// Name of the suite
    suite: String,
    /// File with what it printed
    output: PathBuf,
    /// Checks that failed
    #[arg(long)]
    failed: u64,
    /// How long it took, in seconds
    #[arg(long)]
    seconds: u64,
}

impl RunRecords {
    /// Where records lie.
    fn path() -> Result<PathBuf> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("kerolox");
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        Ok(cache.join("records.json"))
    }

    /// Reads the records; there are none before the first run.
    pub(crate) fn load() -> Result<Self> {
        let path = Self::path()?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
            Err(_) => Ok(Self::default()),
        }
    }

    fn save(&self) -> Result<()> {
        let path = Self::path()?;
        let folder = path.parent().context("the cache has a folder")?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(&path).with_context(|| path.display().to_string())?;
        Ok(())
    }

    /// Takes in what a suite printed.
    fn note(&mut self, ended: &EndedSuite, output: &str, commit: &str, date: &str) {
        let suite = self.suites.entry(ended.suite.clone()).or_default();
        suite.test.note(ended.failed, commit, date);
        suite.seconds = ended.seconds;
        suite.figures = figures(&ended.suite, output).unwrap_or_default().to_owned();
        for (name, passed) in outcomes(output) {
            self.tests.entry(name.to_owned()).or_default().note(u64::from(!passed), commit, date);
        }
        for line in output.lines() {
            if let Some((switch, by)) = line.strip_prefix("caught  ").and_then(|line| line.split_once(": ")) {
                self.switches.insert(switch.to_owned(), by.trim().to_owned());
            } else if let Some((switch, _)) =
                line.strip_prefix("MISSED  ").and_then(|line| line.split_once(": "))
            {
                self.switches.insert(switch.to_owned(), "missed".to_owned());
            }
        }
    }
}

impl TestRecord {
    fn note(&mut self, failures: u64, commit: &str, date: &str) {
        self.runs += 1;
        self.failures += failures;
        commit.clone_into(&mut self.commit);
        date.clone_into(&mut self.date);
    }
}

/// Reads what a suite printed into the records.
pub(crate) fn record(root: &Path, ended: &EndedSuite) -> Result<()> {
    let output = fs::read(&ended.output).with_context(|| ended.output.display().to_string())?;
    // Lanes of tests/run.sh record at the same time.
    let lock =
        fs::File::create(RunRecords::path()?.with_extension("lock")).context("the lock of the records")?;
    lock.lock().context("the lock of the records")?;
    let mut records = RunRecords::load()?;
    records.note(ended, &String::from_utf8_lossy(&output), &commit(root)?, &today()?);
    records.save()
}

/// The commit that is checked out.
fn commit(root: &Path) -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output =
            Command::new("git").args(arguments).current_dir(root).output().context("cannot run git")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=8", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit}+") })
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("cannot run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The last line that begins with the suite's name and says how much passed.
fn figures<'a>(suite: &str, output: &'a str) -> Option<&'a str> {
    let name = suite.split(' ').next().unwrap_or(suite);
    output.lines().rfind(|line| line.strip_prefix(name).is_some_and(|rest| rest.contains(": ")))
}

/// Tests and whether they passed, as Rust's harness, pytest, Go and the reporters of this repository print them.
fn outcomes(output: &str) -> impl Iterator<Item = (&str, bool)> {
    output.lines().filter_map(outcome)
}

fn outcome(line: &str) -> Option<(&str, bool)> {
    // Rust: "test path::name ... ok <1.234s>".
    if let Some((path, rest)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
        let passed = match rest.split(' ').next()? {
            "ok" => true,
            "FAILED" => false,
            _ => return None,
        };
        let name = path.split(' ').next()?.rsplit("::").next()?;
        return Some((name, passed));
    }
    // pytest: "tests/sdk/python/test_x.py::test_name PASSED [ 10%]".
    let (path, rest) = line.split_once(' ')?;
    let name = path.split_once(".py::")?.1;
    match rest.trim_start().split(' ').next()? {
        "PASSED" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
running 2 tests
test state::tests::it_holds ... ok
test it_fails ... FAILED <1.250s>
test slow has been running for over 60 seconds
test other ... ignored
tests/sdk/python/test_normal.py::test_arrives PASSED          [ 10%]
tests/sdk/python/test_normal.py::test_breaks FAILED
caught  skip-fsync: log::recovery (0 s) 
MISSED  no-lease: no test fails
sim: 300 seeds from 1, 16.7 s: 300 passed, 0 failed
";

    #[test]
    fn outcomes_of_all_harnesses_are_read() {
        let read: Vec<_> = outcomes(PRINTED).collect();
        let expected =
            [("it_holds", true), ("it_fails", false), ("test_arrives", true), ("test_breaks", false)];
        assert_eq!(read, expected);
    }

    #[test]
    fn runs_add_up_and_the_last_one_is_named() {
        let mut records = RunRecords::default();
        let ended = EndedSuite { suite: "sim".to_owned(), output: PathBuf::new(), failed: 1, seconds: 17 };
        records.note(&ended, PRINTED, "aaaa", "2026-11-24");
        records.note(&ended, PRINTED, "bbbb", "2026-11-25");
        let failing = &records.tests["it_fails"];
        assert_eq!((failing.runs, failing.failures, failing.commit.as_str()), (2, 2, "bbbb"));
        assert_eq!(records.suites["sim"].figures, "sim: 300 seeds from 1, 16.7 s: 300 passed, 0 failed");
        assert_eq!(records.suites["sim"].test.date, "2026-11-25");
        assert_eq!(records.switches["skip-fsync"], "log::recovery (0 s)");
        assert_eq!(records.switches["no-lease"], "missed");
        let kept = serde_json::to_string(&records).expect("records can be written");
        let again: RunRecords = serde_json::from_str(&kept).expect("and read");
        assert_eq!(again.suites, records.suites);
    }
}
