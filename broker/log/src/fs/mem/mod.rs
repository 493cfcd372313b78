//! Files in memory that lose unsynced data, for tests and simulations.

mod content;
mod faults;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::content::{Content, Survivor};
pub use self::faults::{DiskFault, FaultTimes};
use self::faults::{Faults, Verdict};
use super::choose::Survival;
use super::{File, Folder};

/// A folder in memory. Clones share it.
///
/// [`Self::crash`] acts like a power cut: unsynced writes survive, vanish or are torn, unsynced names come and go.
/// [`Self::power_off_at`] chooses the moment. [`Self::fail`], [`Self::fail_nth`] and [`Self::set_capacity`] simulate a
/// bad or full disk; [`Self::flip`] and [`Self::truncate`] corrupt stored data.
#[derive(Debug, Clone, Default)]
pub struct MemFolder {
    shared: Arc<Mutex<Shared>>,
}

/// Unsynced data that a power cut may take; see [`MemFolder::crash_with`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsyncedPiece {
    /// The creation or removal of a name.
    Name(String),
    /// A new length of a file.
    Length {
        /// File name.
        name: String,
        /// The length in bytes.
        len: usize,
    },
    /// A part of a write, within one sector of 512 bytes.
    Write {
        /// File name.
        name: String,
        /// Offset in the file.
        offset: usize,
        /// Its length in bytes.
        len: usize,
    },
}

type Inode = Arc<Mutex<Content>>;
type Shelf = BTreeMap<String, Inode>;

#[derive(Debug, Default)]
struct Shared {
    files: Shelf,
    /// The names that surely survive a power cut.
    durable: Shelf,
    faults: Faults,
    capacity: Option<u64>,
    /// Number of power cuts so far; files that were opened before the last one are dead.
    life: u64,
}

struct MemFile {
    shared: Arc<Mutex<Shared>>,
    content: Inode,
    life: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemFolder {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power and gets it back; `seed` decides which unsynced changes survive. Open files become unusable.
    /// Requested faults stay.
    pub fn crash(&self, seed: u64) {
        let mut survival = Survival::new(seed);
        self.crash_with(|_| survival.next());
    }

    /// Loses power like [`Self::crash`]; `survives` is asked for every unsynced piece. Within one sector, writes reach the
    /// disk in order: once one is lost, the later ones are lost without asking.
    pub fn crash_with(&self, mut survives: impl FnMut(&UnsyncedPiece) -> bool) {
        let mut shared = lock(&self.shared);
        let shared = &mut *shared;
        shared.faults.power_on();
        shared.life += 1;
        let mut left = Shelf::new();
        let names: BTreeSet<&String> = shared.files.keys().chain(shared.durable.keys()).collect();
        for name in names {
            let (visible, durable) = (shared.files.get(name), shared.durable.get(name));
            let same = match (visible, durable) {
                (Some(visible), Some(durable)) => Arc::ptr_eq(visible, durable),
                _ => false,
            };
            let survivor =
                if same || survives(&UnsyncedPiece::Name(name.clone())) { visible } else { durable };
            left.extend(survivor.map(|content| (name.clone(), content.clone())));
        }
        for (name, content) in &left {
            lock(content).crash(|survivor| {
                survives(&match survivor {
                    Survivor::Length(len) => UnsyncedPiece::Length { name: name.clone(), len },
                    Survivor::Write { offset, len } => {
                        UnsyncedPiece::Write { name: name.clone(), offset, len }
                    }
                })
            });
        }
        shared.files.clone_from(&left);
        shared.durable = left;
    }

    /// Cuts the power in the middle of the `nth` changing operation from now (0 is the next one): that one and all later
    /// ones fail, until [`Self::crash`].
    pub fn power_off_at(&self, nth: u64) {
        lock(&self.shared).faults.power_off_at(nth);
    }

    /// Changing operations so far: everything but opening, listing and reading.
    pub fn operations(&self) -> u64 {
        lock(&self.shared).faults.operations()
    }

    /// Makes operations of a kind fail from now on; `None` mends the disk.
    pub fn fail(&self, fault: Option<DiskFault>) {
        match fault {
            Some(fault) => self.fail_nth(fault, 0, FaultTimes::ForGood),
            None => lock(&self.shared).faults.mend(),
        }
    }

    /// Makes the `nth` operation of a kind from now (0 is the next one) fail.
    pub fn fail_nth(&self, fault: DiskFault, nth: u64, times: FaultTimes) {
        lock(&self.shared).faults.plan(fault, nth, times);
    }

    /// Sets the capacity for all files together, in bytes; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.shared).capacity = bytes;
    }

    /// Makes a range of a file unreadable for good, like bad sectors of a disk.
    pub fn give_up(&self, name: &str, range: Range<usize>) {
        let content = lock(&self.shared).files.get(name).cloned();
        if let Some(content) = content {
            lock(&content).give_up(range);
        }
    }

    /// Flips one bit of one byte of a file, bypassing the file operations.
    pub fn flip(&self, name: &str, offset: usize) {
        self.flip_bits(name, offset, 0x40);
    }

