//! Files in memory that forget what was not synced, for tests and simulations.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Folder};

/// A folder in memory. Clones share it.
///
/// [`Self::crash`] does what a power cut does: writes since the last sync survive, vanish, or are torn, as a chooser
/// decides. [`Self::fail`] makes writes or syncs fail like a bad disk.
#[derive(Debug, Clone, Default)]
pub struct MemFolder {
    shared: Arc<Mutex<Shared>>,
}

/// What [`MemFolder::fail`] breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes are refused.
    Write,
    /// Syncs are refused.
    Sync,
}

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    fault: Option<Fault>,
}

#[derive(Debug, Default)]
struct Content {
    /// What a reader sees.
    bytes: Vec<u8>,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// Writes since the last sync: offset and bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
}

struct MemFile {
    shared: Arc<Mutex<Shared>>,
    content: Arc<Mutex<Content>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemFolder {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power. For each unsynced write, `keep(len)` says how many of its bytes reached the disk.
    pub fn crash(&self, mut keep: impl FnMut(usize) -> usize) {
        for content in lock(&self.shared).files.values() {
            let mut content = lock(content);
            let mut bytes = content.durable.clone();
            for (offset, written) in std::mem::take(&mut content.unsynced) {
                let kept = keep(written.len()).min(written.len());
                put(&mut bytes, offset, &written[..kept]);
            }
            content.durable.clone_from(&bytes);
            content.bytes = bytes;
        }
    }

    /// Makes operations fail from now on; `None` mends the disk.
    pub fn fail(&self, fault: Option<Fault>) {
        lock(&self.shared).fault = fault;
    }

    /// Changes one byte of a file behind everybody's back.
    pub fn flip(&self, name: &str, offset: usize) {
        let content = lock(&self.shared).files[name].clone();
        let mut content = lock(&content);
        content.bytes[offset] ^= 0x40;
        content.durable = content.bytes.clone();
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

impl Folder for MemFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.shared).files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = lock(&self.shared).files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { shared: self.shared.clone(), content }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = Arc::new(Mutex::new(Content::default()));
        if lock(&self.shared).files.insert(name.to_owned(), content.clone()).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Arc::new(MemFile { shared: self.shared.clone(), content }))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl MemFile {
    fn check(&self, fault: Fault) -> io::Result<()> {
        if lock(&self.shared).fault == Some(fault) {
            return Err(io::Error::other("simulated disk failure"));
        }
        Ok(())
    }
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
        let n = buf.len().min(content.bytes.len() - start);
        buf[..n].copy_from_slice(&content.bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check(Fault::Write)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut content = lock(&self.content);
        put(&mut content.bytes, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.check(Fault::Sync)?;
        let mut content = lock(&self.content);
        content.durable = content.bytes.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        lock(&self.content).bytes.resize(len, 0);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }
}
