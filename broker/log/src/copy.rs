//! Copying a log: reading it in raw pieces, and writing these at the same positions of another log.
//!
//! A copy has the salt, the segments and the bytes of the original. Only frames with a valid checksum and position are
//! written, so damage of one log never becomes damage of another.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::begin;
use crate::checkpoint::Checkpoint;
use crate::cut;
use crate::error::LogError;
use crate::frame::{self, Frame};
use crate::fs::Folder;
use crate::last::LastFrame;
use crate::log::Log;
use crate::reader::LogReader;
use crate::sabotage;
use crate::salt::FrameSalt;
use crate::segment::{self, HEADER_LEN, Segment, SegmentRoom};
use crate::trim;

/// The content of a log at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A segment begins there.
    Segment {
        /// Its position.
        base: u64,
        /// Bytes currently reserved for the segment, its header included.
        capacity: u64,
    },
    /// Whole frames, one behind the other.
    Frames(Bytes),
    /// The end of the log.
    End,
}

/// The result of [`Log::append_copy`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopiedLog {
    /// Number of frames.
    pub frames: usize,
    /// Epoch of the last frame; 0 without one.
    pub epoch: u32,
    /// Store time of the last frame, milliseconds since the Unix epoch.
    pub store_ms: i64,
}

/// Where the records up to an epoch end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEpochEnd {
    /// Epoch of the last one; 0 without one.
    pub epoch: u32,
    /// Position behind it.
    pub end: u64,
    /// Where it begins; `None` without one.
    pub begin: Option<u64>,
}

impl LogReader {
    /// Position behind the last frame: the end of the log, or the base of its newest segment when that is empty.
    pub fn frames_end(&self) -> u64 {
        let end = self.end();
        match self.shared.at(end) {
            Some(segment) if end == segment.base + HEADER_LEN => segment.base,
            _ => end,
        }
    }

    /// Waits until the end of the log differs from `seen`, for `patience` at most. Blocks the thread.
    pub fn wait_for_end(&self, seen: u64, patience: Duration) {
        self.shared.wait_for_end(seen, patience);
    }

    /// The content at `position`, which is the beginning of a segment or of a frame. At most `bytes_max` bytes of frames, but at
    /// least one frame. The writer of the copy verifies their checksums.
    ///
    /// # Errors
    /// [`LogError::NotFound`] outside the log, [`LogError::Damaged`] where no frame can begin, [`LogError::Io`].
    pub fn copy(&self, position: u64, bytes_max: usize) -> Result<Piece, LogError> {
        let end = self.end();
        if position == end {
            return Ok(Piece::End);
        }
        let segment = self.segment(position)?;
        if position == segment.base {
            let len = segment.file.len().map_err(LogError::io(format!("measuring {}", segment.name())))?;
            return Ok(Piece::Segment { base: segment.base, capacity: len });
        }
        let limit = self.shared.next_base(segment.base).map_or(end, |next| next.min(end));
        let left = usize::try_from(limit - position).unwrap_or(usize::MAX);
        let first = self.read_header(&segment, position)?;
        let mut bytes = BytesMut::zeroed(left.min(bytes_max.max(first)));
        let read = segment.read(&mut bytes, position);
        let n = read.map_err(LogError::io(format!("reading {}", segment.name())))?;
        bytes.truncate(n);
        let whole = whole_frames(&bytes);
        if whole == 0 {
            return Err(Self::no_frame(&segment, position));
        }
        bytes.truncate(whole);
        Ok(Piece::Frames(bytes.freeze()))
    }

    /// Length of the frame at a position.
    fn read_header(&self, segment: &Segment, position: u64) -> Result<usize, LogError> {
        let mut header = [0; frame::HEADER_LEN];
        let read = segment.file.read_at(&mut header, position - segment.base);
        let n = read.map_err(LogError::io(format!("reading {}", segment.name())))?;
        frame::peek_len(&header[..n]).map_err(|_| Self::no_frame(segment, position))
    }

    fn no_frame(segment: &Segment, position: u64) -> LogError {
        crate::reader::damaged(
            segment,
            position,
            position + frame::ALIGNMENT as u64,
            &frame::FrameError::Empty,
        )
    }

