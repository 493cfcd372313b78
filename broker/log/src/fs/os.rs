//! The operating system's files.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

use super::spare::SpareFiles;
use super::{File, Folder};

/// A folder on disk.
#[derive(Debug, Clone)]
pub struct OsFolder {
    path: PathBuf,
    writable: bool,
    /// The folder itself, kept open so that syncing it needs no descriptor.
    itself: Arc<fs::File>,
    spare: Arc<SpareFiles>,
}

impl OsFolder {
    /// The folder at `path`, created if it is missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let (itself, spare) = (Arc::new(fs::File::open(path)?), Arc::new(SpareFiles::keep()));
        Ok(Self { path: path.to_owned(), writable: true, itself, spare })
    }

    /// The folder at `path`, whose files can only be read; it must exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_only(path: &Path) -> io::Result<Self> {
        fs::read_dir(path)?;
        let (itself, spare) = (Arc::new(fs::File::open(path)?), Arc::default());
        Ok(Self { path: path.to_owned(), writable: false, itself, spare })
    }
}

/// Bytes that an unprivileged program can still write to the file system that holds `path`.
///
/// # Errors
/// The system's error.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

struct OsFile(fs::File);

impl Folder for OsFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.spare.lend(|| fs::read_dir(&self.path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path.join(name);
        let open = || OpenOptions::new().read(true).write(self.writable).open(&path);
        Ok(Arc::new(OsFile(self.spare.lend(open)?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if !self.writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let path = self.path.join(name);
        let create = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        Ok(Arc::new(OsFile(self.spare.lend(create)?)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.itself.sync_all()
    }
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_all(buf, offset, |buf, offset| self.0.read_at(buf, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all(bytes, offset, |bytes, offset| self.0.write_at(bytes, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // Not every file system can reserve space; a sparse file has to do then.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.len()? < len => self.set_len(len),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn read_ahead(&self, on: bool) {
        let advice = if on { Advice::Normal } else { Advice::Random };
        // Only a hint: without it, reading costs more.
        let _ = rustix::fs::fadvise(&self.0, 0, None, advice);
    }

    fn data_in(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end
            && let Some(start) = self.seek(SeekFrom::Data(at))?.filter(|start| *start < range.end)
        {
            // A file always ends with a hole; only one that was cut off just now has none.
            let Some(end) = self.seek(SeekFrom::Hole(start))? else { break };
            // A hole reported at the beginning of the data means that the file is being changed: one byte is data then.
            at = end.clamp(start + 1, range.end);
            found.push(start..at);
        }
        Ok(found)
    }
}

impl OsFile {
    /// Position of the next data or hole; `None` behind the end. Moves the cursor, which no other code uses.
    fn seek(&self, what: SeekFrom) -> io::Result<Option<u64>> {
        match (rustix::fs::seek(&self.0, what), what) {
            (Ok(found), _) => Ok(Some(found)),
            (Err(Errno::NXIO), _) => Ok(None),
            // Not every file system knows its holes: without them, everything may be data.
            (Err(Errno::INVAL | Errno::OPNOTSUPP), SeekFrom::Data(from)) => {
                Ok((from < self.len()?).then_some(from))
            }
            (Err(Errno::INVAL | Errno::OPNOTSUPP), _) => Ok(Some(self.len()?)),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Reads until the buffer is full or the file ends, in as many steps as the system takes.
fn read_all(
    buf: &mut [u8],
    offset: u64,
    read_some: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read_some(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes everything, in as many steps as the system takes.
fn write_all(
    bytes: &[u8],
    offset: u64,
    write_some: impl Fn(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write_some(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const DATA: &[u8] = b"The system may take its time.";

    /// A system that is interrupted before every step and moves at most 3 bytes in one.
    fn slow<T>(interrupted: &Cell<bool>, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        interrupted.set(!interrupted.get());
        if interrupted.get() { Err(io::ErrorKind::Interrupted.into()) } else { step() }
    }

    #[test]
    fn short_and_interrupted_reads_are_completed() {
        let interrupted = Cell::new(false);
        let read_some = |buf: &mut [u8], offset: u64| {
            slow(&interrupted, || {
                let from = &DATA[usize::try_from(offset).expect("small").min(DATA.len())..];
                let n = buf.len().min(from.len()).min(3);
                buf[..n].copy_from_slice(&from[..n]);
                Ok(n)
            })
        };
        let mut buf = [0; 10];
        assert_eq!(read_all(&mut buf, 4, read_some).expect("read"), 10);
        assert_eq!(&buf, b"system may");
        assert_eq!(read_all(&mut buf, 24, read_some).expect("read up to the end"), 5);
        let refused = |_: &mut [u8], _| Err(io::ErrorKind::PermissionDenied.into());
        assert!(read_all(&mut buf, 0, refused).is_err());
    }

    #[test]
    fn short_and_interrupted_writes_are_completed() {
        let (interrupted, written) = (Cell::new(false), RefCell::new(Vec::new()));
        let write_some = |bytes: &[u8], offset: u64| {
            slow(&interrupted, || {
                assert_eq!(offset, 7 + written.borrow().len() as u64);
                let n = bytes.len().min(3);
                written.borrow_mut().extend_from_slice(&bytes[..n]);
                Ok(n)
            })
        };
        write_all(DATA, 7, write_some).expect("written");
        assert_eq!(written.into_inner(), DATA);
        let error = write_all(DATA, 0, |_, _| Ok(0)).expect_err("stuck");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
