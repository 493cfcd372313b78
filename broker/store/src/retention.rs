//! Removal of old segments and messages without losing records that are still needed.
//!
//! The order makes it safe at every moment: needed records are repeated at the end of the log and made durable; a trim record
//! informs the state machine; the index is made durable, so that it never has to be rebuilt from removed records; only then are
//! the files removed. A crash in between leaves work to repeat, but no loss.
//!
//! [`Store::trim`] removes whole segments, [`Store::expire`] the oldest messages of some queues: that removes no file,
//! but a segment whose messages have all expired can then be removed.
//!
//! # Retention
//!
//! Every segment begins with a snapshot of the state machine, so the log can be read from any segment on.
//! `core/src/retention.rs` decides the removals (age, size of the log, free space), `tasks/retention.rs` of the broker
//! checks regularly, `store/src/retention.rs` carries them out: needed records are repeated at the end of the log, a
//! trim record informs the state machine, the index is made durable, and only then are files removed, all or none
//! (`log/src/trim.rs`). A carried message keeps its offset, its transaction id and its times. A topic with its own
//! `retention.time` expires single messages: a trim record moves the first offsets of its queues, and a segment is
//! removed by age when no topic holds anything younger in it.

use std::sync::mpsc;

use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{CarriedOrigin, QueueState, Record, RecordKind, SnapshotRecord, TrimRecord};
use kerolox_log::fs::Folder;
use kerolox_log::{LogError, sabotage};

use crate::error::{ProposeError, StoreError};
use crate::state::{ApplyOutcome, ToCarry};
use crate::store::{AppliedRecord, Shared, Store};

/// A position at which the log can be cut: the beginning of a segment that holds the whole state.
#[derive(Debug, Clone, PartialEq)]
pub struct TrimPoint {
    /// Base of the segment; everything before it can be removed.
    pub before: u64,
    /// When the segment was begun, milliseconds since the Unix epoch: everything before it is older.
    pub since_ms: i64,
    /// The first remaining offsets of all queues that were written before it.
    pub queues: Vec<QueueState>,
}

/// The result of a trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimReport {
    /// Messages that were carried forward.
    pub carried: usize,
    /// Bytes of the removed segments.
    pub bytes: u64,
}

/// A trim failed; nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record behind the position repeats one before it; another position will do.
    #[error("the log cannot be cut at {0}: a message behind it repeats one before it")]
    Hangs(u64),
    /// The log does not accept the records.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Store {
    /// The positions at which the log can be cut, oldest first. Each is read from the log when it is requested.
    pub fn trim_points(&self) -> impl Iterator<Item = Result<TrimPoint, StoreError>> {
        let segments = self.shared.reader.segments().into_iter().skip(1);
        // A failed trim may have left some segments: they are removed by the next one.
        let segments = segments.filter(|segment| {
            let index = self.state();
            segment.base >= index.trimmed() && !index.dedup.hangs_on(segment.base).is_ok_and(|hangs| hangs)
        });
        segments.filter_map(|segment| trim_point(&self.shared, segment.base, segment.start).transpose())
    }

    /// Position of the beginning of the log.
    pub fn log_start(&self) -> u64 {
        self.shared.reader.segments().first().map_or(0, |segment| segment.base)
    }

    /// Size of the log in bytes.
    pub fn log_bytes(&self) -> u64 {
        let segments = self.shared.reader.segments();
        segments.iter().map(|segment| segment.end - segment.base).sum()
    }

    /// Removes everything before `point`, except records that are still needed. Blocks for as long as that takes; one at
    /// a time.
    ///
    /// # Errors
    /// [`TrimError`]; a retry is safe.
    pub fn trim(&self, point: &TrimPoint) -> Result<TrimReport, TrimError> {
        assert!(point.before <= self.shared.reader.durable(), "only durable records are removed");
        let needed = self.state().to_carry(point.before)?;
        let carried = self.carry(&needed)?;
        let record = Record::Trim(TrimRecord { before: point.before, queues: point.queues.clone() });
        if self.propose_and_wait(&record, FlushRequirement::Sync)?.outcome == ApplyOutcome::Hangs {
            return Err(TrimError::Hangs(point.before));
        }
        if !sabotage::is("trim-before-persist") {
            self.flush_index()?;
        }
        let bytes =
            self.shared.reader.remove_before(&*self.folder, point.before).map_err(StoreError::from)?;
        assert!(self.log_start() <= point.before, "everything from the trim point on stays");
        Ok(TrimReport { carried, bytes })
    }

    /// Expires the messages of some queues before the offsets that `queues` name as `next`, except failed messages that
    /// wait for their next attempt: these are repeated at the end of the log, and their number is returned. Blocks until
    /// that is durable; one at a time.
    ///
    /// # Errors
    /// [`TrimError`]; a retry is safe.
    pub fn expire(&self, queues: Vec<QueueState>) -> Result<usize, TrimError> {
        let needed = self.state().to_carry_below(&queues)?;
        let carried = self.carry(&needed)?;
        let before = self.state().trimmed();
        self.propose_and_wait(&Record::Trim(TrimRecord { before, queues }), FlushRequirement::Sync)?;
        Ok(carried)
    }

    /// Repeats records at the end of the log, and returns their number. They are durable then: a trim must not be in a log
    /// that lost them.
    fn carry(&self, needed: &[ToCarry]) -> Result<usize, TrimError> {
        if sabotage::is("no-carry-forward") {
            return Ok(0);
        }
        let mut carried = 0;
        let mut last = None;
        for carry in needed {
            match self.repeated(carry) {
                Ok(record) => {
                    carried += 1;
                    if let Some(earlier) = last.replace(record) {
                        self.propose_and_wait(&earlier, FlushRequirement::Async)?;
                    }
                }
                // An unreadable message is lost with or without its segment; keeping that would stop retention for
                // good.
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "a message that is still needed cannot be read, and is removed with the others");
                }
                Err(error) => return Err(error.into()),
            }
        }
        // One sync for all of them.
        if let Some(last) = last {
            self.propose_and_wait(&last, FlushRequirement::Sync)?;
        }
        Ok(carried)
    }

    /// The record that repeats another one.
    fn repeated(&self, carry: &ToCarry) -> Result<Record, StoreError> {
        let (frame, mut message) = self.read_message(carry.location, carry.len)?;
        message.header.carried = Some(CarriedOrigin { store_ms: frame.store_ms, ..carry.carried });
        (message.header.topic_id, message.header.queue) = (carry.topic_id, carry.queue);
        Ok(Record::Message(message))
    }

    fn propose_and_wait(
        &self,
        record: &Record,
        flush: FlushRequirement,
    ) -> Result<AppliedRecord, ProposeError> {
        let (sender, answer) = mpsc::channel();
        // The receiver waits below, so sending cannot fail.
        self.propose(record, flush, Box::new(move |applied| drop(sender.send(applied))));
        answer.recv().unwrap_or(Err(ProposeError::Closed))
    }
}

