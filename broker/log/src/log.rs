//! The appending side of the log.
//!
//! # Room
//!
//! The log reserves space ahead of its end in steps (`log/src/log.rs`, `make_room`); messages have to leave a part of
//! it, which acknowledgements and decisions use when the disk is full. When the next segment cannot be created, for
//! lack of space or descriptors, the current one grows, and the creation is retried. `broker/src/ballast.rs` is a file
//! that is released on a full disk for a moment, so that RocksDB can open.

use std::io;
use std::sync::Arc;

use crate::begin;
use crate::checkpoint::Checkpoint;
use crate::elsewhere::{Outcome, SyncTask};
use crate::error::{DamagedRange, LogError};
use crate::frame::{self, NewFrame};
use crate::fs::{Folder, is_full};
use crate::last::{LastFrame, Watermark};
use crate::reader::LogReader;
use crate::recovery;
use crate::sabotage;
use crate::salt::FrameSalt;
use crate::segment::{HEADER_LEN, Segment, SegmentRoom, Shared, file_name};
use crate::trim;

/// Zeros are written ahead of the end in pieces of this many bytes. The first sync of bytes in reserved space makes the file
/// system record in its journal that they are written, which costs half as much as a small sync; zeros do that once for many
/// syncs.
const ZEROS_LEN: u64 = 256 << 10;
/// Zeros that fewer syncs than this share save nothing.
const SYNCS_PER_ZEROS: u64 = 8;
/// A segment whose successor cannot be created grows by this part of a segment before the next try.
const TRIES_PER_SEGMENT: u64 = 16;

/// Sizes of a log.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Size of a segment in bytes; a record that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// Space on the disk is reserved ahead of the end in steps of this many bytes.
    pub step_bytes: u64,
    /// Reserved bytes that [`Log::make_room`] leaves for records that must not be refused; never more than an eighth of a
    /// segment.
    pub reserve_bytes: u64,
    /// The checkpoint is written after this many bytes became durable.
    pub checkpoint_bytes: u64,
    /// Salt of a new log; an existing one has its own.
    pub salt: FrameSalt,
}

impl LogOptions {
    /// The usual sizes.
    pub const fn new(salt: FrameSalt) -> Self {
        Self {
            segment_bytes: 1 << 30,
            step_bytes: 32 << 20,
            reserve_bytes: 8 << 20,
            checkpoint_bytes: 16 << 20,
            salt,
        }
    }

    /// Bytes of a segment whose first records take `first_len`.
    fn capacity(&self, first_len: u64) -> u64 {
        self.segment_bytes.max(HEADER_LEN + first_len)
    }

    fn reserve(&self) -> u64 {
        self.reserve_bytes.min(self.segment_bytes / 8)
    }

    /// Space to reserve for such a segment at first.
    pub(crate) fn new_segment(&self, first_len: u64) -> SegmentRoom {
        let needed = HEADER_LEN + first_len + self.reserve();
        SegmentRoom { wanted: needed.max(self.step_bytes.min(self.segment_bytes)), needed }
    }
}

/// The result of opening a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Where the log ends.
    pub end: u64,
    /// Bytes of an unfinished write that were cut off behind the end.
    pub cut_bytes: u64,
    /// File in the log folder that keeps the bytes cut off.
    pub cut_file: Option<String>,
    /// Bytes that were read to find the end.
    pub scanned_bytes: u64,
    /// Damage that was found; parts that needed no reading may hold more.
    pub damaged: Vec<DamagedRange>,
}

