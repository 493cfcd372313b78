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

/// Reads what was appended; cheap to clone, safe to use from any thread.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// End of what was appended.
    pub fn end(&self) -> u64 {
        self.shared.end()
    }

    /// End of what is durable.
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

    /// All frames from `position` on, in order, up to the end of the log as it is when the scan gets there. Each damaged
    /// range comes once, as [`LogError::Damaged`]; the scan goes on behind it. After any other error it stays where it is:
    /// that is [`LogError::Unreadable`] when the device cannot read a place and no frame follows, or [`LogError::Io`].
    pub fn scan(&self, position: u64) -> Scan {
        Scan { reader: self.clone(), position, header_told: None, chunk: Bytes::new(), chunk_start: position }
    }

    fn segment(&self, position: u64) -> Result<Segment, LogError> {
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

fn damaged(segment: &Segment, position: u64, until: u64, error: &FrameError) -> LogError {
    LogError::Damaged(DamagedRange { file: segment.name(), position, until, reason: error.to_string() })
}

/// What it means for a frame that reading failed: a bad place is damage, anything else is no reason to go on.
pub(crate) fn unreadable(segment: &Segment, error: io::Error) -> Result<FrameError, LogError> {
    if is_bad_place(&error) {
        return Ok(FrameError::Unreadable(error.to_string()));
    }
    Err(LogError::io(format!("reading {}", segment.name()))(error))
}

/// An iterator over frames.
pub struct Scan {
    reader: Reader,
    position: u64,
    /// Segment whose damaged header was reported.
    header_told: Option<u64>,
    chunk: Bytes,
    chunk_start: u64,
}

impl Scan {
    /// Position of the next frame.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn read_next(&mut self) -> Result<Option<Frame>, LogError> {
        loop {
            let end = self.reader.end();
            if self.position >= end {
                return Ok(None);
            }
            let segment = self.reader.segment(self.position)?;
            self.enter(&segment)?;
            let limit = self.reader.shared.next_base(segment.base).map_or(end, |next| next.min(end));
            if self.position >= limit {
                continue;
            }
            return match self.frame_in(&segment, limit)? {
                Ok(frame) => {
                    self.position = frame.end();
                    Ok(Some(frame))
                }
                Err(error) => {
                    let from = self.position;
                    let next = resync::next_frame(&self.reader.shared, from + frame::ALIGNMENT as u64, end)?;
                    self.position = next.unwrap_or(end);
                    Err(damaged(&segment, from, self.position, &error))
                }
            };
        }
    }

    /// A frame never begins inside a segment header: the position is the segment's base after a roll.
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

    /// The frame at the current position, read through the chunk; it must end at or before `limit`.
    fn frame_in(&mut self, segment: &Segment, limit: u64) -> Result<Result<Frame, FrameError>, LogError> {
        if self.buffered().len() < frame::HEADER_LEN
            && let Err(error) = self.refill(segment, frame::HEADER_LEN, limit)
        {
            return Ok(Err(unreadable(segment, error)?));
        }
        if let Ok(len) = frame::peek_len(&self.buffered())
            && len > self.buffered().len()
            && let Err(error) = self.refill(segment, len, limit)
        {
            return Ok(Err(unreadable(segment, error)?));
        }
        Ok(frame::decode(&self.buffered(), self.position, segment.salt))
    }

    fn buffered(&self) -> Bytes {
        let chunk_end = self.chunk_start + self.chunk.len() as u64;
        if self.position < self.chunk_start || self.position >= chunk_end {
            return Bytes::new();
        }
        let skip = usize::try_from(self.position - self.chunk_start).expect("inside the chunk");
        self.chunk.slice(skip..)
    }

    /// Reads `needed` bytes and some more, but not beyond `limit`: what lies there may change before it becomes part of the
    /// log.
    fn refill(&mut self, segment: &Segment, needed: usize, limit: u64) -> io::Result<()> {
        let left = usize::try_from(limit - self.position).unwrap_or(usize::MAX);
        let mut buf = BytesMut::zeroed(needed.max(CHUNK_LEN).min(left));
        let n = segment.read_some(&mut buf, needed.min(left), self.position)?;
        buf.truncate(n);
        self.chunk = buf.freeze();
        self.chunk_start = self.position;
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Frame, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}
