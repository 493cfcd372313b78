//! Segment files: names, headers, and the set of them that the writer and readers share.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{DamagedRange, LogError};
use crate::fs::{File, Folder, is_bad_place, is_full};
use crate::sabotage;
use crate::salt::FrameSalt;
use crate::trim;

/// Bytes before the first frame of a segment.
pub const HEADER_LEN: u64 = 64;
/// Unreadable places are counted in blocks of this many bytes: the sector of today's disks, and the page of the system.
const BAD_PLACE_LEN: u64 = 4096;
const MAGIC: &[u8; 7] = b"KEROLOG";
const VERSION: u8 = 1;

/// Bytes that are reserved for a new segment, its header included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentRoom {
    /// Preferred length, if there is space for it.
    pub(crate) wanted: u64,
    /// Minimum length.
    pub(crate) needed: u64,
}

impl SegmentRoom {
    /// Space for the header only.
    pub(crate) const NONE: Self = Self { wanted: HEADER_LEN, needed: HEADER_LEN };
}

/// One file of the log.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) file: Arc<dyn File>,
    /// The salt in the header, or why the header is unusable. The frames do not need it: each carries its position.
    pub(crate) header: Result<FrameSalt, String>,
    /// The salt of the log; [`crate::salt`] finds it when the header is damaged.
    pub(crate) salt: FrameSalt,
}

impl Segment {
    /// Creates the segment that begins at `base`, with reserved space, and makes it durable.
    ///
    /// # Errors
    /// [`LogError::NotNow`], [`LogError::Io`]; an empty file may remain.
    pub(crate) fn create(
        folder: &dyn Folder,
        base: u64,
        salt: FrameSalt,
        room: SegmentRoom,
    ) -> Result<Self, LogError> {
        let file = folder.create(&file_name(base));
        Self::begin(folder, base, salt, room, file)
    }

    /// Recreates a segment whose creation was interrupted before it held anything.
    pub(crate) fn recreate(
        folder: &dyn Folder,
        base: u64,
        salt: FrameSalt,
        room: SegmentRoom,
    ) -> Result<Self, LogError> {
        let file = folder.open(&file_name(base)).and_then(|file| file.set_len(0).map(|()| file));
        Self::begin(folder, base, salt, room, file)
    }

    fn begin(
        folder: &dyn Folder,
        base: u64,
        salt: FrameSalt,
        room: SegmentRoom,
        file: io::Result<Arc<dyn File>>,
    ) -> Result<Self, LogError> {
        assert!(HEADER_LEN <= room.needed && room.needed <= room.wanted, "a segment has room for its header");
        let build = || {
            let file = file?;
            match file.allocate(room.wanted) {
                Err(error) if is_full(&error) && room.needed < room.wanted => file.allocate(room.needed)?,
                allocated => allocated?,
            }
            file.write_at(&header(base, salt), 0)?;
            file.sync()?;
            if !sabotage::is("skip-directory-fsync") {
                folder.sync()?;
            }
            Ok(file)
        };
        let file = build().map_err(LogError::undone(format!("creating log segment {}", file_name(base))))?;
        Ok(Self { base, file, header: Ok(salt), salt })
    }

    /// Opens an existing segment, whose header may be damaged. The caller sets the salt of the log.
    pub(crate) fn open_any(folder: &dyn Folder, base: u64) -> Result<Self, LogError> {
        let name = file_name(base);
        let action = format!("opening log segment {name}");
        let file = folder.open(&name).map_err(LogError::io(action.clone()))?;
        let mut found = [0; HEADER_LEN as usize];
        match file.read_at(&mut found, 0) {
            Ok(_) => {}
            Err(error) if is_bad_place(&error) => {
                let reason = format!("the segment header cannot be read: {error}");
                return Ok(Self { base, file, header: Err(reason), salt: FrameSalt::new(0) });
            }
            Err(error) => return Err(LogError::io(action)(error)),
        }
        // The checksum distinguishes another version from a damaged version number.
        if found[..7] == MAGIC[..] && found[7] != VERSION && found[24..28] == header_checksum(&found) {
            return Err(LogError::Format { file: name, reason: format!("segment version {}", found[7]) });
        }
        let salt = FrameSalt::new(u64::from_le_bytes(found[16..24].try_into().expect("8 bytes")));
        let known = if found == header(base, salt) { Ok(salt) } else { Err("bad segment header".to_owned()) };
        Ok(Self { base, file, header: known, salt })
    }

    /// Reads at a position. Before an unreadable place, returns the bytes in front of it; fails only when there are none.
    /// So one bad sector does not affect the bytes that were to be read together with it.
    pub(crate) fn read(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        assert!(position >= self.base, "a position is read from the segment that holds it");
        let offset = position - self.base;
        match self.file.read_at(buf, offset) {
            Err(error) if is_bad_place(&error) => self.read_before_bad_place(buf, offset),
            read => read,
        }
    }

    /// Reads at a position like [`Self::read`], but a bad place among the first `needed` bytes is an error.
    pub(crate) fn read_some(&self, buf: &mut [u8], needed: usize, position: u64) -> io::Result<usize> {
        match self.read(buf, position)? {
            n if n < needed => self.file.read_at(&mut buf[..needed], position - self.base),
            n => Ok(n),
        }
    }

