//! The writer thread: proposals in, durable batches out.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kerolox_core::flush::Flush;
use kerolox_core::record::{Record, SnapshotRecord};
use kerolox_log::{Frame, Log, LogError, NewFrame, sabotage};

use crate::error::ProposeError;
use crate::store::{Completion, Shared};

/// Most records of one batch; enough to make the cost of a sync small for each.
const BATCH_RECORDS_MAX: usize = 8192;
/// Most bytes of one batch: keeps the wait of the first record short on slow disks.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// After this long without a record, the writer notes how far the log is durable.
const QUIET: Duration = Duration::from_secs(1);

/// A record that somebody wants to be in the log.
pub(crate) struct Proposal {
    pub(crate) record: NewFrame,
    pub(crate) flush: Flush,
    pub(crate) done: Completion,
}

/// Records that count as stored now, with whoever waits for them.
pub(crate) struct Batch {
    pub(crate) records: Vec<(Frame, Completion)>,
}

/// What the writer asks of the indexer, in order.
pub(crate) enum Work {
    /// Apply records.
    Apply(Batch),
    /// Give the state after everything asked for before.
    Snapshot(Sender<Vec<SnapshotRecord>>),
    /// Write what changed in the index to its store.
    Flush(Sender<()>),
}

/// What the writer needs beside the log.
pub(crate) struct Writer {
    pub(crate) log: Log,
    pub(crate) epoch: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) proposals: Receiver<Proposal>,
    pub(crate) work: Sender<Work>,
    pub(crate) last_ms: i64,
    /// Longest time that a record which waits for no sync stays without one.
    pub(crate) flush_interval: Duration,
    /// Since when there are records without a sync.
    pub(crate) unsynced_since: Option<Instant>,
    /// Whether something was synced that the checkpoint may not know.
    pub(crate) unnoted: bool,
}

impl Writer {
    /// Runs until every sender of proposals is gone, then closes the log.
    pub(crate) fn run(mut self) {
        loop {
            match self.next() {
                Ok(first) => {
                    let batch = self.collect(first);
                    let bytes: usize = batch.iter().map(|proposal| proposal.record.body.len()).sum();
                    self.commit(batch);
                    self.shared.release_bytes(bytes);
                }
                Err(RecvTimeoutError::Timeout) => self.on_quiet(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The indexer ends when `work` is gone, and flushes what is durable then: everything, once the log is closed.
        let Self { log, shared, work, .. } = self;
        if log.failure().is_none()
            && let Err(error) = log.close()
        {
            tracing::error!(%error, "the log could not be closed cleanly; it will be checked at the next start");
            shared.fail(&error.to_string());
        }
        drop(work);
    }

    /// Waits for a proposal, as long as nothing else is to be done.
    fn next(&self) -> Result<Proposal, RecvTimeoutError> {
        match self.unsynced_since {
            Some(since) => self.proposals.recv_timeout(self.flush_interval.saturating_sub(since.elapsed())),
            None if self.unnoted => self.proposals.recv_timeout(QUIET),
            None => self.proposals.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn on_quiet(&mut self) {
        let done = if self.unsynced_since.is_some() { self.sync() } else { self.note_durable() };
        if let Err(error) = done {
            self.fail(&error);
        }
    }

    fn sync(&mut self) -> Result<(), LogError> {
        // Whatever comes of it, there is no second try.
        self.unsynced_since = None;
        self.unnoted = true;
        self.log.sync()
    }

    fn note_durable(&mut self) -> Result<(), LogError> {
        self.unnoted = false;
        self.log.note_durable()
    }

    fn fail(&self, error: &LogError) {
        tracing::error!(%error, "the log failed and is read-only until the broker is restarted");
        self.shared.fail(&error.to_string());
    }

    fn collect(&self, first: Proposal) -> Vec<Proposal> {
        let mut bytes = first.record.body.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(next) = self.proposals.try_recv()
        {
            bytes += next.record.body.len();
            batch.push(next);
        }
        batch
    }

    /// Appends a batch, syncs it if anything in it asks for that or the time has come, and hands it on. A failure answers everybody in it and stays.
    fn commit(&mut self, mut batch: Vec<Proposal>) {
        if let Some(reason) = self.shared.failure() {
            return fail(batch.into_iter().map(|proposal| proposal.done), &reason);
        }
        let needed: u64 = batch.iter().map(|proposal| frame_len(&proposal.record)).sum();
        if needed > self.log.room() {
            match self.begin_segment(needed) {
                Ok(snapshot) => drop(batch.splice(..0, snapshot)),
                Err(reason) => return fail(batch.into_iter().map(|proposal| proposal.done), &reason),
            }
        }
        // Store times never run backwards, so that "by time" look-ups can search by halving.
        let store_ms = self.shared.now_ms().max(self.last_ms);
        self.last_ms = store_ms;
        let wants_sync = batch.iter().any(|proposal| proposal.flush == Flush::Sync);
        let (records, waiting): (Vec<NewFrame>, Vec<Completion>) =
            batch.into_iter().map(|proposal| (proposal.record, proposal.done)).unzip();
        let places = match self.store(&records, store_ms, wants_sync) {
            Ok(places) => places,
            Err(error) => {
                self.fail(&error);
                return fail(waiting, &error.to_string());
            }
        };
        let records =
            records.into_iter().zip(places).zip(waiting).map(|((record, (position, len)), done)| {
                let frame = Frame {
                    position,
                    len,
                    kind: record.kind,
                    epoch: self.epoch,
                    store_ms,
                    body: Bytes::from(record.body),
                };
                (frame, done)
            });
        let batch = Batch { records: records.collect() };
        if let Err(SendError(Work::Apply(lost))) = self.work.send(Work::Apply(batch)) {
            fail(lost.records.into_iter().map(|(_, done)| done), &self.why_stopped());
        }
    }

    /// Begins a segment with room for `needed` bytes, and returns the records that it has to begin with: the state of the
    /// fold, so that the log can do without the segments before it.
    fn begin_segment(&mut self, needed: u64) -> Result<Vec<Proposal>, String> {
        let (answer, snapshot) = mpsc::channel();
        let asked = self.work.send(Work::Snapshot(answer));
        let parts = asked.ok().and_then(|()| snapshot.recv().ok()).ok_or_else(|| self.why_stopped())?;
        let proposals: Vec<Proposal> = parts
            .into_iter()
            .filter(|_| !sabotage::is("no-snapshot"))
            .map(|part| {
                let record = Record::Snapshot(Box::new(part));
                let record = NewFrame { kind: record.kind() as u8, body: record.encode() };
                Proposal { record, flush: Flush::Async, done: Box::new(drop) }
            })
            .collect();
        let snapshot_len: u64 = proposals.iter().map(|proposal| frame_len(&proposal.record)).sum();
        self.log.begin_segment(snapshot_len + needed).map_err(|error| {
            self.fail(&error);
            error.to_string()
        })?;
        Ok(proposals)
    }

    fn why_stopped(&self) -> String {
        self.shared.failure().unwrap_or_else(|| "the indexer stopped".to_owned())
    }
}

fn frame_len(record: &NewFrame) -> u64 {
    kerolox_log::frame::frame_len(record.body.len()) as u64
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
        if wants_sync || since.elapsed() >= self.flush_interval {
            self.sync()?;
        }
        Ok(places)
    }
}

fn fail(waiting: impl IntoIterator<Item = Completion>, reason: &str) {
    for done in waiting {
        done(Err(ProposeError::ReadOnly(reason.to_owned())));
    }
}
