//! The secret number that keeps clients from forging frames.
//!
//! Behind damage the log is searched for the next intact frame, and clients choose the bytes of the messages in the log.
//! So the checksum of every frame begins with a number of the log's own, which no client gets to see: bytes in a message
//! are not taken for a record, however well they guess their position.
//!
//! Without this number nothing can be read, so it is kept in the header of every segment and in the checkpoint. If all of
//! these are damaged, it is computed from the frames: a checksum is linear in the number that it begins with.

use std::{fmt, io};

use crate::error::LogError;
use crate::frame::{self, ALIGNMENT};
use crate::fs::is_bad_place;
use crate::sabotage;
use crate::segment::{HEADER_LEN, Segment};

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;

/// A log's own random number. It is drawn once, when the log is begun; copies of the log share it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameSalt(u64);

impl FrameSalt {
    /// A salt from a random number.
    pub const fn new(random: u64) -> Self {
        Self(random)
    }

    /// The number as it is stored.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The initial value for the checksum of a frame.
    pub(crate) fn seed(self) -> u32 {
        if sabotage::is("no-salt") {
            return 0;
        }
        u32::try_from((self.0 >> 32) ^ (self.0 & u64::from(u32::MAX))).expect("32 bits")
    }

    /// A salt with this seed. It may differ from the original one, but makes equal checksums.
    pub(crate) fn of_seed(seed: u32) -> Self {
        Self(u64::from(seed))
    }

    /// Whether both salts make equal checksums.
    pub(crate) fn agrees_with(self, other: Self) -> bool {
        self.seed() == other.seed()
    }
}

/// The salt is not printed: clients might get to see it.
impl fmt::Debug for FrameSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// The salt of the log that consists of `segments`; `checkpoint` is the checkpoint's copy. `None` when nothing was ever
/// stored.
///
/// # Errors
/// [`LogError::Misplaced`] when the segments are of different logs, or when there are frames and no copy of the salt.
pub(crate) fn find(
    segments: &[Segment],
    checkpoint: Option<FrameSalt>,
) -> Result<Option<FrameSalt>, LogError> {
    let headers = of_headers(segments)?;
    if let (Some(found), Some(noted), Some(segment)) = (headers, checkpoint, segments.last())
        && !found.agrees_with(noted)
    {
        let reason = "it belongs to another log than the checkpoint beside it; nothing was changed. Put the right files back, from \
                      where they were moved to or from a backup; if it is the checkpoint that does not belong here, move it away";
        return Err(LogError::Misplaced { file: segment.name(), reason: reason.to_owned() });
    }
    if let Some(salt) = headers.or(checkpoint) {
        return Ok(Some(salt));
    }
    let failed =
        |segment: &Segment| LogError::io(format!("looking for the salt of the log in {}", segment.name()));
    for segment in segments {
        match of_frames(segment) {
            Ok(Some(salt)) => return Ok(Some(salt)),
            Err(error) if !is_bad_place(&error) => return Err(failed(segment)(error)),
            // Another segment may have it.
            Ok(None) | Err(_) => {}
        }
    }
    for segment in segments {
        if claims_a_frame(segment).map_err(failed(segment))? {
            let reason = "no copy of the number that its checksums begin with is left: the headers of all segments and the \
                          checkpoint are damaged; restore the checkpoint, or any one segment, from a replica or a backup";
            return Err(LogError::Misplaced { file: segment.name(), reason: reason.to_owned() });
        }
    }
    Ok(None)
}

fn of_headers(segments: &[Segment]) -> Result<Option<FrameSalt>, LogError> {
    let mut found: Option<(FrameSalt, &Segment)> = None;
    for segment in segments {
        let Ok(salt) = segment.header else { continue };
        match found {
            Some((first, before)) if !first.agrees_with(salt) => {
                let reason = format!(
                    "it belongs to another log than {}; move the one away that does not belong here",
                    before.name()
                );
                return Err(LogError::Misplaced { file: segment.name(), reason });
            }
            Some(_) => {}
            None => found = Some((salt, segment)),
        }
    }
    Ok(found.map(|(salt, _)| salt))
}

/// The salt that the first two frames of a segment have in common. One frame alone proves nothing: every checksum is
/// right for some salt. The bodies of messages, further on, hold bytes that clients chose.
fn of_frames(segment: &Segment) -> io::Result<Option<FrameSalt>> {
    let Some((first, len)) = solve(segment, HEADER_LEN)? else { return Ok(None) };
    let second = solve(segment, HEADER_LEN + len)?;
    Ok(second.filter(|(second, _)| *second == first).map(|(seed, _)| FrameSalt::of_seed(seed)))
}

/// The seed with which the checksum of the frame at an offset is right, and its length, if the bytes resemble a frame.
fn solve(segment: &Segment, offset: u64) -> io::Result<Option<(u32, u64)>> {
    let mut bytes = vec![0; frame::HEADER_LEN];
    let n = segment.file.read_at(&mut bytes, offset)?;
    if !frame::claims_position(&bytes[..n], segment.base + offset) {
        return Ok(None);
    }
    let len = frame::peek_len(&bytes).expect("a header that claims a position has a length");
    bytes.resize(len, 0);
    let n = segment.file.read_at(&mut bytes, offset)?;
    Ok((n == len).then(|| (frame::seed_of(&bytes), len as u64)))
}

/// Whether a frame may ever have been written to the segment.
fn claims_a_frame(segment: &Segment) -> io::Result<bool> {
    let mut buf = vec![0; CHUNK_LEN + frame::HEADER_LEN];
    for start in (HEADER_LEN..).step_by(CHUNK_LEN) {
        let n = segment.file.read_at(&mut buf, start)?;
        let claims = |at: usize| frame::claims_position(&buf[at..n], segment.base + start + at as u64);
        if (0..n.min(CHUNK_LEN)).step_by(ALIGNMENT).any(claims) {
            return Ok(true);
        }
        if n < buf.len() {
            break;
        }
    }
    Ok(false)
}
