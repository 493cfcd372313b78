//! The interface to the file system: few, coarse operations, so that tests can lose, tear and refuse writes.
//!
//! [`OsFolder`] uses the operating system; [`MemFolder`] behaves alike and can simulate every failure of a disk or a
//! power supply. [`check_contract`] checks both against one set of rules.

mod choose;
mod contract;
mod mem;
mod os;
mod spare;

use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use choose::SeededChoices;
pub use contract::check_contract;
pub use mem::{DiskFault, FaultTimes, MemFolder, UnsyncedPiece};
pub use os::{OsFolder, free_bytes};

/// Whether a read failed because the device or the file system lost the place: other places may be fine.
pub fn is_bad_place(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|number| known.iter().any(|errno| errno.raw_os_error() == number))
}

/// Whether the disk is full, or the quota used up.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the process, or the whole system, can open no more files at the moment.
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::MFILE, Errno::NFILE];
    error.raw_os_error().is_some_and(|number| known.iter().any(|errno| errno.raw_os_error() == number))
}

/// Whether the operation may succeed later: space or descriptors were lacking.
pub fn is_passing(error: &io::Error) -> bool {
    is_full(error) || is_out_of_files(error)
}

/// A flat folder of files.
pub trait Folder: Send + Sync {
    /// Names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Creates an empty file; an existing one is an error. The name is durable after [`Self::sync`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Removes a file; a missing one is an error. The removal is durable after [`Self::sync`]. Open handles can go on
    /// reading the file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created and removed names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file with positioned reads and writes. It has no shared cursor, so readers and the writer never interfere.
pub trait File: Send + Sync {
    /// Fills as much of `buf` as the file has; fewer bytes than requested only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, growing the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes written data and the length durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts off or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len`, extending with zeros, so that appends neither grow the file nor run out of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Enables or disables the system's read-ahead, which is on at first. A hint.
    fn read_ahead(&self, _on: bool) {}
    /// The parts of `range` that may hold anything but zeros, in order; they end with the file. A hint that saves
    /// reading reserved space; reliable once the file is synced. Ask before reading there: zeros that were read are
    /// cached by the system, and count as data from then on.
    fn data_in(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let until = range.end.min(self.len()?);
        Ok((range.start < until).then_some(range.start..until).into_iter().collect())
    }
}
