//! Reading frames: one by position, or all in order.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{DamagedRange, LogError};
use crate::frame::{self, Frame, FrameError};
use crate::fs::is_bad_place;
use crate::resync;
use crate::segment::{HEADER_LEN, Segment, Shared};

/// Bytes that a scan reads at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Reads the appended records; cheap to clone, safe to use from any thread.
#[derive(Clone)]
pub struct LogReader {
    pub(crate) shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// End of the appended records.
    pub fn end(&self) -> u64 {
        self.shared.end()
    }

    /// End of the durable records.
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Position of the oldest record that is kept.
    pub fn start(&self) -> u64 {
        self.shared.first_base() + HEADER_LEN
    }

    /// Reads the frame of `len` bytes at `position`, as an index entry names it.
    ///
    /// # Errors
    /// [`LogError::NotFound`] outside the log, [`LogError::Damaged`] when no intact frame is there, [`LogError::Io`].
    pub fn read(&self, position: u64, len: u32) -> Result<Frame, LogError> {
        let segment = self.segment(position)?;
        let mut buf = BytesMut::zeroed(len as usize);
        let frame = match segment.file.read_at(&mut buf, position - segment.base) {
            Ok(n) => {
                buf.truncate(n);
                frame::decode(&buf.freeze(), position, segment.salt)
            }
            Err(error) => Err(unreadable(&segment, error)?),
        };
        frame.map_err(|error| damaged(&segment, position, position + u64::from(len), &error))
    }

    /// Reads the frame at `position`, whose length is not known.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn read_at(&self, position: u64) -> Result<Frame, LogError> {
        let segment = self.segment(position)?;
        let mut header = [0; frame::HEADER_LEN];
        let read = segment.file.read_at(&mut header, position - segment.base);
        let n = read.map_err(LogError::io(format!("reading {}", segment.name())))?;
        match frame::peek_len(&header[..n]) {
            Ok(len) => self.read(position, u32::try_from(len).expect("below LEN_MAX")),
            Err(error) => Err(damaged(&segment, position, position + frame::ALIGNMENT as u64, &error)),
        }
    }

    /// The frame that another member read at `position` of its copy of this log.
    ///
    /// # Errors
    /// [`LogError::NotFound`] outside the log, [`LogError::Damaged`] when the bytes are not those of this log at that
    /// position.
    pub fn decode(&self, bytes: &Bytes, position: u64) -> Result<Frame, LogError> {
        let segment = self.segment(position)?;
        let frame = frame::decode(bytes, position, segment.salt);
        frame.map_err(|error| damaged(&segment, position, position + bytes.len() as u64, &error))
    }

    /// All frames from `position` on, in order, up to the end of the log as it is when the scan gets there. Each damaged
    /// range is reported once, as [`LogError::Damaged`]; the scan continues behind it. After any other error it stops:
    /// that is [`LogError::Unreadable`] when the device cannot read a place and no frame follows, or [`LogError::Io`].
    pub fn scan(&self, position: u64) -> FrameScan {
        let chunk = Chunk { bytes: Bytes::new(), start: position, ahead_until: u64::MAX };
        FrameScan { reader: self.clone(), position, current: None, header_told: None, chunk }
    }

    pub(crate) fn segment(&self, position: u64) -> Result<Segment, LogError> {
        if position >= self.end() {
            let reason = format!("the log ends at {}", self.end());
            return Err(LogError::NotFound { position, reason });
        }
        self.shared.at(position).ok_or_else(|| LogError::NotFound {
            position,
            reason: format!("the log begins at {}", self.start()),
        })
    }
}

pub(crate) fn damaged(segment: &Segment, position: u64, until: u64, error: &FrameError) -> LogError {
    LogError::Damaged(DamagedRange { file: segment.name(), position, until, reason: error.to_string() })
}

/// Maps a failed read of a frame: a bad place is damage, any other error ends the scan.
pub(crate) fn unreadable(segment: &Segment, error: io::Error) -> Result<FrameError, LogError> {
    if is_bad_place(&error) {
        return Ok(FrameError::Unreadable(error.to_string()));
    }
    Err(LogError::io(format!("reading {}", segment.name()))(error))
}

/// An iterator over frames.
pub struct FrameScan {
    reader: LogReader,
    position: u64,
    /// The segment that holds the position, and the position up to which it surely has frames; behind that it is looked
    /// up again.
    current: Option<(Segment, u64)>,
    /// Segment whose damaged header was reported.
    header_told: Option<u64>,
    chunk: Chunk,
}

