//! A store whose log is written only by its holder: a slave's, or one that has not begun to rule.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kerolox_core::record::Record;
use kerolox_log::fs::Folder;
use kerolox_log::{CopiedLog, Frame, Log, LogError, sabotage};
use kerolox_replication::handshake::RecordMark;

use crate::error::StoreError;
use crate::indexer::{FLUSH_KEYS, flush};
use crate::log_records::LogRecords;
use crate::opening::apply_from;
use crate::retention;
use crate::state::{ApplyOutcome, StateEvent, StateMachine};
use crate::store::{Shared, Store, encode};

/// Applied changes are flushed at least this often.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// Records that are applied under one lock, so that readers get their turn.
const RECORDS_PER_LOCK: usize = 64;

/// The newest record of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewestRecord {
    /// Epoch of the record; 0 without one.
    pub epoch: u32,
    /// Store time of the record, milliseconds since the Unix epoch.
    pub store_ms: i64,
}

impl NewestRecord {
    fn add(&mut self, epoch: u32, store_ms: i64) {
        self.epoch = self.epoch.max(epoch);
        self.store_ms = self.store_ms.max(store_ms);
    }
}

/// A log that no writer uses.
pub(crate) struct StandbyLogState {
    pub(crate) log: Log,
    /// The newest record, looked up on demand.
    pub(crate) newest: Option<NewestRecord>,
    /// Position of the first damage that opening found behind the durable end.
    pub(crate) torn: Option<u64>,
}

/// Exclusive use of a parked log.
pub struct StandbyLog<'a> {
    shared: &'a Shared,
    folder: &'a Arc<dyn Folder>,
    guard: MutexGuard<'a, Option<StandbyLogState>>,
}

impl Store {
    /// The log, as long as this store does not rule.
    pub fn standby_log(&self) -> Option<StandbyLog<'_>> {
        let guard = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        guard.is_some().then(|| StandbyLog { shared: &self.shared, folder: &self.folder, guard })
    }

    /// Applies the records of the log before `position`, as far as they are durable here; `seen` gets each record and its
    /// outcome. Only confirmed records may be applied: they cannot be undone except by discarding the index. For one thread,
    /// while the log is parked.
    ///
    /// # Errors
    /// [`StoreError`]; also for damage, behind which a parked log is not folded.
    pub fn fold_to(
        &self,
        position: u64,
        mut seen: impl FnMut(&Frame, ApplyOutcome),
    ) -> Result<(), StoreError> {
        let until = position.min(self.shared.reader.durable());
        if self.state().applied() >= until {
            return Ok(());
        }
        let trimmed = self.state().trimmed();
        fold_until(&self.shared, until, &mut seen)?;
        if self.state().trimmed() > trimmed {
            flush(&self.shared)?;
            retention::finish_trim(&self.shared, &*self.folder)?;
        }
        Ok(())
    }

    /// Writes the applied changes to the index's store.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn flush_parked(&self) -> Result<(), StoreError> {
        if self.state().pending_len() > 0 { flush(&self.shared) } else { Ok(()) }
    }
}

/// Applies the records of the log before a position; `seen` gets each record and its outcome.
pub(crate) fn fold_until(
    shared: &Shared,
    until: u64,
    seen: &mut impl FnMut(&Frame, ApplyOutcome),
) -> Result<(), StoreError> {
    Folding { shared, until, events: Vec::new(), began: Instant::now() }.run(seen)
}

struct Folding<'a> {
    shared: &'a Shared,
    until: u64,
    events: Vec<StateEvent>,
    began: Instant,
}

impl Folding<'_> {
    fn run(&mut self, seen: &mut impl FnMut(&Frame, ApplyOutcome)) -> Result<(), StoreError> {
        let mut scan = self.shared.reader.scan(apply_from(self.shared)?);
        let mut is_over = false;
        while !is_over {
            let mut frames = Vec::with_capacity(RECORDS_PER_LOCK);
            while frames.len() < RECORDS_PER_LOCK && !is_over {
                match scan.next().map(|frame| frame.map_err(|error| self.shared.damage.notice(error))) {
                    Some(frame) => {
                        let frame = frame?;
                        is_over = frame.end() > self.until;
                        if !is_over {
                            frames.push(frame);
                        }
                    }
                    None => is_over = true,
                }
            }
            self.apply(&frames, seen)?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        frames: &[Frame],
        seen: &mut impl FnMut(&Frame, ApplyOutcome),
    ) -> Result<(), StoreError> {
        self.shared.tail.extend(frames.iter().cloned());
        let pending = {
            let mut index = self.shared.write_state();
            for frame in frames {
                let outcome = index.apply(frame, &mut self.events)?;
                seen(frame, outcome);
            }
            index.pending_len()
        };
        self.events.clear();
        if pending >= FLUSH_KEYS || (pending > 0 && self.began.elapsed() >= FLUSH_INTERVAL) {
            flush(self.shared)?;
            self.began = Instant::now();
        }
        Ok(())
    }
}

