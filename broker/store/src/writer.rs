//! The writer thread: proposals in, durable batches out.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::RecordKind;
use kerolox_core::replicas::{AckDurability, ReplicaRequirement};
use kerolox_log::{Frame, Log, LogError, NewFrame, SyncTask, sabotage};

use crate::error::ProposeError;
use crate::indexer::Applier;
use crate::store::{BatchCompletion, Shared};

/// Maximum number of records in one batch; enough to make the cost of a sync small for each.
const BATCH_RECORDS_MAX: usize = 8192;
/// Maximum number of bytes in one batch: keeps the wait of the first record short on slow disks.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Maximum number of records that the writer applies itself; larger batches are applied while it stores the next ones.
const APPLY_RECORDS_MAX: usize = 1024;

/// Size of a snapshot that leaves enough space in any segment: brokers have none below a mebibyte.
const SMALL_SNAPSHOT: u64 = 64 << 10;

/// A snapshot that takes longer is logged.
const SLOW_SNAPSHOT: Duration = Duration::from_millis(500);

/// After this long without a record, the writer records how far the log is durable.
const QUIET: Duration = Duration::from_secs(1);

/// Records proposed for the log.
pub(crate) struct Proposal {
    pub(crate) records: Vec<NewFrame>,
    /// Bytes of the record bodies.
    pub(crate) bytes: usize,
    pub(crate) durability: AckDurability,
    /// Set when new messages are among them, which are refused when the disk is full; all other records use the log's reserve.
    pub(crate) is_refusable: bool,
    pub(crate) done: BatchCompletion,
}

/// The preparation of a batch before it is stored.
struct Prepared {
    /// The first records of a segment that was begun for the batch.
    snapshot: Vec<NewFrame>,
    /// Whether there is space for messages.
    takes_messages: bool,
}

/// Why no segment was begun.
enum NoSegment {
    /// The log continues in the old one, and tries again.
    Later(LogError),
    Never(ProposeError),
}

/// Records that are stored here.
pub(crate) struct Batch {
    pub(crate) frames: Vec<Frame>,
    /// Members that must have them before they are applied.
    pub(crate) replicas: ReplicaRequirement,
    /// Completions in order, each with its number of records.
    pub(crate) waiting: Vec<(usize, BatchCompletion)>,
}

impl Batch {
    /// Position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.frames.last().map_or(0, Frame::end)
    }
}

/// Requests of the writer to the indexer, in order.
pub(crate) enum Work {
    /// Apply the log before a position, as soon as it is confirmed, and notify.
    Settle(u64, Sender<()>),
    /// Apply records.
    Apply(Batch),
    /// Return the state after all earlier requests.
    Snapshot(Sender<Vec<Bytes>>),
    /// Write the changes of the index to its store.
    Flush(Sender<()>),
    /// Check for work: a record was applied, or confirmed.
    Look,
}

/// State of the writer beside the log.
pub(crate) struct Writer {
    pub(crate) log: Log,
    pub(crate) epoch: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) proposals: Receiver<Proposal>,
    pub(crate) work: Sender<Work>,
    pub(crate) applier: Arc<Mutex<Applier>>,
    /// Number of batches handed to the indexer.
    pub(crate) handed: u64,
    /// Channel to the syncer thread, for records that no client waits for.
    pub(crate) syncs: Sender<SyncTask>,
    pub(crate) last_ms: i64,
    /// Maximum time that a record which requires no sync stays without one.
    pub(crate) flush_interval: Duration,
    /// Time of the first record without a sync.
    pub(crate) unsynced_since: Option<Instant>,
    /// Whether a sync may be missing in the checkpoint.
    pub(crate) unnoted: bool,
    /// Whether the lack of space or files was logged.
    pub(crate) is_told: bool,
}

