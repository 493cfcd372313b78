//! Finding the next frame behind damage.
//!
//! Frames begin at multiples of 8 and carry their own position, so a header that fits is rare; whether it is a frame is decided by its
//! checksum, which no client can forge (see [`crate::salt`]). All candidates are checked in one pass with one running checksum: the
//! checksum of any range follows from those at its ends, so bytes that were made to look like many overlapping frames cost no more than
//! others.

use std::collections::BTreeMap;
use std::io;

use crate::error::LogError;
use crate::frame::{self, ALIGNMENT, HEADER_LEN};
use crate::fs::is_bad_place;
use crate::salt::FrameSalt;
use crate::segment::{self, Segment, Shared};

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;
/// Zeros are skipped in blocks of this many bytes.
const BLOCK_LEN: usize = 4096;

/// Position of the first intact frame at `from` or behind it that ends at or before `end`. Unreadable bytes are no frame.
///
/// # Errors
/// [`LogError::Unreadable`] when no frame was found, but some bytes could not be read: they may have been one.
pub(crate) fn next_frame(shared: &Shared, from: u64, end: u64) -> Result<Option<u64>, LogError> {
    let mut from = from.next_multiple_of(ALIGNMENT as u64);
    let mut unreadable = None;
    while from < end
        && let Some(segment) = shared.at(from)
    {
        let limit = shared.next_base(segment.base).map_or(end, |next| next.min(end));
        match next_in_segment(&segment, from, limit) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error @ LogError::Unreadable { .. }) => drop(unreadable.get_or_insert(error)),
            Err(error) => return Err(error),
        }
        from = limit;
    }
    unreadable.map_or(Ok(None), Err)
}

/// Searches one segment for the next frame.
pub(crate) fn next_in_segment(segment: &Segment, from: u64, limit: u64) -> Result<Option<u64>, LogError> {
    let read = LogError::io(format!("searching {}", segment.name()));
    let (found, bad) = search(segment, from.max(segment.base + segment::HEADER_LEN), limit).map_err(read)?;
    match (found, bad) {
        (None, Some((position, source))) => {
            Err(LogError::Unreadable { file: segment.name(), position, source })
        }
        (found, _) => Ok(found),
    }
}

/// The frame that was found, and the first place that could not be read.
type Search = (Option<u64>, Option<(u64, io::Error)>);

