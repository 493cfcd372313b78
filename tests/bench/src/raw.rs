//! What the machine does without an engine: the same bytes, written, synced and read plainly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kerolox_log::{NewFrame, frame};
use kerolox_store::QueueEntry;

use crate::files;

/// Buffer of the plain writer.
const BUFFER_LEN: usize = 1 << 20;

/// Frames as they would lie in a log.
pub fn frames(records: &[NewFrame]) -> Vec<Vec<u8>> {
    let mut position = 64;
    let encoded = records.iter().map(|record| {
        let mut bytes = Vec::new();
        frame::encode(record, position, 1, 1_700_000_000_000, crate::engine::SALT, &mut bytes);
        position += bytes.len() as u64;
        bytes
    });
    encoded.collect()
}

/// A file that is written from beginning to end through a buffer, record by record.
pub struct PlainWriter {
    out: BufWriter<File>,
    sync_interval: Option<Duration>,
    synced: Instant,
}

impl PlainWriter {
    /// Creates the file; with an interval it is synced that often.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(path: &Path, sync_interval: Option<Duration>) -> io::Result<Self> {
        let out = BufWriter::with_capacity(BUFFER_LEN, File::create(path)?);
        Ok(Self { out, sync_interval, synced: Instant::now() })
    }

    /// Writes all frames again and again until `duration` has passed; returns the number of bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn run(&mut self, frames: &[Vec<u8>], duration: Duration) -> io::Result<u64> {
        let begin = Instant::now();
        let mut written = 0;
        while begin.elapsed() < duration {
            for frame in frames {
                self.out.write_all(frame)?;
                written += frame.len() as u64;
            }
            if self.sync_interval.is_some_and(|interval| self.synced.elapsed() >= interval) {
                self.out.flush()?;
                self.out.get_ref().sync_data()?;
                self.synced = Instant::now();
            }
        }
        self.out.flush()?;
        Ok(written)
    }
}

/// A file to which batches are written, with a sync after each.
pub struct SyncLoop {
    file: File,
    len: u64,
    end: u64,
}

/// How the room of a file is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveMethod {
    /// `fallocate`: the blocks are there, but marked as unwritten.
    Allocated,
    /// Zeros were written: a sync has nothing to change but the data.
    Zeroed,
}

impl SyncLoop {
    /// Creates a file of `len` bytes and syncs it.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(path: &Path, len: u64, reserve: ReserveMethod) -> io::Result<Self> {
        let file = File::create(path)?;
        match reserve {
            ReserveMethod::Allocated => {
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)?;
            }
            ReserveMethod::Zeroed => {
                let zeros = vec![0; BUFFER_LEN];
                for at in (0..len).step_by(BUFFER_LEN) {
                    let left = usize::try_from(len - at).unwrap_or(BUFFER_LEN);
                    file.write_all_at(&zeros[..left.min(BUFFER_LEN)], at)?;
                }
            }
        }
        file.sync_all()?;
        Ok(Self { file, len, end: 0 })
    }

    /// Writes the bytes of a batch behind the last one and syncs them.
    ///
    /// # Errors
    /// The system's error, or that the file has no room left.
    pub fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.end + batch.len() as u64 > self.len {
            return Err(io::Error::other("the file of the raw loop is full"));
        }
        self.file.write_all_at(batch, self.end)?;
        self.file.sync_data()?;
        self.end += batch.len() as u64;
        Ok(())
    }
}

/// Reads places of a log from its files.
pub struct PlainReader {
    segments: BTreeMap<u64, File>,
    buffer: Vec<u8>,
}

impl PlainReader {
    /// Opens the segments in a log's folder.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(log: &Path) -> io::Result<Self> {
        let mut segments = BTreeMap::new();
        for path in files::files(log)? {
            let base = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
            if let Some(base) = base {
                segments.insert(base, File::open(path)?);
            }
        }
        Ok(Self { segments, buffer: Vec::new() })
    }

    /// Reads the bytes at these places, and does nothing with them.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self, places: &[QueueEntry]) -> io::Result<()> {
        for place in places {
            let segment = self.segments.range(..=place.position).next_back();
            let (base, file) = segment.ok_or_else(|| io::Error::other("a position before the log"))?;
            self.buffer.resize(place.len as usize, 0);
            file.read_exact_at(&mut self.buffer, place.position - base)?;
            std::hint::black_box(&self.buffer);
        }
        Ok(())
    }
}