impl StandbyLog<'_> {
    fn log(&mut self) -> &mut StandbyLogState {
        self.guard.as_mut().expect("checked when it was taken")
    }

    /// The newest record.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn newest(&mut self) -> Result<NewestRecord, StoreError> {
        if let Some(newest) = self.log().newest {
            return Ok(newest);
        }
        let newest = newest(self.shared)?;
        self.log().newest = Some(newest);
        Ok(newest)
    }

    /// The last record, as a leader recognises it; `None` without one in the newest segment, or when it is damaged. Reads that segment
    /// after a cut.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn last_record(&mut self) -> Result<Option<RecordMark>, LogError> {
        let reader = &self.shared.reader;
        if reader.frames_end() < reader.end() {
            return Ok(None);
        }
        match self.log().log.last_frame() {
            Some((position, checksum)) => Ok(Some(RecordMark { position, checksum })),
            None => LogRecords(&self.shared.reader).last_record(),
        }
    }

    fn add_newest(&mut self, epoch: u32, store_ms: i64) {
        if let Some(newest) = &mut self.log().newest {
            newest.add(epoch, store_ms);
        }
    }

    /// Salt of the log.
    pub fn salt(&mut self) -> u64 {
        self.log().log.salt().get()
    }

    /// End of the log's records.
    pub fn end(&self) -> u64 {
        self.shared.reader.frames_end()
    }

    /// End of the durable records. The header of an empty segment does not count: another member's log may have a record in
    /// its place.
    pub fn held(&self) -> u64 {
        if sabotage::is("empty-segment-counts") {
            return self.shared.reader.durable();
        }
        self.shared.reader.durable().min(self.end())
    }

    /// Bytes of records that fit into the newest segment.
    pub fn room(&mut self) -> u64 {
        self.log().log.room()
    }

    /// Appends records of an epoch; they are durable after [`Self::sync`]. Returns the position and length of each.
    ///
    /// # Errors
    /// [`StoreError::Log`]
    pub fn append(
        &mut self,
        records: &[Record],
        epoch: u32,
        now_ms: i64,
    ) -> Result<Vec<(u64, u32)>, StoreError> {
        let store_ms = now_ms.max(self.newest()?.store_ms);
        let places = self.log().log.append(&encode(records).0, epoch, store_ms)?;
        self.add_newest(epoch, store_ms);
        Ok(places)
    }

    /// Begins a segment with the current state, which has to be that of the end of the log.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn begin_segment(&mut self, epoch: u32, now_ms: i64) -> Result<(), StoreError> {
        let frames = crate::writer::snapshot_frames(self.shared.read_state().snapshot_bodies(false)?);
        let store_ms = now_ms.max(self.newest()?.store_ms);
        let parked = self.log();
        parked.log.begin_segment(crate::writer::frames_len(&frames))?;
        parked.log.append(&frames, epoch, store_ms)?;
        self.add_newest(epoch, store_ms);
        Ok(())
    }

    /// Appends records of another member's log; see [`Log::append_copy`].
    ///
    /// # Errors
    /// [`LogError`]
    pub fn append_copy(&mut self, position: u64, bytes: &Bytes) -> Result<CopiedLog, LogError> {
        if position < self.shared.reader.end() && position == self.end() {
            // This log has begun a segment where the other one continues in the old one.
            self.cut(position)?;
        }
        let copied = self.log().log.append_copy(position, bytes)?;
        self.add_newest(copied.epoch, copied.store_ms);
        Ok(copied)
    }

    /// Continues in a segment that begins here in the other member's log.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn begin_copied_segment(&mut self, base: u64) -> Result<(), LogError> {
        self.log().log.begin_copied_segment(base)
    }

    /// Makes the appended records durable; returns their end.
    ///
    /// # Errors
    /// [`LogError`]; the log is read-only from then on.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        if !sabotage::is("slave-acks-before-sync") {
            self.log().log.sync()?;
        }
        Ok(self.end())
    }

    /// Removes everything from `to` on. An index that is ahead of that is discarded, which never happens to confirmed
    /// records.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn truncate(&mut self, to: u64) -> Result<(), StoreError> {
        if self.shared.read_state().applied() > to {
            tracing::error!(to, "the log is cut before the end of the index; the index is rebuilt");
            *self.shared.write_state() = StateMachine::empty(self.shared.kv.clone())?;
        }
        self.cut(to)?;
        self.log().newest = None;
        Ok(())
    }

    /// Removes everything behind a record that a power cut tore, and returns that position. Opening the log keeps intact
    /// records behind damage, because a broker without slaves may have acknowledged them. A member of a group acknowledged only
    /// records that it had synced, and the damage lies behind the known durable end: its master has every record that counts.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn cut_torn(&mut self) -> Result<Option<u64>, StoreError> {
        let torn = self.log().torn.take();
        if let Some(at) = torn {
            tracing::warn!(
                at,
                "removing records that a power cut tore at the end of the log; they were not acknowledged"
            );
            self.truncate(at)?;
        }
        Ok(torn)
    }

    fn cut(&mut self, to: u64) -> Result<(), LogError> {
        let folder = self.folder.clone();
        self.shared.tail.truncate(to);
        self.log().log.truncate(&*folder, to)
    }
}

/// Reads the newest record: from the index, and the log beyond it.
pub(crate) fn newest(shared: &Shared) -> Result<NewestRecord, StoreError> {
    let (applied, mut newest) = {
        let index = shared.read_state();
        (index.applied(), NewestRecord { epoch: index.epoch(), store_ms: index.store_ms() })
    };
    let segments = shared.reader.segments();
    let last = segments.iter().rfind(|segment| segment.start < segment.end);
    // Without an index, the newest non-empty segment determines it.
    let from = if applied == 0 { last.map_or(0, |segment| segment.start) } else { applied };
    for frame in shared.reader.scan(from.max(shared.reader.start())) {
        match frame {
            Ok(frame) => newest.add(frame.epoch, frame.store_ms),
            Err(LogError::Damaged(range)) => shared.damage.note(&range),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(newest)
}