impl Writer {
    /// Runs until every sender of proposals is gone; returns the log with everything durable, if it did not fail.
    pub(crate) fn run(mut self) -> Option<Log> {
        loop {
            match self.next() {
                Ok(first) => {
                    let batch = self.collect(first);
                    self.commit(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.on_quiet(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The indexer ends when `work` is dropped, and flushes the durable records then: all of them, once the log is
        // synced.
        let Self { mut log, shared, work, .. } = self;
        let synced = if log.failure().is_none() { log.sync() } else { return None };
        if let Err(error) = &synced {
            tracing::error!(%error, "the log could not be synced; it will be checked at the next start");
            shared.fail(&error.to_string());
        }
        drop(work);
        synced.is_ok().then_some(log)
    }

    /// Waits for a proposal, as long as there is no other work.
    fn next(&self) -> Result<Proposal, RecvTimeoutError> {
        match self.unsynced_since {
            Some(since) => self.proposals.recv_timeout(self.flush_interval.saturating_sub(since.elapsed())),
            None if self.unnoted => self.proposals.recv_timeout(QUIET),
            None => self.proposals.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn on_quiet(&mut self) {
        let done = if self.unsynced_since.is_some() { self.sync_elsewhere() } else { self.note_durable() };
        if let Err(error) = done {
            self.fail(&error);
        }
    }

    fn sync(&mut self) -> Result<(), LogError> {
        // Whatever the result, there is no second try.
        self.unsynced_since = None;
        self.unnoted = true;
        self.log.sync()
    }

    /// Lets the syncer make the appended records durable, after its previous task.
    fn sync_elsewhere(&mut self) -> Result<(), LogError> {
        self.unsynced_since = None;
        self.unnoted = true;
        let task = self.log.sync_elsewhere()?;
        // If the syncer is gone, so is the task, and the log counts that as a failure.
        let _ = self.syncs.send(task);
        Ok(())
    }

    fn note_durable(&mut self) -> Result<(), LogError> {
        self.unnoted = self.log.is_syncing();
        self.log.note_durable()
    }

    fn fail(&mut self, error: &LogError) {
        // Quiet moments have no work any more: it would fail as well, with the same message.
        self.unsynced_since = None;
        self.unnoted = false;
        log_failed(&self.shared, error);
    }

    fn collect(&self, first: Proposal) -> Vec<Proposal> {
        let mut records = first.records.len();
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while records < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(next) = self.proposals.try_recv()
        {
            records += next.records.len();
            bytes += next.bytes;
            batch.push(next);
        }
        batch
    }

    /// Appends a batch, syncs it if a record requires that or the time has come, and applies it or hands it on. A
    /// failure answers all its proposers and is permanent, unless it is a lack of space or files.
    fn commit(&mut self, batch: Vec<Proposal>) {
        let (snapshot, batch) = match self.prepare(&batch) {
            Ok(Prepared { snapshot, takes_messages: true }) => (snapshot, batch),
            Ok(Prepared { snapshot, takes_messages: false }) => (snapshot, self.refuse_messages(batch)),
            Err(reason) => return self.refuse(batch, &reason),
        };
        let bytes = batch.iter().map(|proposal| proposal.bytes).sum();
        let wants_sync = batch.iter().any(|proposal| proposal.durability.flush == FlushRequirement::Sync);
        let replicas = batch.iter().map(|proposal| proposal.durability.replicas).max().unwrap_or_default();
        let mut records = Vec::with_capacity(batch.iter().map(|proposal| proposal.records.len()).sum());
        let mut waiting: Vec<(usize, BatchCompletion)> = Vec::with_capacity(batch.len() + 1);
        if !snapshot.is_empty() {
            waiting.push((snapshot.len(), Box::new(drop)));
            records.extend(snapshot);
        }
        for proposal in batch {
            waiting.push((proposal.records.len(), proposal.done));
            records.extend(proposal.records);
        }
        if records.is_empty() {
            return;
        }
        let stored = self.append(records, wants_sync);
        self.shared.release_bytes(bytes);
        match stored {
            Ok(frames) => {
                let answered: usize = waiting.iter().map(|(count, _)| count).sum();
                assert_eq!(answered, frames.len(), "every record has a proposer");
                let batch = Batch { frames, replicas, waiting };
                let is_quiet = batch.frames.len() <= APPLY_RECORDS_MAX && self.shared.waiting_bytes() == 0;
                if is_quiet && self.shared.gate.lets_through(replicas, batch.end()) {
                    self.apply(batch);
                } else {
                    self.hand_over(batch);
                }
            }
            Err(reason) => fail(waiting, &reason),
        }
    }

    fn refuse(&self, batch: Vec<Proposal>, reason: &ProposeError) {
        for proposal in batch {
            self.shared.release_bytes(proposal.bytes);
            (proposal.done)(Err(reason.clone()));
        }
    }

    /// Refuses the messages of a batch for lack of space; returns the rest of the batch.
    fn refuse_messages(&self, batch: Vec<Proposal>) -> Vec<Proposal> {
        let (messages, others) = batch.into_iter().partition(|proposal| proposal.is_refusable);
        self.refuse(messages, &ProposeError::NoRoom);
        others
    }

    /// Makes space for a batch: begins a segment if it needs one, and keeps the log's reserve for records other than
    /// messages.
    fn prepare(&mut self, batch: &[Proposal]) -> Result<Prepared, ProposeError> {
        if self.shared.gate.is_shut() {
            return Err(ProposeError::NotMaster);
        }
        if let Some(reason) = self.shared.failure() {
            return Err(ProposeError::ReadOnly(reason));
        }
        let needed = batch.iter().map(|proposal| frames_len(&proposal.records)).sum();
        let mut snapshot = Vec::new();
        if needed > self.log.room() {
            match self.begin_segment(needed) {
                Ok(frames) => snapshot = frames,
                Err(NoSegment::Later(error)) => self.tell_once(&error),
                Err(NoSegment::Never(reason)) => return Err(reason),
            }
        }
        if !batch.iter().any(|proposal| proposal.is_refusable) {
            return Ok(Prepared { snapshot, takes_messages: true });
        }
        match self.log.make_room(frames_len(&snapshot) + needed) {
            Ok(()) => self.is_told = false,
            Err(error) if error.is_full() => {
                self.tell_once(&error);
                return Ok(Prepared { snapshot, takes_messages: false });
            }
            Err(error) => return Err(self.refusal(&error)),
        }
        Ok(Prepared { snapshot, takes_messages: true })
    }

    /// Logs a lack of space or files once, until it is over.
    fn tell_once(&mut self, error: &LogError) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(%error, "the log cannot grow; records that do not fit are refused until it can");
        }
    }

    /// Maps a failure of the log to the answer for proposers.
    fn refusal(&mut self, error: &LogError) -> ProposeError {
        if error.is_full() {
            ProposeError::NoRoom
        } else if error.is_passing() {
            self.tell_once(error);
            ProposeError::NotNow(error.to_string())
        } else {
            self.fail(error);
            ProposeError::ReadOnly(error.to_string())
        }
    }

    /// Applies a batch here, which saves a change of threads, or hands it to an indexer that is behind or flushing.
    fn apply(&mut self, batch: Batch) {
        let Ok(mut applier) = self.applier.try_lock() else { return self.hand_over(batch) };
        if !applier.has_taken(self.handed) {
            drop(applier);
            return self.hand_over(batch);
        }
        let wake = applier.apply(batch);
        drop(applier);
        if wake {
            // An indexer that is gone failed and logged it.
            let _ = self.work.send(Work::Look);
        }
    }

    fn hand_over(&mut self, batch: Batch) {
        self.handed += 1;
        if let Err(SendError(Work::Apply(lost))) = self.work.send(Work::Apply(batch)) {
            fail(lost.waiting, &self.why_stopped());
        }
    }

    /// Stores prepared records.
    fn append(&mut self, records: Vec<NewFrame>, wants_sync: bool) -> Result<Vec<Frame>, ProposeError> {
        assert!(!records.is_empty(), "a batch holds records");
        // Store times never run backwards, so that look-ups by time can use a binary search.
        let store_ms = self.shared.now_ms().max(self.last_ms);
        self.last_ms = store_ms;
        let places = self.store(&records, store_ms, wants_sync).map_err(|error| self.refusal(&error))?;
        assert_eq!(places.len(), records.len(), "every record has its place");
        let frame = |(record, (position, len)): (NewFrame, (u64, u32))| Frame {
            position,
            len,
            kind: record.kind,
            epoch: self.epoch,
            store_ms,
            body: record.body,
        };
        Ok(records.into_iter().zip(places).map(frame).collect())
    }

    /// Begins a segment with space for `needed` bytes, and returns its first records: the state, so that the log can do
    /// without earlier segments.
    fn begin_segment(&mut self, needed: u64) -> Result<Vec<NewFrame>, NoSegment> {
        let began = Instant::now();
        let (answer, snapshot) = mpsc::channel();
        let asked = self.work.send(Work::Snapshot(answer));
        let parts = asked.ok().and_then(|()| snapshot.recv().ok());
        let parts = parts.ok_or_else(|| NoSegment::Never(self.why_stopped()))?;
        let frames = if sabotage::is("no-snapshot") { Vec::new() } else { snapshot_frames(parts) };
        let snapshot = frames_len(&frames);
        let made = began.elapsed();
        if made > SLOW_SNAPSHOT {
            tracing::info!(bytes = snapshot, ?made, "snapshot at segment start blocked writes");
        }
        // However large the state, at most half of the log repeats it.
        let room = if snapshot > SMALL_SNAPSHOT { needed.max(snapshot) } else { needed };
        match self.log.begin_segment(snapshot + room) {
            Ok(()) => Ok(frames),
            Err(error) if error.is_passing() => Err(NoSegment::Later(error)),
            Err(error) => Err(NoSegment::Never(self.refusal(&error))),
        }
    }

    fn why_stopped(&self) -> ProposeError {
        if self.shared.gate.is_shut() {
            return ProposeError::NotMaster;
        }
        ProposeError::ReadOnly(self.shared.failure().unwrap_or_else(|| "the indexer stopped".to_owned()))
    }
}

/// The syncer thread: syncs the records that no client waits for, so that the writer can continue. Runs until the
/// writer is gone.
pub(crate) fn run_syncer(syncs: &Receiver<SyncTask>, shared: &Shared) {
    for task in syncs {
        if let Err(error) = task.run() {
            log_failed(shared, &error);
        }
    }
}

fn log_failed(shared: &Shared, error: &LogError) {
    // A failure that another thread met and logged first.
    if !matches!(error, LogError::ReadOnly(_)) {
        tracing::error!(%error, "the log failed and is read-only until the broker is restarted");
    }
    shared.fail(&error.to_string());
}

/// The records of a snapshot.
pub(crate) fn snapshot_frames(bodies: Vec<Bytes>) -> Vec<NewFrame> {
    bodies.into_iter().map(|body| NewFrame { kind: RecordKind::Snapshot as u8, body }).collect()
}

/// Size of records in the log, in bytes.
pub(crate) fn frames_len(records: &[NewFrame]) -> u64 {
    records.iter().map(|record| kerolox_log::frame::frame_len(record.body.len()) as u64).sum()
}

impl Writer {
    fn store(
        &mut self,
        records: &[NewFrame],
        store_ms: i64,
        wants_sync: bool,
    ) -> Result<Vec<(u64, u32)>, LogError> {
        let places = self.log.append(records, self.epoch, store_ms)?;
        let since = *self.unsynced_since.get_or_insert_with(Instant::now);
        if sabotage::is("ack-before-sync") {
            return Ok(places);
        }
        if wants_sync {
            self.sync()?;
        } else if since.elapsed() >= self.flush_interval {
            self.sync_elsewhere()?;
        }
        Ok(places)
    }
}

/// Answers all proposers that their records were not stored, or that the outcome is unknown.
pub(crate) fn fail(waiting: Vec<(usize, BatchCompletion)>, reason: &ProposeError) {
    for (_, done) in waiting {
        done(Err(reason.clone()));
    }
}