/// The one appender of a log.
pub struct Log {
    folder: Arc<dyn Folder>,
    options: LogOptions,
    shared: Arc<Shared>,
    current: Segment,
    /// Planned length of the current segment in bytes, its header included.
    capacity: u64,
    /// Position up to which its file has space on the disk.
    reserved: u64,
    /// Set while the current segment is sealed, and the file of the next one may exist: nothing may be written before that
    /// one is begun.
    is_between: bool,
    end: u64,
    /// The frame that ends there, if known.
    last: Option<LastFrame>,
    /// Durable end as far as this knows: a sync on another thread may have come further.
    synced: Watermark,
    /// Position up to which the current segment was written, if that is behind the end: with zeros.
    written: u64,
    checkpoint: Checkpoint,
    /// Outcome of a sync on another thread, and the durable end after it.
    elsewhere: Option<(Outcome, Watermark)>,
    failure: Option<String>,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log in `folder`, or creates one; cuts a torn tail off and makes the rest durable. Damage does not
    /// prevent that: the range is unreadable, and the log continues behind it.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when all segments are missing, [`LogError::Missing`] when the oldest ones are,
    /// [`LogError::Misplaced`] when they cannot belong together, are not those to which the log was written, or have
    /// lost every copy of their salt, [`LogError::Format`] when they are of a newer version, [`LogError::Unreadable`]
    /// when the device cannot read where the log may end, [`LogError::Io`].
    pub fn open(folder: Arc<dyn Folder>, options: LogOptions) -> Result<(Self, RecoveredLog), LogError> {
        begin::check(&*folder)?;
        let mut checkpoint = Checkpoint::open(&*folder).map_err(LogError::io(
            "opening the log's checkpoint (the broker starts without it, if it is moved away)",
        ))?;
        trim::finish(&*folder)?;
        let recovery::Ready { segments, recovered, last } =
            recovery::recover(&*folder, options, checkpoint.newest())?;
        begin::settle(&*folder, segments.first().expect("there is one at least").base)?;
        let current = segments.last().expect("there is one at least").clone();
        assert!(
            recovered.end >= current.base + HEADER_LEN,
            "the log ends behind the header of its newest segment"
        );
        let synced = Watermark { position: recovered.end, last };
        checkpoint.advance(synced, current.salt).map_err(LogError::io("writing the log's checkpoint"))?;
        let len = current.file.len().map_err(LogError::io(format!("measuring {}", current.name())))?;
        let mut log = Self {
            folder,
            options,
            shared: Arc::new(Shared::new(segments, recovered.end)),
            capacity: options.capacity(0).max(recovered.end - current.base),
            reserved: current.base + len,
            is_between: false,
            current,
            end: recovered.end,
            last,
            synced,
            written: recovered.end,
            checkpoint,
            elsewhere: None,
            failure: None,
            buffer: Vec::new(),
        };
        match log.reserve(log.end + log.options.reserve()) {
            // Space that was reserved earlier may suffice.
            Err(error) if !error.is_passing() => return Err(error),
            _ => {}
        }
        Ok((log, recovered))
    }

    /// A reader of this log.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// The salt of this log, for copies of it.
    pub fn salt(&self) -> FrameSalt {
        self.current.salt
    }

    /// End of the appended records.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Why the log refuses writes, if it does.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Appends records in order, with one write per segment touched, and returns the position and frame length of
    /// each. They are readable at once and durable after [`Self::sync`].
    ///
    /// # Errors
    /// [`LogError::TooLarge`] and [`LogError::NotNow`] change nothing; after any other error the log is read-only.
    pub fn append(
        &mut self,
        records: &[NewFrame],
        epoch: u32,
        store_ms: i64,
    ) -> Result<Vec<(u64, u32)>, LogError> {
        self.check_writable()?;
        if let Some(big) = records.iter().find(|new| frame::frame_len(new.body.len()) > frame::LEN_MAX) {
            return Err(LogError::TooLarge(big.body.len()));
        }
        let mut is_partial = false;
        let places = self.append_checked(records, epoch, store_ms, &mut is_partial);
        places.inspect_err(|error| if is_partial { self.fail(error) } else { self.fail_for_good(error) })
    }

    /// Ensures that `len` bytes of frames fit and leave the reserve untouched, which is for records that must not be refused
    /// when the disk is full. Cheap when nothing has to be reserved.
    ///
    /// # Errors
    /// [`LogError::NotNow`], which changes nothing; [`LogError::Io`].
    pub fn make_room(&mut self, len: u64) -> Result<(), LogError> {
        self.check_writable()?;
        if self.is_between {
            self.roll(len).inspect_err(|error| self.fail_for_good(error))?;
        }
        self.reserve(self.end + len + self.options.reserve())
    }

    /// Reserves space for the current segment up to the position `until` at least, in a large step if possible. Later writes there
    /// cannot fail for lack of space, if the file system keeps its word.
    fn reserve(&mut self, until: u64) -> Result<(), LogError> {
        if until <= self.reserved {
            return Ok(());
        }
        let base = self.current.base;
        let step = self.end.saturating_add(self.options.step_bytes).min(base + self.capacity).max(until);
        let file = &self.current.file;
        let allocate = |position: u64| {
            // Releases a partial reservation: others need the rest of the disk.
            let shrink = |_: &io::Error| drop(file.set_len(self.reserved - base));
            file.allocate(position - base).map(|()| position).inspect_err(shrink)
        };
        let reserved = match allocate(step) {
            Err(error) if is_full(&error) && until < step => allocate(until),
            reserved => reserved,
        };
        let action = format!("reserving room for {}", self.current.name());
        self.reserved = reserved.map_err(LogError::undone(action))?;
        assert!(self.reserved >= until, "reserved space reaches the requested position");
        Ok(())
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.await_elsewhere()?;
        self.write_zeros()?;
        self.sync_here()
    }

