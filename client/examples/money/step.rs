//! Lets a test kill a process at a chosen step. Without the environment variable nothing happens.

use std::io::{BufRead as _, stdin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the step before which to wait for a line on standard input, once.
const VARIABLE: &str = "MONEY_WAIT_AT";

pub(crate) fn step(name: &str) {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    static WAITED: AtomicBool = AtomicBool::new(false);
    let wanted = WANTED.get_or_init(|| std::env::var(VARIABLE).ok());
    if wanted.as_deref() == Some(name) && !WAITED.swap(true, Ordering::Relaxed) {
        println!("waiting at {name}");
        let _ = stdin().lock().read_line(&mut String::new());
    }
}
