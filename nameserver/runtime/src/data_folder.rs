//! # Data folder
//!
//! Tells whether the data folder of a process is still the one that it opened. A folder that was deleted,
//! moved or mounted over still takes writes, but they are gone at the next start. The folder is held open,
//! and looked at every second.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::health::HealthCheck;

/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Files and folders that have to stay where they are. One that is missed once stays missed until the end of
/// the process: writes in between went somewhere else.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    parts: Vec<Part>,
    missed: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Part {
    /// The name that clients are told, who need not know its place.
    name: String,
    path: PathBuf,
    identity: Identity,
    /// Held open, or the system could give its number to what takes its place.
    _open: File,
}

/// Device and number on it.
type Identity = (u64, u64);

impl DataFolder {
    /// Notes the identity of the folder at `path` and of its `parts`, which have to be there.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn note(path: &Path, parts: &[&str]) -> io::Result<Self> {
        let note = |(name, path): (String, PathBuf)| {
            let open = File::open(&path)?;
            Ok(Part { name, identity: identity(&path)?, path, _open: open })
        };
        let whole = ("the data folder".to_owned(), path.to_owned());
        let parts = parts.iter().map(|part| (format!("{part} in the data folder"), path.join(part)));
        let parts = [whole].into_iter().chain(parts).map(note).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { path: path.to_owned(), parts, missed: watch::Sender::new(None) })
    }

    /// Looks now. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// The missing part, in words, now or at an earlier look.
    pub fn look(&self) -> Result<(), String> {
        if let Some(missed) = self.parts.iter().find_map(Part::missed) {
            self.missed.send_if_modified(|known| {
                let is_new = known.is_none();
                if is_new {
                    tracing::error!(
                        folder = %self.path.display(),
                        "{missed} under this process, and what it writes would not be there at its next start: bring the folder back and restart it"
                    );
                    *known = Some(missed);
                }
                is_new
            });
        }
        self.missed().map_or(Ok(()), Err)
    }

    /// The part that a look missed.
    pub fn missed(&self) -> Option<String> {
        self.missed.borrow().clone()
    }

    /// Completes when a look missed something, at once when one has.
    pub fn is_missed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut missed = self.missed.subscribe();
        async move {
            // The sender lives in `self`; without it no look comes any more.
            if missed.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What health checks say.
    pub fn check(&self) -> HealthCheck {
        match self.missed() {
            Some(missed) => HealthCheck::failed(
                "data",
                format!("{missed} under this process; bring the folder back and restart it"),
            ),
            None => HealthCheck::ok("data", "the folder is in its place"),
        }
    }

    /// Looks again and again, until something is missing.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.missed().is_none() {
            ticks.tick().await;
            let folder = self.clone();
            let look = tokio::task::spawn_blocking(move || drop(folder.look()));
            look.await.expect("a panic would end the process");
        }
    }
}

impl Part {
    fn missed(&self) -> Option<String> {
        match identity(&self.path) {
            Ok(found) if found == self.identity => None,
            Ok(_) => Some(format!("{} was replaced or mounted over", self.name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(format!("{} was deleted or moved away", self.name))
            }
            Err(error) => Some(format!("{} cannot be reached ({error})", self.name)),
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(folder: &Path) -> DataFolder {
        fs::create_dir_all(folder.join("data/log")).expect("made");
        DataFolder::note(&folder.join("data"), &["log"]).expect("there")
    }

    /// The part that is missed after `change`, and stays missed.
    fn missed_after(change: impl Fn(&Path)) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let noted = noted(folder.path());
        assert_eq!(noted.look(), Ok(()));
        change(folder.path());
        let missed = noted.look().err();
        fs::create_dir_all(folder.path().join("data/log")).expect("made");
        assert_eq!(noted.look().err(), missed);
        missed
    }

    #[test]
    fn what_is_deleted_moved_or_replaced_is_missed_for_good() {
        let deleted = missed_after(|folder| fs::remove_dir_all(folder.join("data")).expect("removed"));
        assert_eq!(deleted.as_deref(), Some("the data folder was deleted or moved away"));
        let moved = missed_after(|folder| {
            fs::rename(folder.join("data/log"), folder.join("elsewhere")).expect("moved");
        });
        assert_eq!(moved.as_deref(), Some("log in the data folder was deleted or moved away"));
        let replaced = missed_after(|folder| {
            fs::remove_dir_all(folder.join("data")).expect("removed");
            fs::create_dir_all(folder.join("data/log")).expect("made");
        });
        assert_eq!(replaced.as_deref(), Some("the data folder was replaced or mounted over"));
        let filled = missed_after(|folder| fs::write(folder.join("data/new"), "").expect("written"));
        assert_eq!(filled, None);
    }
}