    fn sync_here(&mut self) -> Result<(), LogError> {
        if sabotage::is("checkpoint-before-sync") {
            let advanced = self.checkpoint.advance(self.watermark(), self.salt());
            advanced.map_err(LogError::io("writing the log's checkpoint"))?;
        }
        self.current.sync().inspect_err(|error| self.fail(error))?;
        assert!(self.shared.durable() <= self.end, "durable bytes were appended");
        self.shared.set_durable(self.end);
        self.synced = self.watermark();
        self.note_if_far()
    }

    /// Position and checksum of the last frame, if known: not when the newest segment has none, nor after a cut.
    pub fn last_frame(&self) -> Option<(u64, u32)> {
        let last = self.last.filter(|last| *last != LastFrame::HEADER)?;
        Some((self.end - u64::from(last.len), last.crc))
    }

    /// The durable position after the next sync.
    fn watermark(&self) -> Watermark {
        Watermark { position: self.end, last: self.last }
    }

    /// A task that makes everything appended so far durable, to be run on another thread. Meanwhile records can be
    /// appended to the log; everything else that needs a sync waits for the task. Waits for an earlier task.
    ///
    /// # Errors
    /// [`LogError::ReadOnly`]
    pub fn sync_elsewhere(&mut self) -> Result<SyncTask, LogError> {
        self.await_elsewhere()?;
        let (task, outcome) = SyncTask::new(self.current.clone(), self.end, self.shared.clone());
        self.elsewhere = Some((outcome, self.watermark()));
        Ok(task)
    }

