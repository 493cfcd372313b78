//! Applying durable batches and answering who waits; the indexer thread, which does that while the writer is busy, and
//! flushes the index from time to time.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kerolox_log::{Frame, sabotage};

use crate::error::{ProposeError, StoreError};
use crate::index::{Event, Index};
use crate::store::{Applied, BatchCompletion, Shared};
use crate::writer::{Batch, Work};

/// The index is flushed at least this often while something changes; what is not flushed is folded again after a crash.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// The index is flushed at the latest when this many keys changed, which bounds its memory.
pub(crate) const FLUSH_KEYS: usize = 50_000;

/// Changes the index. Whoever holds its lock is the only one who does: the indexer, or the writer when the indexer has
/// nothing to do.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    listener: Box<dyn Fn(&Event) + Send>,
    /// Batches that the indexer was handed and has applied.
    taken: u64,
    /// Since when something is applied that is not flushed.
    dirty_since: Option<Instant>,
    /// The index failed, and what it would flush is not whole.
    failed: bool,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>, listener: Box<dyn Fn(&Event) + Send>) -> Self {
        Self { shared, listener, taken: 0, dirty_since: None, failed: false }
    }

    /// Whether everything is applied that the indexer was handed, `handed` batches.
    pub(crate) fn has_taken(&self, handed: u64) -> bool {
        self.taken == handed
    }

    /// Applies a batch that lies behind everything that was applied, tells the listener and answers who waits. True when
    /// the indexer should be woken, to flush before long.
    pub(crate) fn apply(&mut self, batch: Batch) -> bool {
        if let Err(error) = self.try_apply(batch) {
            self.fail(&error);
        }
        let first = self.dirty_since.is_none();
        self.dirty_since.get_or_insert_with(Instant::now);
        first || self.pending_len() >= FLUSH_KEYS
    }

    fn try_apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut answers = Vec::with_capacity(batch.waiting.len());
        let mut events = Vec::new();
        // In memory before anybody can learn of them.
        self.shared.tail.extend(batch.frames.iter().cloned());
        let applied = apply_all(&mut self.shared.write_index(), batch, &mut events, &mut answers);
        for event in &events {
            (self.listener)(event);
        }
        for (done, applied) in answers {
            done(Ok(applied));
        }
        applied
    }

    fn pending_len(&self) -> usize {
        self.shared.read_index().pending_len()
    }

    /// How long the indexer may sleep; `None` when there is nothing to flush.
    fn patience(&self) -> Option<Duration> {
        self.dirty_since.map(|since| FLUSH_INTERVAL.saturating_sub(since.elapsed()))
    }

    fn is_flush_due(&self) -> bool {
        self.patience() == Some(Duration::ZERO) || self.pending_len() >= FLUSH_KEYS
    }

    /// Flushes the index, unless it holds records that a power cut can still take: the index would show what the log does
    /// not hold, and offsets that it gives to others. Says whether it did; if not, the log is synced before long.
    fn flush_durable(&mut self) -> Result<bool, StoreError> {
        let applied = self.shared.read_index().applied();
        let durable = self.shared.reader.durable() >= applied || sabotage::is("flush-before-sync");
        if durable {
            flush(&self.shared)?;
        }
        self.dirty_since = (!durable).then(Instant::now);
        Ok(durable)
    }

    /// Without the index nothing can be answered truthfully: stop taking records.
    fn fail(&mut self, error: &StoreError) {
        self.failed = true;
        tracing::error!(%error, "the index failed; the broker is read-only until it is restarted");
        self.shared.fail(&error.to_string());
    }
}

pub(crate) struct Indexer {
    pub(crate) applier: Arc<Mutex<Applier>>,
    pub(crate) work: Receiver<Work>,
}

impl Indexer {
    /// Runs until the writer is gone or the index failed, and flushes at the end.
    pub(crate) fn run(self) {
        let mut waiting: Vec<Sender<()>> = Vec::new();
        loop {
            let patience = self.applier().patience();
            let received = match patience {
                Some(patience) => self.work.recv_timeout(patience),
                None => self.work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut applier = self.applier();
            match received {
                Ok(Work::Apply(batch)) => {
                    applier.apply(batch);
                    applier.taken += 1;
                }
                Ok(Work::Snapshot(answer)) => {
                    let parts = applier.shared.read_index().snapshot_bodies(false);
                    match parts {
                        // Without the writer nobody needs it.
                        Ok(parts) => drop(answer.send(parts)),
                        Err(error) => return applier.fail(&error),
                    }
                }
                Ok(Work::Flush(answer)) => waiting.push(answer),
                Ok(Work::Look) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if applier.failed {
                return;
            }
            if !waiting.is_empty() || applier.is_flush_due() {
                match applier.flush_durable() {
                    Ok(true) => {
                        for answer in waiting.drain(..) {
                            // Whoever asked may have given up waiting.
                            let _ = answer.send(());
                        }
                    }
                    Ok(false) => {}
                    Err(error) => return applier.fail(&error),
                }
            }
        }
        let mut applier = self.applier();
        if !applier.failed
            && let Err(error) = applier.flush_durable()
        {
            applier.fail(&error);
        }
    }

    fn applier(&self) -> MutexGuard<'_, Applier> {
        self.applier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies a batch in order, and notes who is to be answered what; after a failure, everybody else of the batch learns of it.
fn apply_all(
    index: &mut Index,
    batch: Batch,
    events: &mut Vec<Event>,
    answers: &mut Vec<(BatchCompletion, Vec<Applied>)>,
) -> Result<(), StoreError> {
    let mut frames = batch.frames.iter();
    let mut waiting = batch.waiting.into_iter();
    while let Some((count, done)) = waiting.next() {
        let apply = |frame: &Frame| {
            let outcome = index.apply(frame, events)?;
            Ok(Applied { position: frame.position, store_ms: frame.store_ms, outcome })
        };
        match frames.by_ref().take(count).map(apply).collect::<Result<Vec<_>, StoreError>>() {
            Ok(applied) => answers.push((done, applied)),
            Err(error) => {
                let failed = ProposeError::ReadOnly(error.to_string());
                done(Err(failed.clone()));
                waiting.for_each(|(_, done)| done(Err(failed.clone())));
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Writes what changed in the index to the key-value store. Only the thread that applies records may call this.
pub(crate) fn flush(shared: &Shared) -> Result<(), StoreError> {
    let pending = shared.index.read().unwrap_or_else(PoisonError::into_inner).pending();
    // Readers go on while the batch is written: until `flushed`, they see the same values in memory.
    shared.kv.write(pending)?;
    shared.index.write().unwrap_or_else(PoisonError::into_inner).flushed();
    Ok(())
}
