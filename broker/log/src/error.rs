//! What can go wrong with a log.

use std::io;

/// Failure of a log operation.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done, with the file.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// An earlier write or sync failed; the log stays read-only until the process starts again.
    #[error("the log is read-only since an earlier failure: {0}; mend the disk and restart the broker")]
    ReadOnly(String),
    /// Bytes that were durable once cannot be read back.
    #[error(
        "damaged log in {file} at position {position}: {reason}; restore the file from a replica or a backup (nothing was changed)"
    )]
    Damaged {
        /// File name of the segment.
        file: String,
        /// Position of the first bad byte's frame.
        position: u64,
        /// What does not fit.
        reason: String,
    },
    /// The folder holds something that this version does not understand.
    #[error("{file} has an unknown format: {reason}; was it written by a newer version?")]
    Format {
        /// File name.
        file: String,
        /// What is unknown.
        reason: String,
    },
    /// No record begins there.
    #[error("no record at position {position}: {reason}")]
    NotFound {
        /// Position asked for.
        position: u64,
        /// Why not.
        reason: String,
    },
    /// Larger than a frame can be.
    #[error("a record body of {0} bytes does not fit a frame (limit 1 GiB)")]
    TooLarge(usize),
}

impl LogError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
