//! Errors of the log.

use std::io;

use crate::fs::{is_full, is_passing};
use crate::segment::{HEADER_LEN, file_name};

/// A range of the log that cannot be read. It is never cut off, overwritten or reused; everything outside it stays readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "damaged log in {file}, position {position} to {until}: {reason}; the rest stays readable, nothing was changed; restore the file from a replica or a backup"
)]
pub struct DamagedRange {
    /// File name of the segment.
    pub file: String,
    /// Beginning of the range.
    pub position: u64,
    /// End of the range: position of the next readable record, or the end of the log.
    pub until: u64,
    /// The inconsistency that was found.
    pub reason: String,
}

impl DamagedRange {
    /// Whether the range may have held records: one that covers only the header of a segment holds none.
    pub fn hides_records(&self) -> bool {
        let is_header = self.file == file_name(self.position) && self.until <= self.position + HEADER_LEN;
        !is_header
    }
}

/// Failure of a log operation.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{action} failed: {source}")]
    Io {
        /// The failed action, with the file.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// There is no space, or no file can be opened: nothing was written, and a retry is safe.
    #[error("{action} failed: {source}; nothing was written, and the broker retries it")]
    NotNow {
        /// The failed action, with the file.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// An earlier write or sync failed; the log stays read-only until the process starts again.
    #[error("the log is read-only since an earlier failure: {0}; mend the disk and restart the broker")]
    ReadOnly(String),
    /// Bytes that may have been durable once cannot be read back.
    #[error(transparent)]
    Damaged(DamagedRange),
    /// The device cannot read a place, and no record was found behind it, so the end of the log is unknown.
    #[error(
        "{file} cannot be read at position {position} ({source}), and no record was found behind it, so the end of the log is unknown; nothing was changed; mend the disk, or copy the folder to another one with a tool that replaces unreadable bytes by zeros, and start with the copy: the unreadable bytes are then lost"
    )]
    Unreadable {
        /// File name of the segment.
        file: String,
        /// First position that cannot be read.
        position: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A file does not belong to the others.
    #[error("{file} cannot be used: {reason}")]
    Misplaced {
        /// File name.
        file: String,
        /// Why it does not, and how to fix that.
        reason: String,
    },
    /// The oldest segments are missing.
    #[error(
        "{file} is missing, the beginning of this log as {begin} marks it, and so is everything before {oldest}; nothing was changed. Put the missing files back, from where they were moved to or from a backup; a member of a group with others can empty its data folder and then copies everything. To continue without them, and lose their records for good, remove {begin} from the log folder"
    )]
    Missing {
        /// File name of the segment with which the log begins.
        file: String,
        /// File name of the oldest segment that exists.
        oldest: String,
        /// Name of the file that marks the beginning of the log.
        begin: String,
    },
    /// The folder holds data in a format that this version does not know.
    #[error("{file} has an unknown format: {reason}; was it written by a newer version?")]
    Format {
        /// File name.
        file: String,
        /// The unknown format.
        reason: String,
    },
    /// No record begins at the position.
    #[error("no record at position {position}: {reason}")]
    NotFound {
        /// Position asked for.
        position: u64,
        /// Why no record begins there.
        reason: String,
    },
    /// Bytes copied from another log do not belong at the position, or are damaged; nothing was written.
    #[error("records cannot be copied to position {position}: {reason}")]
    Copy {
        /// Target position.
        position: u64,
        /// Why they were refused.
        reason: String,
    },
    /// The record is larger than a frame can be, in bytes.
    #[error("a record body of {0} bytes does not fit a frame (limit 1 GiB)")]
    TooLarge(usize),
}

impl LogError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Maps an I/O error of an action that is undone when it fails: a lack of space or descriptors becomes an error
    /// that can be retried.
    pub(crate) fn undone(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| {
            if is_passing(&source) { Self::NotNow { action, source } } else { Self::Io { action, source } }
        }
    }

    /// Whether nothing was changed, and a retry is safe.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NotNow { .. })
    }

    /// Whether the cause is a full disk.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NotNow { source, .. } if is_full(source))
    }
}

impl From<DamagedRange> for LogError {
    fn from(range: DamagedRange) -> Self {
        Self::Damaged(range)
    }
}