fn search(segment: &Segment, from: u64, limit: u64) -> io::Result<Search> {
    let limit = limit.min(segment.base + segment.file.len()?);
    let mut sweep = Sweep::new(limit, segment.salt);
    let mut bad = None;
    let mut position = from;
    let mut buf = vec![0; CHUNK_LEN + HEADER_LEN];
    for data in segment.data_in(from..limit)? {
        position = position.max(data.start / ALIGNMENT as u64 * ALIGNMENT as u64);
        // A frame begins in data, for its header is not zero, but it may end in a hole.
        while let until = data.end.next_multiple_of(ALIGNMENT as u64).max(sweep.awaited()).min(limit)
            && position < until
            && !sweep.is_decided()
        {
            let wanted = usize::try_from(until - position).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
            // The bytes behind the chunk complete a header that begins in it.
            let n = match segment.read(&mut buf[..wanted + HEADER_LEN], position) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if is_bad_place(&error) => {
                    sweep.skip_bad_place();
                    bad.get_or_insert((position, error));
                    position = segment.behind_bad_place(position);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let chunk_len = n.min(wanted);
            sweep.chunk(position, &buf[..n], chunk_len);
            position += chunk_len as u64;
        }
    }
    Ok((sweep.best, bad))
}

/// A header that fits its position.
struct Candidate {
    position: u64,
    /// Checksum of the frame's length field, combined with the running checksum at the first byte behind the checksum
    /// field.
    before: u32,
    /// The checksum that the frame claims to have.
    claimed: u32,
}

struct Sweep {
    limit: u64,
    salt: FrameSalt,
    /// Candidates by their ends.
    pending: BTreeMap<u64, Vec<Candidate>>,
    best: Option<u64>,
    /// Checksum of the bytes from where the first candidate began up to `summed`.
    sum: u32,
    summed: u64,
}

impl Sweep {
    fn new(limit: u64, salt: FrameSalt) -> Self {
        Self { limit, salt, pending: BTreeMap::new(), best: None, sum: 0, summed: 0 }
    }

    /// Whether no remaining candidate could begin before the best one.
    fn is_decided(&self) -> bool {
        self.best.is_some() && self.pending.is_empty()
    }

    /// End of the last candidate; 0 without one.
    fn awaited(&self) -> u64 {
        self.pending.last_key_value().map_or(0, |(end, _)| *end)
    }

    /// Drops all candidates: none that spans the bad place can be intact.
    fn skip_bad_place(&mut self) {
        self.pending.clear();
    }

    /// Searches the first `len` of `bytes`, which lie at `start`.
    fn chunk(&mut self, start: u64, bytes: &[u8], len: usize) {
        let mut at = 0;
        while at < len && !self.is_decided() {
            let block = &bytes[at..len.min(at + BLOCK_LEN)];
            if self.pending.is_empty() && is_zero(block) {
                at += block.len();
                continue;
            }
            for offset in (at..at + block.len()).step_by(ALIGNMENT) {
                let position = start + offset as u64;
                self.settle(start, bytes, position);
                if self.best.is_none() && frame::claims_position(&bytes[offset..], position) {
                    self.consider(start, bytes, offset);
                }
            }
            at += block.len();
        }
        let chunk_end = start + len as u64;
        self.settle(start, bytes, chunk_end);
        if !self.pending.is_empty() {
            self.sum_up_to(start, bytes, chunk_end);
        }
    }

    /// Decides on the candidates that end at `position`.
    fn settle(&mut self, start: u64, bytes: &[u8], position: u64) {
        while self.pending.first_key_value().is_some_and(|(end, _)| *end == position) {
            self.sum_up_to(start, bytes, position);
            let (end, candidates) = self.pending.pop_first().expect("looked at just now");
            for candidate in candidates {
                let len = checked_len(end - candidate.position);
                if crc32c::crc32c_combine(candidate.before, self.sum, len) == candidate.claimed {
                    self.best =
                        Some(self.best.map_or(candidate.position, |best| best.min(candidate.position)));
                }
            }
            if let Some(best) = self.best {
                self.pending.retain(|_, candidates| {
                    candidates.retain(|candidate| candidate.position < best);
                    !candidates.is_empty()
                });
            }
        }
    }

    /// Adds the candidate at `offset`, if it ends in time.
    fn consider(&mut self, start: u64, bytes: &[u8], offset: usize) {
        let position = start + offset as u64;
        let header = &bytes[offset..offset + HEADER_LEN];
        let Ok(len) = frame::peek_len(header) else { return };
        let end = position + len as u64;
        if end > self.limit {
            return;
        }
        if self.pending.is_empty() {
            (self.sum, self.summed) = (0, position);
        }
        self.sum_up_to(start, bytes, position);
        // The checksum field is left out: the length field continues directly with the bytes behind the field.
        let before = crc32c::crc32c_append(self.salt.seed(), &header[..4])
            ^ crc32c::crc32c_append(self.sum, &header[..8]);
        let claimed = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes"));
        self.pending.entry(end).or_default().push(Candidate { position, before, claimed });
    }

    fn sum_up_to(&mut self, start: u64, bytes: &[u8], position: u64) {
        let offset = |position: u64| usize::try_from(position - start).expect("inside the chunk");
        self.sum = crc32c::crc32c_append(self.sum, &bytes[offset(self.summed)..offset(position)]);
        self.summed = position;
    }
}

/// Number of bytes of a frame behind its checksum.
fn checked_len(frame_len: u64) -> usize {
    usize::try_from(frame_len).expect("below LEN_MAX") - 8
}

/// Whether all bytes are zero; checks all of them without branching, for speed.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::frame::NewFrame;
    use crate::fs::{Folder, MemFolder, OsFolder};

    const SALT: FrameSalt = FrameSalt::new(0xFEDC_BA98_7654_3210);

    fn segment_of(bytes: &[u8]) -> Segment {
        let file = MemFolder::new().create("x").expect("created");
        file.write_at(bytes, 0).expect("written");
        Segment { base: 0, file, header: Ok(SALT), salt: SALT }
    }

    fn frame_at(position: u64, body: Vec<u8>) -> Vec<u8> {
        salted_frame_at(position, body, SALT)
    }

    fn salted_frame_at(position: u64, body: Vec<u8>, salt: FrameSalt) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(&NewFrame { kind: 1, body: body.into() }, position, 1, 1, salt, &mut bytes);
        bytes
    }

    fn find(bytes: &[u8], from: u64) -> Option<u64> {
        let segment = segment_of(bytes);
        let len = bytes.len() as u64;
        assert_eq!(
            next_frame(&Shared::new(vec![segment.clone()], len), from, len).expect("reads"),
            next_in_segment(&segment, from, len).expect("reads")
        );
        next_in_segment(&segment, from, len).expect("reads")
    }

    /// The expected result, found the slow way.
    fn slow(bytes: &[u8], from: u64) -> Option<u64> {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        (from.max(64)..bytes.len() as u64).step_by(ALIGNMENT).find(|at| {
            let at_index = usize::try_from(*at).expect("small");
            frame::decode(&bytes.slice(at_index..), *at, SALT).is_ok()
        })
    }

    proptest! {
        /// Frames, junk, broken frames and frames inside bodies of others, in any mix.
        #[test]
        fn it_finds_what_the_slow_search_finds(
            parts in prop::collection::vec((0u8..5, 0usize..90, any::<u64>()), 1..12),
            from in 0u64..500,
        ) {
            let mut bytes = vec![0; 64];
            for (kind, len, seed) in parts {
                let at = bytes.len() as u64;
                match kind {
                    0 => bytes.extend(frame_at(at, vec![7; len])),
                    1 => bytes.extend(vec![(seed % 251) as u8; len * 8]),
                    // A broken frame, often around an intact one.
                    _ => {
                        let inner = at + 32 + 8 * (seed % 3);
                        let mut body = vec![0; usize::try_from(8 * (seed % 3)).expect("small")];
                        body.extend(frame_at(inner, vec![1; len]));
                        let mut outer = frame_at(at, body);
                        let flip = usize::try_from(seed >> 8).expect("64 bits") % outer.len();
                        outer[flip] ^= u8::from(kind < 4);
                        bytes.extend(outer);
                    }
                }
            }
            let from = from.next_multiple_of(8);
            prop_assert_eq!(find(&bytes, from), slow(&bytes, from));
        }
    }

    #[test]
    fn frames_are_found_across_chunks_and_holes() {
        for at in [CHUNK_LEN - 16, CHUNK_LEN, 3 * CHUNK_LEN - 8] {
            let at = at as u64;
            let mut bytes = vec![0; usize::try_from(at).expect("small")];
            // The zeros of a body may lie in a hole.
            for body in [vec![3; 2 * CHUNK_LEN], vec![0; 2 * CHUNK_LEN]] {
                bytes.truncate(usize::try_from(at).expect("small"));
                bytes.extend(frame_at(at, body));
                assert_eq!(find(&bytes, 64), Some(at));
                let cut = &bytes[..bytes.len() - 8];
                assert_eq!(find(cut, 64), None, "a frame that is cut off is none");
            }
        }
    }

    #[test]
    fn a_frame_that_was_made_without_the_salt_is_none() {
        for (salt, is_found) in [(SALT, true), (FrameSalt::new(0), false), (FrameSalt::new(7), false)] {
            let mut bytes = vec![0; 64];
            // The bytes in front of the message are damaged.
            bytes.extend([0xEE; 40]);
            let forged = bytes.len() as u64 + 8;
            bytes.extend([0xEE; 8]);
            bytes.extend(salted_frame_at(forged, b"a record that no log holds".to_vec(), salt));
            let real = bytes.len() as u64;
            bytes.extend(frame_at(real, vec![1; 20]));
            assert_eq!(find(&bytes, 64), Some(if is_found { forged } else { real }));
        }
    }

    /// Tens of thousands of headers that claim megabytes each: checked one by one they would take minutes.
    #[test]
    fn bytes_made_to_look_like_frames_do_not_slow_it_down() {
        let len = 4 << 20;
        let mut bytes = vec![0; 64];
        while bytes.len() < len / 2 {
            let position = bytes.len() as u64;
            let mut header = frame_at(position, Vec::new());
            header[..4].copy_from_slice(&u32::try_from(len / 2).expect("small").to_le_bytes());
            bytes.extend(header);
        }
        bytes.resize(len + 64, 1);
        let last = bytes.len() as u64;
        bytes.extend(frame_at(last, vec![9; 100]));
        let started = Instant::now();
        assert_eq!(find(&bytes, 64), Some(last));
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    #[test]
    fn zeros_are_quick() {
        let path = tempfile::tempdir().expect("a folder");
        let file = OsFolder::create(path.path()).expect("created").create("x").expect("created");
        file.set_len(1 << 30).expect("long");
        let segment = Segment { base: 0, file, header: Ok(SALT), salt: SALT };
        let started = Instant::now();
        assert_eq!(next_in_segment(&segment, 64, 1 << 30).expect("reads"), None);
        assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    }
}