    fn read_before_bad_place(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let block_left = usize::try_from(BAD_PLACE_LEN - at % BAD_PLACE_LEN).expect("small");
            let wanted = block_left.min(buf.len() - done);
            match self.file.read_at(&mut buf[done..done + wanted], at) {
                Ok(n) => {
                    done += n;
                    if n < wanted {
                        break;
                    }
                }
                Err(error) if is_bad_place(&error) && done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The parts of a range of positions that may hold anything but zeros; see [`File::data_in`].
    pub(crate) fn data_in(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let offset = |position: u64| position.saturating_sub(self.base);
        let found = self.file.data_in(offset(range.start)..offset(range.end))?;
        Ok(found.into_iter().map(|data| self.base + data.start..self.base + data.end).collect())
    }

    /// The first position behind the bad place that `position` lies in.
    pub(crate) fn behind_bad_place(&self, position: u64) -> u64 {
        let offset = position - self.base;
        self.base + offset - offset % BAD_PLACE_LEN + BAD_PLACE_LEN
    }

    /// The damaged range to report for a damaged header.
    pub(crate) fn damaged_header(&self) -> Option<DamagedRange> {
        let reason = self.header.as_ref().err()?.clone();
        Some(DamagedRange { file: self.name(), position: self.base, until: self.base + HEADER_LEN, reason })
    }

    pub(crate) fn name(&self) -> String {
        file_name(self.base)
    }

    /// Makes written bytes durable. A failed sync must not be retried: the system may have dropped the bytes, and would
    /// report success.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        let mut synced = if sabotage::is("skip-fsync") { Ok(()) } else { self.file.sync() };
        if sabotage::is("retry-failed-sync") {
            synced = synced.or_else(|_| self.file.sync());
        }
        synced.map_err(LogError::io(format!("fdatasync of {}", self.name())))
    }
}

fn header(base: u64, salt: FrameSalt) -> [u8; HEADER_LEN as usize] {
    let mut bytes = [0; HEADER_LEN as usize];
    bytes[..7].copy_from_slice(MAGIC);
    bytes[7] = VERSION;
    bytes[8..16].copy_from_slice(&base.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.get().to_le_bytes());
    let crc = header_checksum(&bytes);
    bytes[24..28].copy_from_slice(&crc);
    bytes
}

fn header_checksum(header: &[u8]) -> [u8; 4] {
    crc32c::crc32c(&header[..24]).to_le_bytes()
}

pub(crate) fn file_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// Base positions of the segments in `folder`, in order, without those that an interrupted trim left.
pub(crate) fn bases(folder: &dyn Folder) -> Result<Vec<u64>, LogError> {
    Ok(bases_among(&folder.list().map_err(LogError::io("listing the log folder"))?))
}

/// Base positions among file names, without those that an interrupted trim left.
pub(crate) fn bases_among(names: &[String]) -> Vec<u64> {
    let mut bases = all_bases(names);
    if let Some(before) = trim::interrupted(names) {
        bases.retain(|base| *base >= before);
    }
    bases
}

/// Base positions of all segments among the names of files, in order.
pub(crate) fn all_bases(names: &[String]) -> Vec<u64> {
    let base = |name: &String| name.strip_suffix(".log").filter(|digits| digits.len() == 20)?.parse().ok();
    let mut bases: Vec<u64> = names.iter().filter_map(base).collect();
    bases.sort_unstable();
    bases
}

/// State that the writer publishes and readers use.
pub(crate) struct Shared {
    segments: RwLock<BTreeMap<u64, Segment>>,
    end: AtomicU64,
    durable: AtomicU64,
    /// Number of threads that wait for the end to move.
    waiting: AtomicUsize,
    moved: (Mutex<()>, Condvar),
}

impl Shared {
    pub(crate) fn new(segments: Vec<Segment>, end: u64) -> Self {
        Self {
            segments: RwLock::new(segments.into_iter().map(|segment| (segment.base, segment)).collect()),
            end: AtomicU64::new(end),
            durable: AtomicU64::new(end),
            waiting: AtomicUsize::new(0),
            moved: (Mutex::new(()), Condvar::new()),
        }
    }

    pub(crate) fn add(&self, segment: Segment) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(segment.base, self.end(), "a segment begins where the log ends");
        assert!(segments.keys().next_back().is_none_or(|last| *last < segment.base), "segments lie in order");
        segments.insert(segment.base, segment);
    }

    /// The segment that holds `position`.
    pub(crate) fn at(&self, position: u64) -> Option<Segment> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(..=position).next_back().map(|(_, segment)| segment.clone())
    }

    /// Base of the segment behind the one that holds `position`.
    pub(crate) fn next_base(&self, position: u64) -> Option<u64> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(position + 1..).next().map(|(base, _)| *base)
    }

    pub(crate) fn remove(&self, base: u64) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&base);
    }

    /// Bases of all segments, oldest first.
    pub(crate) fn bases(&self) -> Vec<u64> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn first_base(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.keys().next().copied().unwrap_or(0)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // A thread that has seen the old end is either counted and waits, or holds the lock and is about to.
            drop(self.moved.0.lock().unwrap_or_else(PoisonError::into_inner));
            self.moved.1.notify_all();
        }
    }

    /// Waits until the end differs from `seen`, for `patience` at most.
    pub(crate) fn wait_for_end(&self, seen: u64, patience: Duration) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let lock = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |(): &mut ()| self.end.load(Ordering::SeqCst) == seen;
        drop(self.moved.1.wait_timeout_while(lock, patience, is_same));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn set_durable(&self, durable: u64) {
        assert!(durable <= self.end(), "durable bytes were appended");
        self.durable.store(durable, Ordering::Release);
    }
}
