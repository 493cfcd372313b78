//! Reading a log without opening it: every frame of every segment, and what lies between them, changing nothing.
//!
//! Recovery answers "where does the log end"; this answers "which records and damage does it hold". It never writes, so
//! it works on read-only files and on copies, and it continues behind damage as far as frames can be found.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::begin;
use crate::checkpoint::Checkpoint;
use crate::error::{DamagedRange, LogError};
use crate::frame::{self, Frame, FrameError};
use crate::fs::Folder;
use crate::reader::unreadable;
use crate::segment::{self, HEADER_LEN, Segment};
use crate::{cut, resync, salt};

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Whether a broker may be appending while the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InspectMode {
    /// No broker writes: everything is read, and damage behind the checkpoint is distinguished from a torn tail by
    /// looking for frames behind it.
    Offline,
    /// A broker may be writing: behind the checkpoint the first bytes that are no frame count as the end, since they
    /// may be a write in progress.
    Live,
}

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// File name.
    pub file: String,
    /// Position of its first byte.
    pub base: u64,
    /// Length of the file in bytes, reserved room included.
    pub len: u64,
}

/// The next finding of the inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFinding {
    /// An intact record.
    Record(Frame),
    /// Bytes that should be part of the log but are not readable.
    Damaged(DamagedRange),
    /// The end of the log; nothing follows.
    End {
        /// Position behind the last record.
        position: u64,
        /// Bytes behind the end that an unfinished write left; the next start of the broker cuts them off.
        torn_bytes: u64,
    },
}

/// Walks through a log. An iterator that ends after [`LogFinding::End`].
pub struct LogInspector {
    files: Vec<(SegmentFile, Segment)>,
    /// Damage found in the headers and lengths of segments, by the index of the segment before which it is reported.
    known: Vec<(usize, DamagedRange)>,
    durable: Option<u64>,
    mode: InspectMode,
    current: usize,
    position: u64,
    chunk: Bytes,
    chunk_start: u64,
    ended: bool,
}

impl LogInspector {
    /// Inspects the segments in `folder`.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Format`] when a segment has another format version, and [`LogError::Misplaced`] when a segment belongs
    /// to another log, or when every copy of the salt is lost, so that no frame can be verified.
    pub fn open(folder: &dyn Folder, mode: InspectMode) -> Result<Self, LogError> {
        let checkpoint = Checkpoint::peek(folder).map_err(LogError::io("reading the log's checkpoint"))?;
        let durable = checkpoint.map(|slot| slot.durable);
        let names = folder.list().map_err(LogError::io("listing the log folder"))?;
        let bases = segment::bases_among(&names);
        let mut segments = Vec::with_capacity(bases.len());
        for base in bases {
            segments.push(Segment::open_any(folder, base)?);
        }
        // Without a salt there are no frames that would need one.
        if let Some(salt) = salt::find(&segments, checkpoint.and_then(|slot| slot.salt))? {
            segments.iter_mut().for_each(|segment| segment.salt = salt);
        }
        let mut files: Vec<(SegmentFile, Segment)> = Vec::new();
        let mut known: Vec<(usize, DamagedRange)> = Vec::new();
        if let Some((position, until)) = begin::missing(&names) {
            let (file, reason) =
                (segment::file_name(position), "missing, and so is everything up to there".to_owned());
            known.push((0, DamagedRange { file, position, until, reason }));
        }
        for segment in segments {
            let (file, base) = (segment.name(), segment.base);
            let len = segment.file.len().map_err(LogError::io(format!("measuring log segment {file}")))?;
            known.extend(gap(files.last().map(|(info, _)| info), base).map(|damage| (files.len(), damage)));
            known.extend(segment.damaged_header().map(|damage| (files.len(), damage)));
            files.push((SegmentFile { file, base, len }, segment));
        }
        if let Some(durable) = durable.filter(|durable| files.is_empty() && *durable > 0) {
            let reason = format!("missing, but the log was durable up to {durable}");
            known
                .push((0, DamagedRange { file: segment::file_name(0), position: 0, until: durable, reason }));
        }
        known.reverse();
        let position = files.first().map_or(0, |(info, _)| info.base + HEADER_LEN);
        let (chunk, chunk_start) = (Bytes::new(), position);
        Ok(Self { files, known, durable, mode, current: 0, position, chunk, chunk_start, ended: false })
    }