    /// Flips the bits of `mask` in one byte of a file, bypassing the file operations.
    pub fn flip_bits(&self, name: &str, offset: usize, mask: u8) {
        self.tamper(name, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        });
    }

    /// Cuts off the end of a file, bypassing the file operations.
    pub fn truncate(&self, name: &str, len: usize) {
        self.tamper(name, |bytes| bytes.truncate(len));
    }

    /// Names of the files, even without power.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared).files.keys().cloned().collect()
    }

    /// The content of a file as a reader sees it; `None` when there is none of that name.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.shared).files.get(name).map(|content| lock(content).bytes.clone())
    }

    /// An independent copy, on a disk with the bad places but without other faults, and with the unsynced data of this
    /// one.
    pub fn fork(&self) -> Self {
        let shared = lock(&self.shared);
        let mut copies: Vec<(Inode, Inode)> = Vec::new();
        let mut copy = |shelf: &Shelf| {
            let entries = shelf.iter().map(|(name, content)| {
                let known = copies.iter().find(|(original, _)| Arc::ptr_eq(original, content));
                let copied = match known {
                    Some((_, copied)) => copied.clone(),
                    None => {
                        let copied = Arc::new(Mutex::new(lock(content).clone()));
                        copies.push((content.clone(), copied.clone()));
                        copied
                    }
                };
                (name.clone(), copied)
            });
            entries.collect::<Shelf>()
        };
        let (files, durable) = (copy(&shared.files), copy(&shared.durable));
        let shared = Shared { files, durable, ..Shared::default() };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn tamper(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let content = lock(&self.shared).files.get(name).cloned();
        if let Some(content) = content {
            lock(&content).tamper(change);
        }
    }
}

impl Shared {
    /// Runs a changing operation, unless it is refused. In a power cut its effect takes place, but is not durable.
    fn change<T>(
        &mut self,
        fault: DiskFault,
        change: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.faults.meet(fault) {
            Verdict::Done => change(self),
            Verdict::Refused(error) => Err(error),
            Verdict::Cut(error) => change(self).and(Err(error)),
        }
    }

    /// Bytes that may still be added.
    fn room(&self) -> u64 {
        let Some(capacity) = self.capacity else { return u64::MAX };
        let used: u64 = self.files.values().map(|content| lock(content).bytes.len() as u64).sum();
        capacity.saturating_sub(used)
    }
}

impl Folder for MemFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let shared = lock(&self.shared);
        shared.faults.check_power()?;
        Ok(shared.files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let shared = lock(&self.shared);
        shared.faults.check_power()?;
        let content = shared.files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { shared: self.shared.clone(), content, life: shared.life }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut shared = lock(&self.shared);
        let content = shared.change(DiskFault::Create, |shared| {
            if shared.files.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let content = Inode::default();
            shared.files.insert(name.to_owned(), content.clone());
            Ok(content)
        })?;
        Ok(Arc::new(MemFile { shared: self.shared.clone(), content, life: shared.life }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.shared).change(DiskFault::Remove, |shared| {
            shared.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut shared = lock(&self.shared);
        match shared.faults.meet(DiskFault::SyncFolder) {
            Verdict::Done => {
                shared.durable = shared.files.clone();
                Ok(())
            }
            Verdict::Refused(error) | Verdict::Cut(error) => Err(error),
        }
    }
}

impl MemFile {
    /// The folder, unless it lost power since the file was opened.
    fn folder(&self) -> io::Result<MutexGuard<'_, Shared>> {
        let shared = lock(&self.shared);
        if shared.life == self.life { Ok(shared) } else { Err(faults::power_is_off()) }
    }

    /// Maximum length of the file, in bytes.
    fn len_max(&self, shared: &Shared) -> u64 {
        let len = lock(&self.content).bytes.len() as u64;
        len.saturating_add(shared.room())
    }

    fn resize(&self, fault: DiskFault, len: u64) -> io::Result<()> {
        self.folder()?.change(fault, |shared| {
            if len > self.len_max(shared) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            lock(&self.content).set_len(usize::try_from(len).map_err(io::Error::other)?);
            Ok(())
        })
    }
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Verdict::Refused(error) | Verdict::Cut(error) = self.folder()?.faults.meet(DiskFault::Read) {
            return Err(error);
        }
        lock(&self.content).read(buf, usize::try_from(offset).unwrap_or(usize::MAX))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut shared = self.folder()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let verdict = shared.faults.meet(DiskFault::Write);
        let room = usize::try_from(self.len_max(&shared).saturating_sub(offset)).unwrap_or(usize::MAX);
        let fitting = &bytes[..bytes.len().min(room)];
        let mut content = lock(&self.content);
        match verdict {
            Verdict::Done if fitting.len() < bytes.len() => {
                content.write(start, fitting);
                Err(io::ErrorKind::StorageFull.into())
            }
            Verdict::Done => {
                content.write(start, bytes);
                Ok(())
            }
            Verdict::Refused(error) => {
                if shared.faults.check_power().is_ok() {
                    content.write(start, &fitting[..fitting.len() / 2]);
                }
                Err(error)
            }
            Verdict::Cut(error) => {
                content.write(start, fitting);
                Err(error)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut shared = self.folder()?;
        match shared.faults.meet(DiskFault::Sync) {
            Verdict::Done => {
                lock(&self.content).sync();
                Ok(())
            }
            Verdict::Refused(error) => {
                lock(&self.content).forget();
                Err(error)
            }
            Verdict::Cut(error) => Err(error),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.folder()?.faults.check_power()?;
        Ok(lock(&self.content).bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(DiskFault::SetLen, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = len.max(self.len()?);
        self.resize(DiskFault::Allocate, len)
    }

    fn data_in(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.folder()?.faults.check_power()?;
        let offset = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let found = lock(&self.content).data_in(offset(range.start)..offset(range.end));
        Ok(found.into_iter().map(|data| data.start as u64..data.end as u64).collect())
    }
}
