//! The appending side of the log.

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::error::{DamagedRange, LogError};
use crate::frame::{self, NewFrame};
use crate::fs::Folder;
use crate::reader::Reader;
use crate::recovery;
use crate::sabotage;
use crate::salt::Salt;
use crate::segment::{HEADER_LEN, Segment, Shared};

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Size of a segment in bytes; a record that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// The checkpoint is written after this many bytes became durable.
    pub checkpoint_bytes: u64,
    /// Salt of the log if it is begun now; one that exists has its own.
    pub salt: Salt,
}

impl LogOptions {
    /// The usual sizes.
    pub const fn new(salt: Salt) -> Self {
        Self { segment_bytes: 1 << 30, checkpoint_bytes: 16 << 20, salt }
    }
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the log ends.
    pub end: u64,
    /// Bytes of an unfinished write that were cut off behind the end.
    pub cut_bytes: u64,
    /// File in the log folder that keeps what was cut off.
    pub cut_file: Option<String>,
    /// Bytes that were read to find the end.
    pub scanned_bytes: u64,
    /// Damage that was met; there may be more in what needed no reading.
    pub damaged: Vec<DamagedRange>,
}

/// The one appender of a log.
pub struct Log {
    folder: Arc<dyn Folder>,
    options: LogOptions,
    shared: Arc<Shared>,
    current: Segment,
    /// Capacity of the current segment in bytes.
    capacity: u64,
    end: u64,
    checkpoint: Checkpoint,
    failure: Option<String>,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log in `folder`, or begins one; cuts a torn tail off and makes the rest durable. Damage does not prevent
    /// it: that range cannot be read any more, and the log goes on behind it.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when all segments are missing, [`LogError::Format`] when they cannot belong together, are of a
    /// newer version, or have lost every copy of their salt, [`LogError::Unreadable`] when the device cannot read where the
    /// log may end, [`LogError::Io`].
    pub fn open(folder: Arc<dyn Folder>, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        let mut checkpoint = Checkpoint::open(&*folder).map_err(LogError::io(
            "opening the log's checkpoint (the broker starts without it, if it is moved away)",
        ))?;
        let recovery::Ready { segments, capacity, recovered } =
            recovery::recover(&*folder, options, checkpoint.newest())?;
        let current = segments.last().expect("there is one at least").clone();
        checkpoint
            .advance(recovered.end, current.salt)
            .map_err(LogError::io("writing the log's checkpoint"))?;
        let log = Self {
            folder,
            options,
            shared: Arc::new(Shared::new(segments, recovered.end)),
            current,
            capacity,
            end: recovered.end,
            checkpoint,
            failure: None,
            buffer: Vec::new(),
        };
        Ok((log, recovered))
    }

    /// A reader of this log.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// The salt of this log, for copies of it.
    pub fn salt(&self) -> Salt {
        self.current.salt
    }

    /// End of what was appended.
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
    /// After any error other than [`LogError::TooLarge`] (which changes nothing) the log is read-only.
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
        self.append_checked(records, epoch, store_ms)
            .inspect_err(|error| self.failure = Some(error.to_string()))
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_writable()?;
        if sabotage::is("checkpoint-before-sync") {
            let advanced = self.checkpoint.advance(self.end, self.salt());
            advanced.map_err(LogError::io("writing the log's checkpoint"))?;
        }
        let mut synced = if sabotage::is("skip-fsync") { Ok(()) } else { self.current.file.sync() };
        if sabotage::is("retry-failed-sync") {
            synced = synced.or_else(|_| self.current.file.sync());
        }
        synced
            .map_err(LogError::io(format!("fdatasync of {}", self.current.name())))
            .inspect_err(|error| self.failure = Some(error.to_string()))?;
        self.shared.set_durable(self.end);
        if self.end - self.checkpoint.durable() >= self.options.checkpoint_bytes {
            self.advance_checkpoint()?;
        }
        Ok(())
    }

    /// Notes how far the log is durable, so that a start after a crash has less to check. Cheap; for quiet moments.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn note_durable(&mut self) -> Result<(), LogError> {
        self.check_writable()?;
        if self.shared.durable() > self.checkpoint.durable() { self.advance_checkpoint() } else { Ok(()) }
    }

    /// Makes everything durable and notes the end, so that the next start reads nothing again.
    ///
    /// # Errors
    /// [`LogError`] of the sync.
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        self.advance_checkpoint()?;
        self.checkpoint.sync().map_err(LogError::io("syncing the log's checkpoint"))
    }

    fn append_checked(
        &mut self,
        records: &[NewFrame],
        epoch: u32,
        store_ms: i64,
    ) -> Result<Vec<(u64, u32)>, LogError> {
        let mut places = Vec::with_capacity(records.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut next = self.end;
        for new in records {
            let len = frame::frame_len(new.body.len()) as u64;
            let fits = next - self.current.base + len <= self.capacity;
            if !fits && next > self.current.base + HEADER_LEN {
                self.write(&mut buffer)?;
                self.roll(len)?;
                next = self.end;
            } else if !fits {
                self.capacity = HEADER_LEN + len;
            }
            frame::encode(new, next, epoch, store_ms, self.salt(), &mut buffer);
            places.push((next, u32::try_from(len).expect("callers check LEN_MAX")));
            next += len;
        }
        self.write(&mut buffer)?;
        self.buffer = buffer;
        Ok(places)
    }

    fn write(&mut self, buffer: &mut Vec<u8>) -> Result<(), LogError> {
        if !buffer.is_empty() {
            let written = self.current.file.write_at(buffer, self.end - self.current.base);
            written.map_err(LogError::io(format!("writing {}", self.current.name())))?;
            self.end += buffer.len() as u64;
            self.shared.set_end(self.end);
            buffer.clear();
        }
        Ok(())
    }

    /// Bytes of frames that fit into the current segment; what is longer begins a new one.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.end - self.current.base)
    }

    /// Begins a new segment with room for `first_len` bytes at least, whether or not the current one is full.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn begin_segment(&mut self, first_len: u64) -> Result<(), LogError> {
        self.check_writable()?;
        self.roll(first_len).inspect_err(|error| self.failure = Some(error.to_string()))
    }

    /// Seals the current segment at its exact length and begins the next one.
    fn roll(&mut self, first_len: u64) -> Result<(), LogError> {
        let file = &self.current.file;
        let seal = || {
            file.set_len(self.end - self.current.base)?;
            if sabotage::is("skip-seal-sync") { Ok(()) } else { file.sync() }
        };
        seal().map_err(LogError::io(format!("sealing {}", self.current.name())))?;
        self.shared.set_durable(self.end);
        self.capacity = self.options.segment_bytes.max(HEADER_LEN + first_len);
        self.current = Segment::create(&*self.folder, self.end, self.salt(), self.capacity)?;
        self.shared.add(self.current.clone());
        self.end += HEADER_LEN;
        self.shared.set_end(self.end);
        self.advance_checkpoint()
    }

    fn advance_checkpoint(&mut self) -> Result<(), LogError> {
        self.checkpoint
            .advance(self.shared.durable(), self.current.salt)
            .map_err(LogError::io("writing the log's checkpoint"))
            .inspect_err(|error| self.failure = Some(error.to_string()))
    }

    fn check_writable(&self) -> Result<(), LogError> {
        match &self.failure {
            Some(_) if sabotage::is("go-on-after-failure") => Ok(()),
            Some(reason) => Err(LogError::ReadOnly(reason.clone())),
            None => Ok(()),
        }
    }
}
