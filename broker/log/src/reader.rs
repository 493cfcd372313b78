//! Reading frames: one by position, or all in order.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::LogError;
use crate::frame::{self, Frame, FrameError};
use crate::segment::{HEADER_LEN, Segment, Shared};

/// Bytes that a scan reads at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Reads what was appended; cheap to clone, safe to use from any thread.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
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
    /// [`LogError::NotFound`] outside the log, [`LogError::Damaged`] when the checksum does not match, [`LogError::Io`].
    pub fn read(&self, position: u64, len: u32) -> Result<Frame, LogError> {
        let segment = self.segment(position)?;
        let mut buf = BytesMut::zeroed(len as usize);
        let n = segment
            .file
            .read_at(&mut buf, position - segment.base)
            .map_err(LogError::io(format!("reading {}", segment.name())))?;
        buf.truncate(n);
        frame::decode(&buf.freeze(), position).map_err(|error| damaged(&segment, position, &error))
    }

    /// All frames from `position` on, in order, up to the end of the log as it is when the scan gets there.
    pub fn scan(&self, position: u64) -> Scan {
        Scan { reader: self.clone(), position, chunk: Bytes::new(), chunk_start: position }
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

fn damaged(segment: &Segment, position: u64, error: &FrameError) -> LogError {
    LogError::Damaged { file: segment.name(), position, reason: error.to_string() }
}

/// An iterator over frames.
pub struct Scan {
    reader: Reader,
    position: u64,
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
            if self.position >= self.reader.end() {
                return Ok(None);
            }
            let segment = self.reader.segment(self.position)?;
            // A frame never begins inside a segment header: the position is the segment's base after a roll.
            self.position = self.position.max(segment.base + HEADER_LEN);
            if self.position >= self.reader.end() {
                return Ok(None);
            }
            match self.frame_in(&segment)? {
                Ok(frame) => {
                    self.position = frame.end();
                    return Ok(Some(frame));
                }
                Err(FrameError::Short(0)) if self.reader.shared.next_base(segment.base).is_some() => {
                    self.position = self.reader.shared.next_base(segment.base).expect("checked just now");
                }
                Err(error) => return Err(damaged(&segment, self.position, &error)),
            }
        }
    }

    /// The frame at the current position, read through the chunk.
    fn frame_in(&mut self, segment: &Segment) -> Result<Result<Frame, FrameError>, LogError> {
        let have = self.buffered();
        let wanted = if have.len() < frame::HEADER_LEN { None } else { frame::peek_len(&have).ok() };
        if have.len() < frame::HEADER_LEN || wanted.is_some_and(|len| len > have.len()) {
            self.refill(segment, CHUNK_LEN.max(wanted.unwrap_or(0)))?;
            // A frame longer than a chunk shows its length only now.
            let have = self.buffered();
            if let Ok(len) = frame::peek_len(&have)
                && len > have.len()
                && have.len() == CHUNK_LEN
            {
                self.refill(segment, len)?;
            }
        }
        Ok(frame::decode(&self.buffered(), self.position))
    }

    fn buffered(&self) -> Bytes {
        let chunk_end = self.chunk_start + self.chunk.len() as u64;
        if self.position < self.chunk_start || self.position >= chunk_end {
            return Bytes::new();
        }
        let skip = usize::try_from(self.position - self.chunk_start).expect("inside the chunk");
        self.chunk.slice(skip..)
    }

    fn refill(&mut self, segment: &Segment, len: usize) -> Result<(), LogError> {
        let mut buf = BytesMut::zeroed(len);
        let n = segment
            .file
            .read_at(&mut buf, self.position - segment.base)
            .map_err(LogError::io(format!("reading {}", segment.name())))?;
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