impl FrameScan {
    /// Position of the next frame.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// This scan, with read-ahead up to a position only: behind it, no more than a frame needs is read.
    pub(crate) fn reading_ahead_until(mut self, position: u64) -> Self {
        self.chunk.ahead_until = position;
        self
    }

    fn read_next(&mut self) -> Result<Option<Frame>, LogError> {
        self.find_segment()?;
        let Some((segment, limit)) = &self.current else { return Ok(None) };
        match self.chunk.frame(segment, self.position, *limit)? {
            Ok(frame) => {
                assert_eq!(frame.position, self.position, "frames lie one behind the other");
                self.position = frame.end();
                Ok(Some(frame))
            }
            Err(error) => {
                let (from, end) = (self.position, self.reader.end());
                let next = resync::next_frame(&self.reader.shared, from + frame::ALIGNMENT as u64, end)?;
                self.position = next.unwrap_or(end);
                // The log may have been cut before this place in the meantime.
                assert!(self.position > from || end <= from, "a scan goes on behind damage");
                Err(damaged(segment, from, self.position, &error))
            }
        }
    }

    /// Sets `current` to the segment that holds the position, or to `None` at the end of the log.
    fn find_segment(&mut self) -> Result<(), LogError> {
        while self.current.as_ref().is_none_or(|(_, limit)| self.position >= *limit) {
            self.current = None;
            let end = self.reader.end();
            if self.position >= end {
                break;
            }
            let segment = self.reader.segment(self.position)?;
            self.enter(&segment)?;
            let limit = self.reader.shared.next_base(segment.base).map_or(end, |next| next.min(end));
            self.current = Some((segment, limit));
        }
        Ok(())
    }

    /// Enters a segment at its first frame if the position is the segment's base, as after a roll: no frame begins
    /// inside a header.
    fn enter(&mut self, segment: &Segment) -> Result<(), LogError> {
        let first = segment.base + HEADER_LEN;
        if self.position <= first {
            self.position = first;
            if let Some(damage) = segment.damaged_header()
                && self.header_told.replace(segment.base) != Some(segment.base)
            {
                return Err(damage.into());
            }
        }
        Ok(())
    }
}

impl Iterator for FrameScan {
    type Item = Result<Frame, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

/// A part of the log that was read in one go, and whose frames are decoded one by one.
struct Chunk {
    bytes: Bytes,
    start: u64,
    /// Position behind which nothing is read ahead.
    ahead_until: u64,
}

impl Chunk {
    /// The frame at `position`, read through the chunk; it must end at or before `limit`.
    fn frame(
        &mut self,
        segment: &Segment,
        position: u64,
        limit: u64,
    ) -> Result<Result<Frame, FrameError>, LogError> {
        let read = self.read_frame(segment, position, limit);
        read.or_else(|error| unreadable(segment, error).map(Err))
    }

    fn read_frame(
        &mut self,
        segment: &Segment,
        position: u64,
        limit: u64,
    ) -> io::Result<Result<Frame, FrameError>> {
        if self.from(position).len() < frame::HEADER_LEN {
            self.refill(segment, position, frame::HEADER_LEN, limit)?;
        }
        if let Ok(len) = frame::peek_len(self.from(position))
            && len > self.from(position).len()
        {
            self.refill(segment, position, len, limit)?;
        }
        let skip = self.bytes.len() - self.from(position).len();
        Ok(frame::decode_at(&self.bytes, skip, position, segment.salt))
    }

    /// The bytes of the chunk from `position` on; none when it lies outside.
    fn from(&self, position: u64) -> &[u8] {
        let skip = position.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default()
    }

    /// Reads `needed` bytes and some more, but not beyond `limit`: bytes behind it may change before they become part of
    /// the log.
    fn refill(&mut self, segment: &Segment, position: u64, needed: usize, limit: u64) -> io::Result<()> {
        let bytes_until = |until: u64| usize::try_from(until.saturating_sub(position)).unwrap_or(usize::MAX);
        let left = bytes_until(limit);
        let wanted = needed.max(CHUNK_LEN.min(bytes_until(self.ahead_until)));
        let mut buf = BytesMut::zeroed(wanted.min(left));
        let n = segment.read_some(&mut buf, needed.min(left), position)?;
        buf.truncate(n);
        self.bytes = buf.freeze();
        self.start = position;
        Ok(())
    }
}
