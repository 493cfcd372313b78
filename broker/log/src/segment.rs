//! Segment files: names, headers, and the set of them that writer and readers share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::LogError;
use crate::fs::{File, Folder};

/// Bytes before the first frame of a segment.
pub(crate) const HEADER_LEN: u64 = 64;
const MAGIC: &[u8; 7] = b"KEROLOG";
const VERSION: u8 = 1;

/// One file of the log.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) file: Arc<dyn File>,
}

impl Segment {
    /// Creates the segment that begins at `base`, with room for `len` bytes, and makes it durable.
    pub(crate) fn create(folder: &dyn Folder, base: u64, len: u64) -> Result<Self, LogError> {
        let name = file_name(base);
        let action = format!("creating log segment {name}");
        let build = || {
            let file = folder.create(&name)?;
            file.allocate(len)?;
            file.write_at(&header(base), 0)?;
            file.sync()?;
            folder.sync()?;
            Ok(file)
        };
        Ok(Self { base, file: build().map_err(LogError::io(action))? })
    }

    /// Opens an existing segment and checks its header.
    pub(crate) fn open(folder: &dyn Folder, base: u64) -> Result<Self, LogError> {
        let name = file_name(base);
        let action = format!("opening log segment {name}");
        let file = folder.open(&name).map_err(LogError::io(action.clone()))?;
        let mut found = [0; HEADER_LEN as usize];
        file.read_at(&mut found, 0).map_err(LogError::io(action))?;
        let wanted = header(base);
        if found == wanted {
            return Ok(Self { base, file });
        }
        if found[..7] == MAGIC[..] && found[7] != VERSION {
            return Err(LogError::Format { file: name, reason: format!("segment version {}", found[7]) });
        }
        Err(LogError::Damaged { file: name, position: base, reason: "bad segment header".into() })
    }

    pub(crate) fn name(&self) -> String {
        file_name(self.base)
    }
}

fn header(base: u64) -> [u8; HEADER_LEN as usize] {
    let mut bytes = [0; HEADER_LEN as usize];
    bytes[..7].copy_from_slice(MAGIC);
    bytes[7] = VERSION;
    bytes[8..16].copy_from_slice(&base.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn file_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// Base positions of the segments in `folder`, in order.
pub(crate) fn bases(folder: &dyn Folder) -> Result<Vec<u64>, LogError> {
    let names = folder.list().map_err(LogError::io("listing the log folder"))?;
    let mut bases: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".log").filter(|digits| digits.len() == 20)?.parse().ok())
        .collect();
    bases.sort_unstable();
    Ok(bases)
}

/// What the writer publishes and readers use.
pub(crate) struct Shared {
    segments: RwLock<BTreeMap<u64, Segment>>,
    end: AtomicU64,
    durable: AtomicU64,
}

impl Shared {
    pub(crate) fn new(segments: Vec<Segment>, end: u64) -> Self {
        Self {
            segments: RwLock::new(segments.into_iter().map(|segment| (segment.base, segment)).collect()),
            end: AtomicU64::new(end),
            durable: AtomicU64::new(end),
        }
    }

    pub(crate) fn add(&self, segment: Segment) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.base, segment);
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
        self.end.store(end, Ordering::Release);
    }

    pub(crate) fn set_durable(&self, durable: u64) {
        self.durable.store(durable, Ordering::Release);
    }
}