    /// Checksum of the frame at a position; `None` where no intact frame begins.
    ///
    /// # Errors
    /// [`LogError::NotFound`] outside the log, [`LogError::Io`].
    pub fn checksum(&self, position: u64) -> Result<Option<u32>, LogError> {
        let frame = match self.read_at(position) {
            Ok(frame) => frame,
            Err(LogError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let segment = self.segment(position)?;
        let last = LastFrame::read(&segment, position, frame.len);
        Ok(Some(last.map_err(LogError::io(format!("reading {}", segment.name())))?.crc))
    }

    /// Whether the log has the frame with this checksum at `position`, as far as it can be read: no when another frame, or the
    /// beginning of a segment, lies there. Damage says nothing, and neither does a position before the log.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Unreadable`]
    pub fn may_hold(&self, position: u64, checksum: u32) -> Result<bool, LogError> {
        match self.checksum(position) {
            Ok(Some(here)) => return Ok(here == checksum),
            Ok(None) => {}
            Err(LogError::NotFound { .. }) => return Ok(position < self.start()),
            Err(error) => return Err(error),
        }
        for frame in self.scan(self.segment(position)?.base + HEADER_LEN) {
            match frame {
                Ok(frame) if frame.end() > position => break,
                Err(LogError::Damaged(range)) if range.until > position => {
                    return Ok(range.position <= position);
                }
                Ok(_) | Err(LogError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The last record whose epoch is not above `epoch`. Epochs never decrease along a log. Without such a record: epoch 0, and the
    /// beginning of the log. Reads at most one segment, and the first record of some others.
    ///
    /// # Errors
    /// [`LogError`] when the log cannot be read there. Damage is no error where records of the epoch lie behind it.
    pub fn end_of_epoch(&self, epoch: u32) -> Result<LogEpochEnd, LogError> {
        let segments = self.segments();
        let mut holder = None;
        for (i, segment) in segments.iter().enumerate() {
            let is_readable = |frame: &Result<Frame, _>| !matches!(frame, Err(LogError::Damaged(_)));
            match self.scan(segment.start).find(is_readable).transpose()? {
                Some(frame) if frame.position >= segment.end => {}
                Some(frame) if frame.epoch <= epoch => holder = Some(i),
                Some(_) => break,
                None => {}
            }
        }
        let Some(segment) = holder.and_then(|i| segments.get(i)) else {
            let end = segments.first().map_or(0, |first| first.base);
            return Ok(LogEpochEnd { epoch: 0, end, begin: None });
        };
        let mut last = LogEpochEnd { epoch: 0, end: segment.base, begin: None };
        let mut damage = None;
        for frame in self.scan(segment.start) {
            let frame = match frame {
                Err(LogError::Damaged(range)) => {
                    damage = Some(range);
                    continue;
                }
                frame => frame?,
            };
            if frame.epoch > epoch || frame.position >= segment.end {
                break;
            }
            last = LogEpochEnd { epoch: frame.epoch, end: frame.end(), begin: Some(frame.position) };
            damage = None;
        }
        // The end itself may lie in there.
        damage.map_or(Ok(last), |range| Err(LogError::Damaged(range)))
    }
}

/// Length of the whole frames at the start of `bytes`, by their length fields.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Ok(len) = frame::peek_len(&bytes[whole..]) {
        if whole + len > bytes.len() {
            break;
        }
        whole += len;
    }
    assert!(whole <= bytes.len(), "a frame that is whole was read to its end");
    whole
}

impl Log {
    /// Appends frames of another log with the same salt, at their original position. They are durable after
    /// [`Self::sync`].
    ///
    /// # Errors
    /// [`LogError::Copy`], which changes nothing, when they do not belong there or are damaged, and [`LogError::NotNow`]; after any
    /// other error the log is read-only.
    pub fn append_copy(&mut self, position: u64, bytes: &Bytes) -> Result<CopiedLog, LogError> {
        self.check_writable()?;
        let refused = |position, reason: String| LogError::Copy { position, reason };
        if position != self.end() {
            return Err(refused(position, format!("the log ends at {}", self.end())));
        }
        let mut copied = CopiedLog::default();
        let (mut at, mut last_len) = (0, 0);
        while at < bytes.len() {
            let frame = frame::decode_at(bytes, at, position + at as u64, self.salt());
            let frame = frame.map_err(|error| refused(position + at as u64, error.to_string()))?;
            copied = CopiedLog { frames: copied.frames + 1, epoch: frame.epoch, store_ms: frame.store_ms };
            at += frame.len as usize;
            last_len = frame.len;
        }
        self.write_copy(bytes, LastFrame::of(bytes, last_len))
            .inspect_err(|error| self.fail_for_good(error))?;
        assert_eq!(self.end(), position + bytes.len() as u64, "a copy lies where it lay in the other log");
        Ok(copied)
    }

    /// Continues in a segment that begins at the end of the log, as in the copied log. An existing empty segment is
    /// reused.
    ///
    /// # Errors
    /// [`LogError::Copy`] when the log ends elsewhere and [`LogError::NotNow`], which change nothing; [`LogError::Io`].
    pub fn begin_copied_segment(&mut self, base: u64) -> Result<(), LogError> {
        self.check_writable()?;
        if self.is_at_begin_of(base) {
            return Ok(());
        }
        if base != self.end() {
            let reason = format!("a segment begins there, but the log ends at {}", self.end());
            return Err(LogError::Copy { position: base, reason });
        }
        self.begin_segment(0)
    }

    /// Removes everything from `to` on, a position between two frames. The removed bytes are kept in files `cut-<position>`,
    /// up to the limits of these. Durable when this returns; a crash in between leaves either end.
    ///
    /// # Errors
    /// [`LogError::NotFound`] when the log begins behind `to` or ends before it, which changes nothing; [`LogError::Io`].
    pub fn truncate(&mut self, folder: &dyn Folder, to: u64) -> Result<(), LogError> {
        self.await_elsewhere()?;
        let reader = self.reader();
        let keeps = reader.segments().into_iter().rfind(|segment| segment.base < to);
        let Some(keeps) = keeps.filter(|segment| segment.start <= to && to <= self.end()) else {
            let reason = format!("the log goes from {} to {}", reader.start(), self.end());
            return Err(LogError::NotFound { position: to, reason });
        };
        if to == self.end() {
            return Ok(());
        }
        self.cut_off(folder, keeps.base, to).inspect_err(|error| self.fail(error))
    }

    fn cut_off(&mut self, folder: &dyn Folder, keeps: u64, to: u64) -> Result<(), LogError> {
        let reader = self.reader();
        // The checkpoint first: it must never claim removed positions.
        self.lower_checkpoint(to)?;
        let segments = reader.segments();
        for gone in segments.iter().rev().take_while(|segment| segment.base > keeps) {
            let segment = reader.shared.at(gone.base).expect("it is listed");
            cut::set_aside(folder, &segment, gone.base, gone.end);
            // Backwards from the end, so that a crash leaves a log without a gap.
            reader.shared.remove(gone.base);
            folder
                .remove(&segment.name())
                .and_then(|()| folder.sync())
                .map_err(LogError::io(format!("removing {}", segment.name())))?;
        }
        let segment = reader.shared.at(to).expect("it is kept");
        let file_end = segment.base + segment.file.len().map_err(LogError::io("measuring a segment"))?;
        let written = cut::written_until(&segment, to, file_end)?;
        if written > to {
            cut::set_aside(folder, &segment, to, written);
        }
        let settle = || {
            if !sabotage::is("truncation-not-durable") {
                segment.file.set_len(to - segment.base)?;
            }
            segment.file.sync()
        };
        settle().map_err(LogError::io(format!("truncating {}", segment.name())))?;
        self.go_on_at(segment, to);
        Ok(())
    }
}

/// Whether `folder` holds no log, and never held one that was durable.
///
/// # Errors
/// [`LogError::Io`]
pub fn is_blank(folder: &dyn Folder) -> Result<bool, LogError> {
    let noted = Checkpoint::peek(folder).map_err(LogError::io("reading the log's checkpoint"))?;
    Ok(segment::bases(folder)?.is_empty() && noted.is_none_or(|slot| slot.durable == 0))
}

/// Begins the copy of a log in a folder that holds none: with an empty segment.
///
/// # Errors
/// [`LogError::Io`]
pub fn begin_copy(folder: &dyn Folder, salt: FrameSalt, base: u64) -> Result<(), LogError> {
    begin::note(folder, base)?;
    Segment::create(folder, base, salt, SegmentRoom::NONE)?;
    begin::forget_others(folder, base)
}

/// Removes the log from `folder`, for a copy that is too far behind to continue. Files with cut-off bytes stay.
///
/// # Errors
/// [`LogError::Io`]; the folder then holds a log without its end, which can be removed again.
pub fn remove_log(folder: &dyn Folder) -> Result<(), LogError> {
    let action = "removing a log that is out of date";
    let names = folder.list().map_err(LogError::io(action))?;
    // Without these files, the removed segments do not count as missing.
    if names.iter().any(|name| name == crate::checkpoint::NAME) {
        folder.remove(crate::checkpoint::NAME).map_err(LogError::io(action))?;
    }
    begin::forget(folder)?;
    trim::forget(folder)?;
    folder.sync().map_err(LogError::io(action))?;
    for base in segment::all_bases(&names).into_iter().rev() {
        folder.remove(&segment::file_name(base)).map_err(LogError::io(action))?;
    }
    folder.sync().map_err(LogError::io(action))
}
