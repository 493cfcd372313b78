//! Giving up whole segments at the beginning of the log.

use crate::error::LogError;
use crate::fs::Folder;
use crate::reader::Reader;
use crate::sabotage;
use crate::segment::{HEADER_LEN, file_name};

/// A segment of the log, as [`Reader::segments`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Position of its first byte.
    pub base: u64,
    /// Position of its first frame.
    pub start: u64,
    /// Position behind its last frame.
    pub end: u64,
}

impl Reader {
    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let bases = self.shared.bases();
        let ends = bases.iter().skip(1).copied().chain([self.end()]);
        bases
            .iter()
            .zip(ends)
            .map(|(base, end)| SegmentInfo { base: *base, start: base + HEADER_LEN, end })
            .collect()
    }

    /// Removes the segments that end at or before `before`, oldest first, and returns the number of bytes given up. The
    /// newest segment always stays. What is being read from a removed segment is read to its end.
    ///
    /// # Errors
    /// [`LogError::Io`]; the segments that are left still follow each other without a gap.
    pub fn remove_before(&self, folder: &dyn Folder, before: u64) -> Result<u64, LogError> {
        let segments = self.segments();
        let gone =
            segments.iter().take(segments.len().saturating_sub(1)).filter(|segment| segment.end <= before);
        let mut bytes = 0;
        for segment in gone {
            let name = file_name(segment.base);
            // Out of the table first: nobody may find a segment whose file is gone.
            self.shared.remove(segment.base);
            // One by one: a power cut must not bring an older segment back when a newer one stays gone, since a log with a
            // gap counts its messages differently.
            let in_order = !sabotage::is("trim-in-any-order");
            let removed = folder.remove(&name).and_then(|()| if in_order { folder.sync() } else { Ok(()) });
            removed.map_err(LogError::io(format!("removing log segment {name}")))?;
            bytes += segment.end - segment.base;
        }
        Ok(bytes)
    }
}
