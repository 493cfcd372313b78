//! The programs under test.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The program `name` that was built beside the running one, or beside the folder with the running test.
///
/// # Errors
/// When it is not there.
pub fn built_program(name: &str) -> Result<PathBuf> {
    let mut path = std::env::current_exe().context("looking for the running program")?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push(name);
    if !path.exists() {
        bail!("{} does not exist; build it first: cargo build --release", path.display());
    }
    Ok(path)
}
