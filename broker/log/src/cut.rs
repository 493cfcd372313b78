//! Bytes that recovery cuts off are kept in a separate file for later inspection.

use std::io;

use crate::error::LogError;
use crate::fs::Folder;
use crate::resync::is_zero;
use crate::segment::Segment;

/// Prefix of the names of such files; the position of the cut follows.
const PREFIX: &str = "cut-";
/// Most bytes that are kept of one cut.
const BYTES_MAX: u64 = 16 << 20;
/// Cuts that are kept; the oldest go first.
const FILES_MAX: usize = 8;
/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Position behind the last byte between `from` and `file_end` that is not zero; `from` when there is none.
pub(crate) fn written_until(segment: &Segment, from: u64, file_end: u64) -> Result<u64, LogError> {
    last_written(segment, from, file_end).map_err(LogError::io(format!("reading {}", segment.name())))
}

fn last_written(segment: &Segment, from: u64, file_end: u64) -> io::Result<u64> {
    let mut until = from;
    let mut buf = vec![0; CHUNK_LEN];
    for data in segment.data_in(from..file_end)? {
        let mut position = data.start;
        while position < data.end {
            let wanted = usize::try_from(data.end - position).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
            let n = segment.read(&mut buf[..wanted], position)?;
            if n == 0 {
                break;
            }
            if !is_zero(&buf[..n])
                && let Some(at) = buf[..n].iter().rposition(|byte| *byte != 0)
            {
                until = position + at as u64 + 1;
            }
            position += n as u64;
        }
    }
    Ok(until)
}

/// Copies the bytes of `segment` between two positions to a separate file; returns its name. The copy is best effort:
/// when it fails, for example because the disk is full, recovery continues without it.
pub(crate) fn set_aside(folder: &dyn Folder, segment: &Segment, from: u64, until: u64) -> Option<String> {
    let name = format!("{PREFIX}{from:020}");
    match copy(folder, &name, segment, from, until.min(from + BYTES_MAX)) {
        Ok(()) => Some(name),
        Err(_) => {
            // Half a copy on a full disk is worse than none; a file that cannot be removed does no harm.
            let _ = folder.remove(&name);
            None
        }
    }
}

fn copy(folder: &dyn Folder, name: &str, segment: &Segment, from: u64, until: u64) -> io::Result<()> {
    let mut old: Vec<String> =
        folder.list()?.into_iter().filter(|other| other.starts_with(PREFIX) && other != name).collect();
    old.sort();
    for name in old.iter().rev().skip(FILES_MAX - 1) {
        folder.remove(name)?;
    }
    if folder.list()?.iter().any(|other| other == name) {
        folder.remove(name)?;
    }
    let file = folder.create(name)?;
    let mut buf = vec![0; CHUNK_LEN];
    let mut position = from;
    while position < until {
        let wanted = usize::try_from(until - position).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
        let n = segment.file.read_at(&mut buf[..wanted], position - segment.base)?;
        if n == 0 {
            break;
        }
        file.write_at(&buf[..n], position - from)?;
        position += n as u64;
    }
    file.sync()?;
    folder.sync()
}
