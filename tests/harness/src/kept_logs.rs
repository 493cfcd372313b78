//! Logs that outlive the test that made them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};

/// Environment variable that names a folder in which logs outlive their test; `tests/run.sh` shows it when a suite fails.
const KEPT_LOGS: &str = "KEROLOX_LOGS";

/// Gives the log of a process a second name below the folder that `KEROLOX_LOGS` names, so that it is still there when its test has
/// removed its folder or was killed. Does nothing without that variable.
///
/// # Errors
/// When it cannot have that name.
pub fn keep_log(log: &Path) -> Result<()> {
    kept_logs().map_or(Ok(()), |kept| keep_in(&kept, log))
}

/// The folder in which logs outlive their test, if there is one.
pub fn kept_logs() -> Option<PathBuf> {
    std::env::var_os(KEPT_LOGS).map(PathBuf::from)
}

/// The second name is `kept/TEST/FOLDER-NAME`.
fn keep_in(kept: &Path, log: &Path) -> Result<()> {
    let thread = thread::current();
    let of_test = kept.join(thread.name().unwrap_or("main").replace("::", "."));
    fs::create_dir_all(&of_test).with_context(|| format!("making {}", of_test.display()))?;
    let folder = log.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let second = of_test.join(format!("{}-{name}", folder.trim_start_matches('.')));
    match fs::hard_link(log, &second) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("keeping the log as {}", second.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_kept_log_outlives_the_folder_of_its_test() {
        let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = folder.path().join("broker.log");
        fs::write(&log, "first").unwrap();
        keep_in(kept.path(), &log).unwrap();
        keep_in(kept.path(), &log).unwrap();
        File::options().append(true).open(&log).unwrap().write_all(b" second").unwrap();
        folder.close().unwrap();
        let of_test = kept.path().join("kept_logs.tests.a_kept_log_outlives_the_folder_of_its_test");
        let logs: Vec<_> = fs::read_dir(of_test).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(logs.len(), 1, "{logs:?}");
        assert_eq!(fs::read_to_string(&logs[0]).unwrap(), "first second");
    }
}
