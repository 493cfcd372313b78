//! Changes to the data folder of a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::ServerProcess;

/// How long a server may take to find out that its data cannot be right.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

impl ServerProcess {
    /// Removes everything from the data folder of a server that does not run; the folder stays.
    ///
    /// # Errors
    /// When it runs, or the system refuses.
    pub fn wipe_data(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "only the data of a server that is down is wiped");
        for entry in fs::read_dir(self.data()).context("wiping data")? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("wiping {}", path.display()))?;
        }
        Ok(())
    }

    /// Copies the data of a server that does not run.
    ///
    /// # Errors
    /// When it runs, or the system refuses.
    pub fn copy_data(&mut self, to: &Path) -> Result<()> {
        ensure!(!self.is_running(), "only the data of a server that is down is copied");
        copy_folder(&self.data(), to)
    }

    /// Gives a server that does not run the data of a copy, and nothing else.
    ///
    /// # Errors
    /// When it runs, or the system refuses.
    pub fn restore_data(&mut self, from: &Path) -> Result<()> {
        self.wipe_data()?;
        copy_folder(from, &self.data())
    }

    /// The folder with a broker's log.
    pub fn log_folder(&self) -> PathBuf {
        self.data().join("log")
    }

    /// The segments of a broker's log, the oldest one first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn log_segments(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.log_folder()).context("looking at a log")?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().context("looking at a log")?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        Ok(paths)
    }

    /// Starts a server that is to find out that its data cannot be right, and waits until it has ended.
    ///
    /// # Errors
    /// When it goes on.
    pub fn expect_refusal(&mut self) -> Result<()> {
        // It may end before it answers anything.
        let _ = self.begin();
        let started = Instant::now();
        while self.is_running() {
            ensure!(
                started.elapsed() < REFUSAL_LIMIT,
                "{} goes on with data that cannot be right:\n{}",
                self.name(),
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(50));
        }
        self.kill()
    }
}

/// Copies a folder with everything in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).with_context(failed)?;
        let to = to.join(name);
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(from, to).with_context(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_copied_wiped_and_restored() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = ServerProcess::new("broker", Path::new("/bin/false"), folder.path(), &[]);
        fs::create_dir_all(server.log_folder()).unwrap();
        for name in ["2.log", "1.log", "other"] {
            fs::write(server.log_folder().join(name), name).unwrap();
        }
        let copy = folder.path().join("copy");
        server.copy_data(&copy).unwrap();
        server.wipe_data().unwrap();
        assert!(server.data().exists() && !server.log_folder().exists());
        fs::write(server.data().join("later"), "").unwrap();
        server.restore_data(&copy).unwrap();
        assert!(!server.data().join("later").exists());
        let names = server.log_segments().unwrap();
        let names: Vec<_> = names.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(names, ["1.log", "2.log"]);
    }
}
