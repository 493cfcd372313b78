//! The last frame before the durable position, so that a start notices when a segment was replaced by another file: an older
//! copy, or one of another log.

use std::io;
use std::sync::Arc;

use crate::error::{DamagedRange, LogError};
use crate::reader::LogReader;
use crate::resync::is_zero;
use crate::segment::{HEADER_LEN, Segment, Shared};

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;

/// The last frame before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastFrame {
    /// Length of the frame.
    pub(crate) len: u32,
    /// Checksum of the frame.
    pub(crate) crc: u32,
}

impl LastFrame {
    /// Stands for the segment header, which lies before the first frame and is alike in all segments.
    pub(crate) const HEADER: Self = Self { len: HEADER_LEN as u32, crc: 0 };

    /// The last frame, of `len` bytes, among whole frames.
    pub(crate) fn of(frames: &[u8], len: u32) -> Option<Self> {
        let start = frames.len().checked_sub(len as usize)?;
        let crc = frames.get(start + 4..start + 8)?.first_chunk()?;
        Some(Self { len, crc: u32::from_le_bytes(*crc) })
    }

    /// The frame of `len` bytes at a position of a segment.
    pub(crate) fn read(segment: &Segment, position: u64, len: u32) -> io::Result<Self> {
        let mut crc = [0; 4];
        segment.file.read_at(&mut crc, position - segment.base + 4)?;
        Ok(Self { len, crc: u32::from_le_bytes(crc) })
    }
}

/// A position up to which the log is known to be durable, and the frame that ends there, if known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) position: u64,
    pub(crate) last: Option<LastFrame>,
}

/// Compares the frame that the checkpoint remembers with the log. Damage of that one frame is returned; an older file or a
/// diverging one is an error: once anything was appended to it, the right file could not be put back.
///
/// # Errors
/// [`LogError::Misplaced`], [`LogError::Io`]
pub(crate) fn check(segments: &[Segment], noted: Watermark) -> Result<Option<DamagedRange>, LogError> {
    let Some(last) = noted.last else { return Ok(None) };
    let position = noted.position.saturating_sub(u64::from(last.len));
    let Some(segment) = segments.iter().rfind(|segment| segment.base <= position) else { return Ok(None) };
    let reading = || LogError::io(format!("reading {}", segment.name()));
    let file_end = segment.base + segment.file.len().map_err(reading())?;
    // A file that is too short is reported elsewhere; every segment has an equal header.
    if file_end < noted.position || position == segment.base {
        return Ok(None);
    }
    let reader = LogReader::new(Arc::new(Shared::new(vec![segment.clone()], file_end)));
    let damage = match reader.read_at(position) {
        Ok(frame) if LastFrame::read(segment, position, frame.len).map_err(reading())? == last => {
            return Ok(None);
        }
        Ok(_) => return Err(exchanged(segment, noted.position)),
        Err(LogError::Damaged(damage)) => damage,
        // The reader of an unreadable place reports it.
        Err(_) => return Ok(None),
    };
    match went_another_way(&reader, segment, position, noted.position) {
        Ok(true) => Err(exchanged(segment, noted.position)),
        Ok(false) => Ok(Some(DamagedRange { position, until: noted.position, ..damage })),
        Err(LogError::Unreadable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a file without an intact frame at `position`, up to `until`, was replaced: it ends before that, or holds other frames
/// there. Otherwise the frame is damaged.
fn went_another_way(
    reader: &LogReader,
    segment: &Segment,
    position: u64,
    until: u64,
) -> Result<bool, LogError> {
    let mut end = segment.base + HEADER_LEN;
    for frame in reader.scan(end) {
        match frame {
            Ok(frame) if frame.position >= until => break,
            Ok(frame) if frame.end() > position => return Ok(true),
            Ok(frame) => end = frame.end(),
            Err(LogError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    is_blank(segment, end, until).map_err(LogError::io(format!("reading {}", segment.name())))
}

fn is_blank(segment: &Segment, from: u64, until: u64) -> io::Result<bool> {
    let mut buf = vec![0; CHUNK_LEN];
    let mut position = from;
    while position < until {
        let wanted = usize::try_from(until - position).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
        let n = segment.file.read_at(&mut buf[..wanted], position - segment.base)?;
        if n == 0 || !is_zero(&buf[..n]) {
            return Ok(n == 0);
        }
        position += n as u64;
    }
    Ok(true)
}

fn exchanged(segment: &Segment, durable: u64) -> LogError {
    LogError::Misplaced {
        file: segment.name(),
        reason: format!(
            "it is another file than the one to which this log was written: the log was durable up to {durable}, and the record \
             before that is not there; nothing was changed. Put the right file back, from where it was moved to or from a backup; \
             a member of a group with others can empty its data folder and copies everything. To go on with this file, \
             and lose what it lacks for good, move the file checkpoint out of the log folder"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn the_last_of_several_frames_is_found_by_its_length() {
        let salt = crate::salt::FrameSalt::new(7);
        let mut frames = Vec::new();
        for body in ["one", "another one"] {
            let new = frame::NewFrame { kind: 1, body: body.into() };
            let at = frames.len() as u64;
            frame::encode(&new, at, 1, 5, salt, &mut frames);
        }
        let len = u32::try_from(frame::frame_len("another one".len())).expect("small");
        let last = LastFrame::of(&frames, len).expect("there is one");
        let start = frames.len() - len as usize;
        assert_eq!(last.crc.to_le_bytes(), frames[start + 4..start + 8]);
        assert_eq!(LastFrame::of(&frames[..20], 64), None);
    }
}