/// Position at which a replay from nothing begins: the beginning of the log, or, if it has been trimmed, the first segment that
/// begins with a whole snapshot, or would if that were not damaged. A crash can leave a segment without one before that: the
/// needed records of that segment were carried forward.
pub(crate) fn apply_start(shared: &Shared) -> Result<u64, StoreError> {
    let segments = shared.reader.segments();
    if segments.first().is_some_and(|first| first.base > 0) {
        for segment in &segments {
            let is_whole = trim_point(shared, segment.base, segment.start)?.is_some();
            if is_whole || begins_with_damage(shared, segment.start)? {
                return Ok(segment.start);
            }
        }
    }
    Ok(shared.reader.start())
}

/// Whether a segment would begin with a whole snapshot, if part of that were not damaged.
fn begins_with_damage(shared: &Shared, start: u64) -> Result<bool, StoreError> {
    for frame in shared.reader.scan(start) {
        match frame {
            Ok(frame) if frame.kind == RecordKind::Snapshot as u8 => {}
            Ok(_) => return Ok(false),
            Err(LogError::Damaged(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// The trim point at a segment, if the segment begins with a whole snapshot: a crash may have come in between.
pub(crate) fn trim_point(shared: &Shared, before: u64, start: u64) -> Result<Option<TrimPoint>, StoreError> {
    let mut point: Option<TrimPoint> = None;
    for frame in shared.reader.scan(start) {
        let frame = match frame.map_err(|error| shared.damage.notice(error)) {
            Ok(frame) => frame,
            // Part of the snapshot may be lost; other segments will do.
            Err(LogError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if frame.kind != RecordKind::Snapshot as u8 {
            return Ok(None);
        }
        let malformed = |source| StoreError::Record { position: frame.position, source };
        let record = Record::decode(frame.kind, frame.body.clone()).map_err(malformed)?;
        let Record::Snapshot(part) = record else { return Ok(None) };
        let SnapshotRecord { queues, last, .. } = *part;
        let point =
            point.get_or_insert_with(|| TrimPoint { before, since_ms: frame.store_ms, queues: Vec::new() });
        point.queues.extend(queues);
        if last {
            return Ok(Some(point.clone()));
        }
    }
    Ok(None)
}

/// Removes the segments of a trim that a crash interrupted. Later trims drop the entries for them.
pub(crate) fn finish_trim(shared: &Shared, folder: &dyn Folder) -> Result<(), StoreError> {
    let trimmed = shared.read_state().trimmed();
    if shared.reader.segments().first().is_some_and(|first| first.end <= trimmed) {
        shared.kv.persist()?;
        shared.reader.remove_before(folder, trimmed)?;
    }
    Ok(())
}
