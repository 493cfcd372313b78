//! Frames: the layout of one record in a segment, described at the top of the crate.

use bytes::Bytes;

use crate::sabotage;
use crate::salt::FrameSalt;

/// Bytes before the record body.
pub const HEADER_LEN: usize = 32;
/// Frames begin at multiples of this.
pub const ALIGNMENT: usize = 8;
/// Format version written by this software.
pub const VERSION: u8 = 1;
/// Longest frame.
pub const LEN_MAX: usize = 1 << 30;

/// A record to be appended.
#[derive(Debug, Clone)]
pub struct NewFrame {
    /// Kind number.
    pub kind: u8,
    /// Record body.
    pub body: Bytes,
}

/// A record as found in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Position of the frame.
    pub position: u64,
    /// Length in the log, padding included.
    pub len: u32,
    /// Kind number.
    pub kind: u8,
    /// Epoch of the leader that wrote it.
    pub epoch: u32,
    /// When it was written, milliseconds since the Unix epoch.
    pub store_ms: i64,
    /// Record body.
    pub body: Bytes,
}

impl Frame {
    /// Position of the record behind it.
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.len)
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is zero: no frame was written here.
    #[error("nothing was written here")]
    Empty,
    /// The length field is impossible.
    #[error("impossible frame length {0}")]
    Length(u32),
    /// The frame would extend beyond the end of the file.
    #[error("cut off after {0} bytes")]
    Short(usize),
    /// The device has given up the place.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The checksum does not fit the bytes.
    #[error("checksum does not match")]
    Checksum,
    /// The frame was written for another position.
    #[error("frame of position {0}")]
    Misplaced(u64),
    /// Written by a newer version.
    #[error("frame format version {0}")]
    Version(u8),
}

/// Length in the log of a record body of `body_len` bytes.
pub fn frame_len(body_len: usize) -> usize {
    (HEADER_LEN + body_len).next_multiple_of(ALIGNMENT)
}

/// Appends the frame of `new` at `position` of the log with this salt to `out`.
pub fn encode(new: &NewFrame, position: u64, epoch: u32, store_ms: i64, salt: FrameSalt, out: &mut Vec<u8>) {
    let start = out.len();
    let len = frame_len(new.body.len());
    let padding = len - HEADER_LEN - new.body.len();
    out.reserve(len);
    out.extend_from_slice(&u32::try_from(len).expect("callers check LEN_MAX").to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // Padding of at most 7 bytes is kept in byte 10, so that the body comes back with its exact length.
    out.extend_from_slice(&[VERSION, new.kind, u8::try_from(padding).expect("below ALIGNMENT"), 0]);
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&store_ms.to_le_bytes());
    out.extend_from_slice(&new.body);
    out.resize(start + len, 0);
    assert!(padding < ALIGNMENT && out.len() == start + len, "a frame is as long as it says");
    let crc = checksum(&out[start..], salt.seed());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The length field of the frame that begins with `header`.
///
/// # Errors
/// [`FrameError::Empty`] or [`FrameError::Length`].
pub fn peek_len(header: &[u8]) -> Result<usize, FrameError> {
    let Some(field) = header.first_chunk::<4>() else { return Err(FrameError::Short(header.len())) };
    let len = u32::from_le_bytes(*field);
    match len as usize {
        0 => Err(FrameError::Empty),
        bytes if !(HEADER_LEN..=LEN_MAX).contains(&bytes) || !bytes.is_multiple_of(ALIGNMENT) => {
            Err(FrameError::Length(len))
        }
        bytes => Ok(bytes),
    }
}

/// Whether `header` claims to be written at `position` by a version that this one knows: a cheap test in the search for
/// the next frame behind damage. Only [`decode`] tells whether the frame is intact.
pub fn claims_position(header: &[u8], position: u64) -> bool {
    header.len() >= HEADER_LEN
        && header[8] == VERSION
        && u64::from_le_bytes(field(header, 16)) == position
        && peek_len(header).is_ok()
}

/// Reads the frame at the start of `bytes`, which must have been read from `position` of the log with this salt. The body
/// shares memory with it.
///
/// # Errors
/// [`FrameError`] says what does not fit.
pub fn decode(bytes: &Bytes, position: u64, salt: FrameSalt) -> Result<Frame, FrameError> {
    decode_at(bytes, 0, position, salt)
}

/// Decodes the frame that begins behind the first `skip` bytes of `all`, which must have at least that many.
pub(crate) fn decode_at(
    all: &Bytes,
    skip: usize,
    position: u64,
    salt: FrameSalt,
) -> Result<Frame, FrameError> {
    let bytes = &all[skip..];
    let len = peek_len(bytes)?;
    if bytes.len() < len {
        return Err(FrameError::Short(bytes.len()));
    }
    let crc = checksum(&bytes[..len], salt.seed()).to_le_bytes();
    if field::<4>(bytes, 4) != crc && !sabotage::is("no-crc-on-read") {
        return Err(FrameError::Checksum);
    }
    if bytes[8] != VERSION {
        return Err(FrameError::Version(bytes[8]));
    }
    let own = u64::from_le_bytes(field(bytes, 16));
    if own != position && !sabotage::is("no-position-on-read") {
        return Err(FrameError::Misplaced(own));
    }
    let padding = usize::from(bytes[10]);
    if padding >= ALIGNMENT || HEADER_LEN + padding > len {
        return Err(FrameError::Length(u32::try_from(len).expect("below LEN_MAX")));
    }
    Ok(Frame {
        position,
        len: u32::try_from(len).expect("below LEN_MAX"),
        kind: bytes[9],
        epoch: u32::from_le_bytes(field(bytes, 12)),
        store_ms: i64::from_le_bytes(field(bytes, 24)),
        body: all.slice(skip + HEADER_LEN..skip + len - padding),
    })
}

fn checksum(frame: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &frame[..4]), &frame[8..])
}

