//! What the programs that torture a cluster have in common: their seed, and how they tell what they found.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed that was given, or a new one.
pub fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()))
    })
}

/// How many of a list an error shows.
const SHOWN: usize = 8;

/// A property by its name, with its figures or what is wrong.
pub type CheckedProperty = (&'static str, Result<String, String>);

/// Fine when nothing of the kind was found.
///
/// # Errors
/// With how many were, and some of them.
pub fn none_of(found: &[impl std::fmt::Debug], what: &str) -> Result<(), String> {
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{} {what}, such as {:?}", found.len(), &found[..found.len().min(SHOWN)]))
}

/// Prints a line for each check: its name, and its figures or what is wrong. Returns how many passed and how many failed.
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
