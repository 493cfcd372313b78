//! Common parts of the programs that torture a cluster: their seed, and the report of their findings.

use std::time::{SystemTime, UNIX_EPOCH};

/// The given seed, or a new one.
pub fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()))
    })
}

/// The number of items of a list that an error shows.
const SHOWN: usize = 8;

/// A property by its name, with its figures or its violation.
pub type CheckedProperty = (&'static str, Result<String, String>);

/// Succeeds when `found` is empty.
///
/// # Errors
/// With the number of findings, and the first of them.
pub fn none_of(found: &[impl std::fmt::Debug], what: &str) -> Result<(), String> {
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{} {what}, such as {:?}", found.len(), &found[..found.len().min(SHOWN)]))
}

/// Prints a line for each check: its name, and its figures or its violation. Returns how many passed and how many failed.
pub fn show<'a>(checks: impl IntoIterator<Item = (&'a str, &'a Result<String, String>)>) -> (usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    for (name, outcome) in checks {
        match outcome {
            Ok(figures) => {
                println!("ok      {name}: {figures}");
                passed += 1;
            }
            Err(wrong) => {
                println!("FAILED  {name}: {wrong}");
                failed += 1;
            }
        }
    }
    (passed, failed)
}