/// The seed with which the checksum of `frame` is right. The contribution of a seed to a checksum is the seed itself,
/// advanced by the length of the checked bytes: it only has to be moved back.
pub(crate) fn seed_of(frame: &[u8]) -> u32 {
    /// Number of bytes after which an advanced seed returns to itself: the order of x in the field of the polynomial.
    const PERIOD: usize = (1 << 31) - 1;
    let claimed = u32::from_le_bytes(field(frame, 4));
    let checked = frame.len() - 4;
    crc32c::crc32c_combine(claimed ^ checksum(frame, 0), 0, PERIOD - checked)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: FrameSalt = FrameSalt::new(0x0123_4567_89AB_CDEF);

    fn encoded(new: &NewFrame, position: u64) -> Bytes {
        let mut out = Vec::new();
        encode(new, position, 3, -7, SALT, &mut out);
        Bytes::from(out)
    }

    proptest! {
        #[test]
        fn round_trip(kind: u8, body in prop::collection::vec(any::<u8>(), 0..300), position: u64) {
            let new = NewFrame { kind, body: body.clone().into() };
            let bytes = encoded(&new, position);
            prop_assert_eq!(bytes.len(), frame_len(body.len()));
            let frame = decode(&bytes, position, SALT).expect("own bytes");
            prop_assert_eq!((frame.kind, frame.epoch, frame.store_ms), (kind, 3, -7));
            prop_assert_eq!(frame.len as usize, bytes.len());
            prop_assert_eq!(&frame.body[..], &body[..]);
        }

        #[test]
        fn every_flipped_bit_is_seen(body in prop::collection::vec(any::<u8>(), 1..60), at: usize, bit in 0u8..8) {
            let bytes = encoded(&NewFrame { kind: 1, body: body.into() }, 64);
            let mut broken = bytes.to_vec();
            let at = at % broken.len();
            broken[at] ^= 1 << bit;
            prop_assert!(decode(&Bytes::from(broken), 64, SALT).is_err());
        }

        #[test]
        fn a_frame_of_another_log_is_refused_and_tells_the_seed_of_its_own(
            body in prop::collection::vec(any::<u8>(), 0..300), salt: u64,
        ) {
            prop_assume!(FrameSalt::new(salt) != SALT);
            let mut bytes = Vec::new();
            encode(&NewFrame { kind: 1, body: body.into() }, 64, 1, 1, FrameSalt::new(salt), &mut bytes);
            prop_assert_eq!(seed_of(&bytes), FrameSalt::new(salt).seed());
            prop_assert_eq!(decode(&Bytes::from(bytes), 64, SALT), Err(FrameError::Checksum));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&Bytes::from(bytes), 64, SALT);
        }
    }

    /// The bytes of format version 1: they may never change, or old logs become unreadable.
    #[test]
    fn fixture_of_version_1() {
        let bytes = encoded(&NewFrame { kind: 2, body: Bytes::from_static(b"kerolox") }, 64);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("frame_v1.txt").trim_end());
    }

    #[test]
    fn a_frame_in_the_wrong_place_is_refused() {
        let bytes = encoded(&NewFrame { kind: 1, body: Bytes::from_static(&[1]) }, 64);
        assert_eq!(decode(&bytes, 72, SALT), Err(FrameError::Misplaced(64)));
        assert_eq!(decode(&bytes.slice(..33), 64, SALT), Err(FrameError::Short(33)));
        assert_eq!(decode(&Bytes::from_static(&[0; 64]), 64, SALT), Err(FrameError::Empty));
    }
}
