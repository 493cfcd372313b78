//! Finding the end of the log after a crash, and telling a torn tail from damage.

use std::sync::Arc;

use crate::error::LogError;
use crate::fs::Folder;
use crate::reader::Reader;
use crate::segment::{self, HEADER_LEN, Segment, Shared};

/// What recovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the log ends.
    pub(crate) end: u64,
    /// Where the unusable tail ended; equal to `end` when there is none.
    pub(crate) torn_until: u64,
    /// Where the scan began.
    pub(crate) scanned_from: u64,
}

/// Opens all segments, checking that none is missing between the first and the last.
pub(crate) fn open_segments(folder: &dyn Folder) -> Result<Vec<Segment>, LogError> {
    let mut segments: Vec<Segment> = Vec::new();
    for base in segment::bases(folder)? {
        if let Some(last) = segments.last() {
            let len = last.file.len().map_err(LogError::io("measuring a log segment"))?;
            if last.base + len != base {
                return Err(LogError::Damaged {
                    file: last.name(),
                    position: last.base + len,
                    reason: format!(
                        "the next segment begins at {base}: a segment is missing or has another length"
                    ),
                });
            }
        }
        match Segment::open(folder, base) {
            Ok(segment) => segments.push(segment),
            // Creation of the newest segment was interrupted before its header was durable: it never held a record.
            Err(LogError::Damaged { .. }) if is_newest(folder, base)? && !segments.is_empty() => {
                folder
                    .open(&segment::file_name(base))
                    .and_then(|file| file.set_len(0))
                    .map_err(LogError::io("clearing an unfinished log segment"))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

fn is_newest(folder: &dyn Folder, base: u64) -> Result<bool, LogError> {
    Ok(segment::bases(folder)?.last() == Some(&base))
}

/// Scans from `durable` (a lower bound of what was durable) to the first place that holds no frame.
///
/// Everything before `durable` was synced once, so a bad frame there is damage; behind it, a bad frame is a write that
/// was under way when the power went, and was never acknowledged.
pub(crate) fn find_end(segments: &[Segment], durable: u64) -> Result<Found, LogError> {
    let Some(last) = segments.last() else { return Ok(Found { end: 0, torn_until: 0, scanned_from: 0 }) };
    let last_len = last.file.len().map_err(LogError::io("measuring a log segment"))?;
    let file_end = last.base + last_len;
    let first = segments[0].base + HEADER_LEN;
    let from = durable.max(first);
    if durable > file_end {
        return Err(LogError::Damaged {
            file: last.name(),
            position: file_end,
            reason: format!("the file ends here, but the log was durable up to {durable}"),
        });
    }
    let shared = Arc::new(Shared::new(segments.to_vec(), file_end));
    let mut scan = Reader::new(shared).scan(from);
    let end = loop {
        match scan.next() {
            Some(Ok(_)) => {}
            None => break scan.position(),
            Some(Err(LogError::Damaged { position, .. })) if position >= last.base => break position,
            Some(Err(error)) => return Err(error),
        }
    };
    let end = end.max(last.base + HEADER_LEN);
    Ok(Found { end, torn_until: written_until(last, end, file_end)?, scanned_from: from })
}

/// The last non-zero byte behind `end`, rounded up: how far an unfinished write got.
fn written_until(last: &Segment, end: u64, file_end: u64) -> Result<u64, LogError> {
    let mut until = end;
    let mut position = end;
    let mut buf = vec![0; 1 << 20];
    while position < file_end {
        let n = last
            .file
            .read_at(&mut buf, position - last.base)
            .map_err(LogError::io(format!("reading {}", last.name())))?;
        if n == 0 {
            break;
        }
        match buf[..n].iter().rposition(|byte| *byte != 0) {
            Some(at) => until = position + at as u64 + 1,
            // Writes are much smaller than a chunk of zeros: nothing lies behind it.
            None => break,
        }
        position += n as u64;
    }
    Ok(until)
}
