//! What can go wrong with a log.

use std::io;

use crate::fs::{is_full, is_passing};
use crate::segment::{HEADER_LEN, file_name};

/// A range of the log that cannot be read. It is never cut off, written to or used again; everything outside it stays
/// readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "damaged log in {file}, position {position} to {until}: {reason}; the rest stays readable, nothing was changed; restore the file from a replica or a backup"
)]
pub struct DamagedRange {
    /// File name of the segment.
    pub file: String,
    /// Where the range begins.
    pub position: u64,
    /// Where it ends: position of the next readable record, or the end of the log.
    pub until: u64,
    /// What does not fit.
    pub reason: String,
}

impl DamagedRange {
    /// Whether records may have lain there: a range that is the header of a segment and no more holds none.
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
        /// What was being done, with the file.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// There is no room, or no file can be opened: nothing was written, and trying again is fine.
    #[error("{action} failed: {source}; nothing was written, and it is tried again")]
    NotNow {
        /// What was being done, with the file.
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
    /// The device cannot read a place, and nothing behind it is readable that would tell whether the log goes on there.
    #[error(
        "{file} cannot be read at position {position} ({source}), and no record was found behind it: so nobody can tell where the log ends, and nothing was changed; mend the disk, or copy the folder to another one with a tool that fills what it cannot read with zeros, and start with the copy: what it could not read is lost then"
    )]
    Unreadable {
        /// File name of the segment.
        file: String,
        /// First position that cannot be read.
        position: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A file does not go together with the others.
    #[error("{file} cannot be used: {reason}")]
    Misplaced {
        /// File name.
        file: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The oldest segments are not there.
    #[error(
        "{file} is missing, where this log begins ({begin} says so), and so is everything before {oldest}; nothing was changed. Put the missing files back, from where they were moved to or from a backup; a member of a group with others can empty its data folder and copies everything. To go on without them, and lose what they hold for good, remove {begin} from the log folder"
    )]
    Missing {
        /// File name of the segment with which the log begins.
        file: String,
        /// File name of the oldest segment that is there.
        oldest: String,
        /// File name that says where the log begins.
        begin: String,
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
    /// What was to be copied from another log does not belong there, or is damaged; nothing was written.
    #[error("what was to be copied to position {position} does not belong there: {reason}")]
    Copy {
        /// Where it was to go.
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

    /// The same for what is undone when it fails: where the system lacks room or descriptors, it can be tried again.
    pub(crate) fn undone(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| {
            if is_passing(&source) { Self::NotNow { action, source } } else { Self::Io { action, source } }
        }
    }

    /// Whether nothing was changed, and trying again is fine.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NotNow { .. })
    }

    /// Whether that is so because the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NotNow { source, .. } if is_full(source))
    }
}

impl From<DamagedRange> for LogError {
    fn from(range: DamagedRange) -> Self {
        Self::Damaged(range)
    }
}