    /// Whether a sync on another thread may be running.
    pub fn is_syncing(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Records how far the log is durable, so that a start after a crash has less to check. Cheap; for quiet moments.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn note_durable(&mut self) -> Result<(), LogError> {
        self.check_writable()?;
        if self.synced.position > self.checkpoint.durable() { self.advance_checkpoint() } else { Ok(()) }
    }

    /// Makes everything durable and records the end, so that the next start reads nothing again.
    ///
    /// # Errors
    /// [`LogError`] of the sync.
    pub fn close(mut self) -> Result<(), LogError> {
        self.await_elsewhere()?;
        self.sync_here()?;
        self.advance_checkpoint()?;
        self.checkpoint.sync().map_err(LogError::io("syncing the log's checkpoint"))
    }

    fn append_checked(
        &mut self,
        records: &[NewFrame],
        epoch: u32,
        store_ms: i64,
        is_partial: &mut bool,
    ) -> Result<Vec<(u64, u32)>, LogError> {
        let mut places = Vec::with_capacity(records.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut next = self.end;
        let mut last_len = 0;
        for new in records {
            let len = frame::frame_len(new.body.len()) as u64;
            let fits = next - self.current.base + len <= self.capacity;
            if !fits && (self.is_between || next > self.current.base + HEADER_LEN) {
                let is_some = !buffer.is_empty();
                self.write(&mut buffer, last_len)?;
                *is_partial |= is_some;
                match self.roll(len) {
                    // The next segment cannot be created, and the current one has space.
                    Err(error) if error.is_passing() && len <= self.room() => {}
                    rolled => rolled?,
                }
                next = self.end;
            } else if !fits {
                self.capacity = HEADER_LEN + len;
            }
            frame::encode(new, next, epoch, store_ms, self.salt(), &mut buffer);
            last_len = u32::try_from(len).expect("callers check LEN_MAX");
            places.push((next, last_len));
            next += len;
        }
        self.write(&mut buffer, last_len)?;
        assert_eq!(self.end, next, "the log ends where the last of its records does");
        assert_eq!(places.len(), records.len(), "every record has its place");
        self.buffer = buffer;
        Ok(places)
    }

    fn write(&mut self, buffer: &mut Vec<u8>, last_len: u32) -> Result<(), LogError> {
        self.write_copy(buffer, LastFrame::of(buffer, last_len))?;
        buffer.clear();
        Ok(())
    }

    /// Writes whole frames behind the end.
    pub(crate) fn write_copy(&mut self, frames: &[u8], last: Option<LastFrame>) -> Result<(), LogError> {
        if !frames.is_empty() {
            assert!(frames.len().is_multiple_of(frame::ALIGNMENT), "only whole frames are written");
            self.reserve(self.end + frames.len() as u64)?;
            let written = self.current.file.write_at(frames, self.end - self.current.base);
            written.map_err(LogError::io(format!("writing {}", self.current.name())))?;
            self.end += frames.len() as u64;
            self.last = last;
            self.shared.set_end(self.end);
        }
        Ok(())
    }

    /// Whether the current segment begins at `base` and is empty.
    pub(crate) fn is_at_begin_of(&self, base: u64) -> bool {
        self.current.base == base && self.end == base + HEADER_LEN
    }

    /// Lowers the checkpoint to at most `to`.
    pub(crate) fn lower_checkpoint(&mut self, to: u64) -> Result<(), LogError> {
        let noted = self.checkpoint.newest().watermark();
        let lower = if to < noted.position { Watermark { position: to, last: None } } else { noted };
        assert!(lower.position <= noted.position && lower.position <= self.end, "a checkpoint is lowered");
        // Both slots, so that no older one claims more.
        let lowered = (0..2).try_for_each(|_| self.checkpoint.advance(lower, self.current.salt));
        lowered
            .and_then(|()| self.checkpoint.sync())
            .map_err(LogError::io("writing the log's checkpoint"))
            .inspect_err(|error| self.fail(error))
    }

    /// Continues behind `end` in `segment`, which is durable up to there and empty behind it.
    pub(crate) fn go_on_at(&mut self, segment: Segment, end: u64) {
        assert!(segment.base + HEADER_LEN <= end && end <= self.end, "a log that is cut gets no longer");
        self.capacity = self.options.capacity(0).max(end - segment.base);
        self.reserved = end;
        self.is_between = false;
        self.current = segment;
        self.end = end;
        self.last = None;
        self.synced = self.watermark();
        self.written = end;
        self.shared.set_end(end);
        self.shared.set_durable(end);
    }

    /// Bytes of frames that fit into the current segment; more of them begin a new one.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.end - self.current.base)
    }

    /// Begins a new segment with space for at least `first_len` bytes, even if the current one is not full.
    ///
    /// # Errors
    /// [`LogError::NotNow`] when its file cannot be created: the current segment then grows beyond its planned length, as far as
    /// there is space, and takes at least `first_len` bytes. After [`LogError::Io`] the log is read-only.
    pub fn begin_segment(&mut self, first_len: u64) -> Result<(), LogError> {
        self.check_writable()?;
        self.roll(first_len).inspect_err(|error| self.fail_for_good(error))
    }

    /// Seals the current segment at its exact length and begins the next one.
    fn roll(&mut self, first_len: u64) -> Result<(), LogError> {
        self.await_elsewhere()?;
        self.seal()?;
        let (base, salt, room) = (self.end, self.salt(), self.options.new_segment(first_len));
        let is_there = self.is_between && self.has_file_of(base)?;
        let create = if is_there { Segment::recreate } else { Segment::create };
        // Until the new segment is begun, or durably removed.
        self.is_between = true;
        let segment = match create(&*self.folder, base, salt, room) {
            Err(error) if error.is_passing() => {
                self.go_on_in_sealed(first_len);
                return Err(error);
            }
            segment => segment?,
        };
        let len = segment.file.len().map_err(LogError::io(format!("measuring {}", segment.name())))?;
        self.is_between = false;
        self.capacity = self.options.capacity(first_len);
        self.reserved = base + len;
        assert_eq!(segment.base, self.end, "a segment begins where the one before it ends");
        assert!(self.reserved >= base + HEADER_LEN, "a segment holds its header");
        self.current = segment;
        self.shared.add(self.current.clone());
        self.end += HEADER_LEN;
        self.last = Some(LastFrame::HEADER);
        self.synced = self.watermark();
        self.written = self.end;
        self.shared.set_end(self.end);
        self.advance_checkpoint()?;
        // The checkpoint is durable as well, so that the loss of the new segment cannot pass for one that was never
        // begun.
        self.checkpoint
            .sync()
            .map_err(LogError::io("syncing the log's checkpoint"))
            .inspect_err(|error| self.fail(error))
    }

    fn seal(&mut self) -> Result<(), LogError> {
        let file = &self.current.file;
        let seal = || {
            file.set_len(self.end - self.current.base)?;
            if sabotage::is("skip-seal-sync") { Ok(()) } else { file.sync() }
        };
        seal().map_err(LogError::io(format!("sealing {}", self.current.name())))?;
        assert!(self.end >= self.current.base + HEADER_LEN, "no segment is sealed before its header");
        (self.reserved, self.written) = (self.end, self.end);
        self.shared.set_durable(self.end);
        self.synced = self.watermark();
        Ok(())
    }

    fn has_file_of(&self, base: u64) -> Result<bool, LogError> {
        let names = self.folder.list().map_err(LogError::undone("listing the log folder"))?;
        Ok(names.contains(&file_name(base)))
    }

    /// Continues in a segment that was sealed because the next one cannot be begun. The file name of the next one must be durably
    /// removed first: after a power cut both would hold the same positions.
    fn go_on_in_sealed(&mut self, first_len: u64) {
        let remove = || match self.folder.remove(&file_name(self.end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.folder.sync(),
        };
        self.is_between = remove().is_err();
        let len = self.end - self.current.base;
        if self.is_between {
            // Nothing fits: the next record tries again.
            self.capacity = len;
            return;
        }
        self.capacity = len + first_len + self.options.segment_bytes / TRIES_PER_SEGMENT;
        // The space that sealing released is most likely still free; otherwise the next append fails.
        let _ = self.reserve(self.end + first_len + self.options.reserve());
    }

    /// Writes zeros behind the end, if enough later syncs will profit from them.
    fn write_zeros(&mut self) -> Result<(), LogError> {
        let unsynced = self.end - self.shared.durable();
        if self.end < self.written || unsynced > ZEROS_LEN / SYNCS_PER_ZEROS {
            return Ok(());
        }
        let len = ZEROS_LEN.min(self.reserved.saturating_sub(self.end));
        let zeros = vec![0; usize::try_from(len).expect("small")];
        let written = self.current.file.write_at(&zeros, self.end - self.current.base);
        written
            .map_err(LogError::io(format!("writing {}", self.current.name())))
            .inspect_err(|error| self.fail(error))?;
        self.written = self.end + len;
        assert!(
            self.written <= self.reserved.max(self.end),
            "zeros are written where there is room for them"
        );
        Ok(())
    }

    /// Records how far the log is durable, if that is far from the last record.
    fn note_if_far(&mut self) -> Result<(), LogError> {
        let unnoted = self.synced.position.saturating_sub(self.checkpoint.durable());
        if unnoted >= self.options.checkpoint_bytes { self.advance_checkpoint() } else { Ok(()) }
    }

    fn advance_checkpoint(&mut self) -> Result<(), LogError> {
        assert!(self.synced.position <= self.end, "a checkpoint never claims more than there is");
        self.checkpoint
            .advance(self.synced, self.current.salt)
            .map_err(LogError::io("writing the log's checkpoint"))
            .inspect_err(|error| self.fail(error))
    }

    /// Processes a finished sync of another thread, if any.
    pub(crate) fn check_writable(&mut self) -> Result<(), LogError> {
        match self.elsewhere.as_ref().and_then(|(outcome, until)| Some((outcome.look()?, *until))) {
            Some((outcome, until)) => self.take_over(outcome, until),
            None => self.check_failure(),
        }
    }

    /// Waits for a sync on another thread.
    pub(crate) fn await_elsewhere(&mut self) -> Result<(), LogError> {
        match self.elsewhere.as_ref().map(|(outcome, until)| (outcome.wait(), *until)) {
            Some((outcome, until)) => self.take_over(outcome, until),
            None => self.check_failure(),
        }
    }

    fn take_over(&mut self, outcome: Result<(), String>, until: Watermark) -> Result<(), LogError> {
        self.elsewhere = None;
        match outcome {
            Ok(()) => {
                assert!(until.position <= self.end, "records synced elsewhere are still in the log");
                self.synced = until;
            }
            Err(reason) => drop(self.failure.get_or_insert(reason)),
        }
        self.check_failure()?;
        self.note_if_far()
    }

    /// Makes the log read-only; the first failure is kept.
    pub(crate) fn fail(&mut self, error: &LogError) {
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Makes the log read-only, unless the failed action can be retried.
    pub(crate) fn fail_for_good(&mut self, error: &LogError) {
        if !error.is_passing() {
            self.fail(error);
        }
    }

    fn check_failure(&self) -> Result<(), LogError> {
        match &self.failure {
            Some(_) if sabotage::is("go-on-after-failure") => Ok(()),
            Some(reason) => Err(LogError::ReadOnly(reason.clone())),
            None => Ok(()),
        }
    }
}