    /// The files of the log, in order.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentFile> {
        self.files.iter().map(|(info, _)| info)
    }

    /// The durable position that the checkpoint records; `None` without a readable checkpoint.
    pub fn durable(&self) -> Option<u64> {
        self.durable
    }

    /// Position of the next finding.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Skips to the beginning of the segment that holds `position`, without inspecting the skipped part.
    pub fn skip_to_segment_of(&mut self, position: u64) {
        let index = self.files.partition_point(|(info, _)| info.base <= position).saturating_sub(1);
        if index < self.files.len() {
            self.known.retain(|(at, _)| *at > index);
            self.enter(index);
        }
    }

    fn enter(&mut self, index: usize) {
        self.current = index;
        self.position = self.files[index].0.base + HEADER_LEN;
        // Where segments overlap by mistake, the bytes of one file must not be used for the other.
        self.chunk = Bytes::new();
    }

    fn next_finding(&mut self) -> Result<LogFinding, LogError> {
        loop {
            if self.known.last().is_some_and(|(index, _)| *index <= self.current) {
                let (_, damage) = self.known.pop().expect("looked at just now");
                return Ok(LogFinding::Damaged(damage));
            }
            let Some((info, _)) = self.files.get(self.current) else { return Ok(self.end(0)) };
            let file_end = info.base + info.len;
            if let Some((next, _)) = self.files.get(self.current + 1)
                && self.position >= file_end.min(next.base)
            {
                self.enter(self.current + 1);
                continue;
            }
            return match self.frame()? {
                Ok(frame) => {
                    self.position = frame.end();
                    Ok(LogFinding::Record(frame))
                }
                Err(error) => self.no_frame(file_end, &error),
            };
        }
    }

    /// Classifies a position without a frame.
    fn no_frame(&mut self, file_end: u64, error: &FrameError) -> Result<LogFinding, LogError> {
        let from = self.position;
        let segment = self.files[self.current].1.clone();
        let next_base = self.files.get(self.current + 1).map(|(next, _)| next.base);
        let may_be_end = next_base.is_none() && from >= self.durable.unwrap_or(0);
        let search = || {
            let limit = next_base.unwrap_or(u64::MAX).min(file_end);
            resync::next_in_segment(&segment, from + frame::ALIGNMENT as u64, limit)
        };
        let next_frame = match self.mode {
            InspectMode::Live if may_be_end && !matches!(error, FrameError::Unreadable(_)) => None,
            _ => match search() {
                Err(LogError::Unreadable { position, source, .. }) if next_base.is_none() => {
                    let reason = format!(
                        "cannot be read at {position}: {source}; the end of the log is unknown, and a broker does not start"
                    );
                    self.position = file_end;
                    return Ok(LogFinding::Damaged(DamagedRange {
                        file: segment.name(),
                        position: from,
                        until: file_end,
                        reason,
                    }));
                }
                Err(LogError::Unreadable { .. }) => None,
                found => found?,
            },
        };
        if may_be_end && next_frame.is_none() {
            let torn_bytes = cut::written_until(&segment, from, file_end)? - from;
            return Ok(self.end(torn_bytes));
        }
        let mut reason = error.to_string();
        let until = match (next_frame, next_base) {
            (Some(at), _) => at,
            (None, Some(base)) => file_end.min(base),
            (None, None) => {
                // Reserved space behind the last write is no loss.
                let durable = self.durable.take().expect("the end of the log lies before it");
                reason = format!("{reason}, but the log was durable up to {durable}");
                let written = cut::written_until(&segment, from, file_end)?;
                durable.max(written.next_multiple_of(frame::ALIGNMENT as u64))
            }
        };
        self.position = until;
        Ok(LogFinding::Damaged(DamagedRange { file: segment.name(), position: from, until, reason }))
    }

    fn end(&mut self, torn_bytes: u64) -> LogFinding {
        self.ended = true;
        LogFinding::End { position: self.position, torn_bytes }
    }

    /// The frame at the current position.
    fn frame(&mut self) -> Result<Result<Frame, FrameError>, LogError> {
        let read = self.read_frame();
        read.or_else(|error| unreadable(&self.files[self.current].1, error).map(Err))
    }

    fn read_frame(&mut self) -> io::Result<Result<Frame, FrameError>> {
        let header = self.bytes(self.position, frame::HEADER_LEN)?;
        Ok(match frame::peek_len(&header) {
            Ok(len) => {
                let salt = self.files[self.current].1.salt;
                frame::decode(&self.bytes(self.position, len)?, self.position, salt)
            }
            Err(error) => Err(error),
        })
    }

    /// `wanted` bytes of the current segment from `position` on; fewer at the end of the file and before a bad place.
    fn bytes(&mut self, position: u64, wanted: usize) -> io::Result<Bytes> {
        let (info, segment) = &self.files[self.current];
        let chunk_end = self.chunk_start + self.chunk.len() as u64;
        if position < self.chunk_start || position + wanted as u64 > chunk_end {
            let left = usize::try_from((info.base + info.len).saturating_sub(position)).unwrap_or(usize::MAX);
            let mut buf = BytesMut::zeroed(wanted.max(CHUNK_LEN).min(left));
            let n = segment.read_some(&mut buf, wanted.min(left), position)?;
            buf.truncate(n);
            self.chunk = buf.freeze();
            self.chunk_start = position;
        }
        let skip = usize::try_from(position - self.chunk_start).expect("inside the chunk");
        Ok(self.chunk.slice(skip..self.chunk.len().min(skip + wanted)))
    }
}

impl Iterator for LogInspector {
    type Item = Result<LogFinding, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let finding = self.next_finding();
        self.ended |= finding.is_err();
        Some(finding)
    }
}

/// The damage between a segment and the next one, which begins at `base`.
fn gap(before: Option<&SegmentFile>, base: u64) -> Option<DamagedRange> {
    let before = before?;
    let end = before.base + before.len;
    let (position, until) = (end.min(base), end.max(base));
    let reason = match end.cmp(&base) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => format!("missing: the next segment begins at {base}"),
        std::cmp::Ordering::Greater => format!("too long: the next segment begins at {base}"),
    };
    Some(DamagedRange { file: before.file.clone(), position, until, reason })
}
