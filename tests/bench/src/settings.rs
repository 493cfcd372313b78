//! What a run is asked to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use kerolox_log::fs::free_bytes;

/// Groups of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupName {
    /// Append without waiting for syncs, against a plain writer
    Append,
    /// Group commit, against writes with a sync each
    Commit,
    /// Append with 1, 64 and 10,000 queues
    Queues,
    /// Append for a while, with the threads' times
    Indexed,
    /// Sequential reads of the log and of queues
    Read,
    /// Append to topics with and without deduplication
    Dedup,
    /// Look-ups by message id, key and time
    Find,
    /// Start after a kill, rebuild of the index, memory and disk per message
    Startup,
}

/// A run's settings, after defaults were filled in.
#[derive(Debug, Clone)]
pub struct BenchSettings {
    /// Where folders for data are made.
    pub folder: PathBuf,
    /// Everything is short, and nothing is judged.
    pub quick: bool,
    /// Messages per batch.
    pub batch: usize,
    /// Bytes of a message body.
    pub body: usize,
    /// Queues of the `indexed` group.
    pub queues: u32,
    /// Whether messages of the `indexed` group have keys.
    pub keys: bool,
    /// Seconds of the `indexed` group.
    pub seconds: Option<f64>,
    /// Messages of the `startup` group.
    pub records: Option<u64>,
}

impl BenchSettings {
    /// `full` in a full run, `quick` in a quick one.
    pub fn choose<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Seconds of one turn.
    pub fn turn(&self) -> Duration {
        Duration::from_millis(self.choose(1000, 20))
    }

    /// Turns of each contestant.
    pub fn rounds(&self) -> usize {
        self.choose(7, 2)
    }

    /// A folder for one benchmark, which goes when it is dropped; an error when there is not enough room for `bytes`.
    ///
    /// # Errors
    /// When there is too little room, or the folder cannot be made.
    pub fn scratch(&self, bytes: u64) -> anyhow::Result<tempfile::TempDir> {
        need_room(&self.folder, bytes)?;
        tempfile::Builder::new()
            .prefix("kerolox-bench.")
            .tempdir_in(&self.folder)
            .with_context(|| format!("cannot make a folder in {}", self.folder.display()))
    }
}

/// Refuses when the disk has less room than that and some to spare.
fn need_room(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let free = free_bytes(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    // Half a segment and some files of RocksDB.
    let needed = bytes + (1 << 30);
    if free < needed {
        bail!(
            "{} has {:.1} GB free, and {:.1} GB are needed; make room, or name another folder with --dir",
            folder.display(),
            free as f64 / 1e9,
            needed as f64 / 1e9
        );
    }
    Ok(())
}
