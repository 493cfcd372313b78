//! Spare descriptors for the log, so that it can open a file when connections have used up all others.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::is_out_of_files;

/// Number of spare descriptors.
const KEPT: usize = 8;
/// The file that they are open on: it exists on every system, and costs nothing.
const NOTHING: &str = "/dev/null";

/// Open files that are closed to free a descriptor.
#[derive(Debug, Default)]
pub(super) struct SpareFiles {
    kept: Mutex<Vec<File>>,
}

impl SpareFiles {
    /// Opens as many as possible.
    pub(super) fn keep() -> Self {
        let spare = Self::default();
        spare.fill_up();
        spare
    }

    /// Runs `open`; without a free descriptor, closes a spare one and tries again. Another thread may take the freed
    /// descriptor first, so there are several.
    pub(super) fn lend<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_out_of_files(&error) && self.give_up_one() => {}
                Err(error) => return Err(error),
                Ok(opened) => {
                    self.fill_up();
                    return Ok(opened);
                }
            }
        }
    }

    fn give_up_one(&self) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Restores the spare descriptors, as far as possible.
    fn fill_up(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() < KEPT
            && let Ok(file) = File::open(NOTHING)
        {
            kept.push(file);
        }
    }
}
