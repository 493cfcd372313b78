//! A broker's data folder, opened for reading alone: no byte of it is changed.
//!
//! While a broker works in the folder its log can still be read: records before the checkpoint are durable and never
//! changes, and behind it the first thing that is no record counts as the end. The index cannot: RocksDB may remove
//! files under a reader. So `--online` reads the log alone.

use clap::Args;
use kerolox_log::LogError;
use kerolox_log::fs::OsFolder;
use kerolox_log::inspect::{InspectMode, LogInspector};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::OutputFormat;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Which folder is read, and how the result is shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// Data folder of a broker, as in its --data
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// Read the log alone, although a broker may be working in the folder
    #[arg(long)]
    pub(crate) online: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// Print progress lines where there is no terminal for a progress bar
    #[arg(long)]
    pub(crate) progress: bool,
}

/// A data folder that is being read. Holds its lock, unless it is read online: no broker can start meanwhile.
pub(crate) struct DataFolder {
    pub(crate) log: LogInspector,
    pub(crate) index: PathBuf,
    _lock: Option<File>,
}

impl Source {
    pub(crate) fn open(&self) -> Result<DataFolder> {
        let log = self.data.join("log");
        let folder = OsFolder::read_only(&log).map_err(|error| {
            CommandFailure::not_found(format!(
                "{} cannot be read: {error}; pass the folder that a broker was given as --data",
                log.display()
            ))
        })?;
        let lock = if self.online { None } else { lock(&self.data)? };
        let mode = if self.online { InspectMode::Live } else { InspectMode::Offline };
        let log = LogInspector::open(&folder, mode).map_err(|error| unreadable(&error))?;
        Ok(DataFolder { log, index: self.data.join("index"), _lock: lock })
    }
}

/// Takes the folder's lock, if there is one; a folder without one (a copy, say) is free.
fn lock(data: &Path) -> Result<Option<File>> {
    let path = data.join("lock");
    if !path.exists() {
        return Ok(None);
    }
    let file = File::open(&path)
        .map_err(|error| CommandFailure::failed(format!("cannot open {}: {error}", path.display())))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CommandFailure::usage(format!(
            "a broker is working in {}; stop it first, or pass --online to read its log alone",
            data.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(CommandFailure::failed(format!("cannot lock {}: {error}", path.display())))
        }
    }
}

/// A log that cannot be read on, as a failure of the command.
pub(crate) fn unreadable(error: &LogError) -> CommandFailure {
    CommandFailure::failed(error.to_string())
}
