//! The indexer thread: applies durable batches, answers who waits, and flushes the index from time to time.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError};
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

pub(crate) struct Indexer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) work: Receiver<Work>,
    pub(crate) listener: Box<dyn Fn(&Event) + Send>,
}

impl Indexer {
    /// Runs until the writer is gone, then flushes.
    pub(crate) fn run(self) {
        let mut dirty_since: Option<Instant> = None;
        let mut waiting: Vec<Sender<()>> = Vec::new();
        loop {
            let patience = dirty_since.map(|since| FLUSH_INTERVAL.saturating_sub(since.elapsed()));
            let received = match patience {
                Some(patience) => self.work.recv_timeout(patience),
                None => self.work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Work::Apply(batch)) => {
                    if let Err(error) = self.apply(batch) {
                        return self.stop(&error);
                    }
                    dirty_since.get_or_insert_with(Instant::now);
                }
                Ok(Work::Snapshot(answer)) => {
                    let parts = self.shared.index.read().unwrap_or_else(PoisonError::into_inner).snapshot();
                    match parts {
                        // Without the writer nobody needs it.
                        Ok(parts) => drop(answer.send(parts)),
                        Err(error) => return self.stop(&error),
                    }
                }
                Ok(Work::Flush(answer)) => {
                    waiting.push(answer);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let due = dirty_since.is_some_and(|since| since.elapsed() >= FLUSH_INTERVAL);
            if due || !waiting.is_empty() || self.pending_len() >= FLUSH_KEYS {
                match self.flush_durable() {
                    Ok(true) => {
                        dirty_since = None;
                        // Whoever asked may have given up waiting.
                        for answer in waiting.drain(..) {
                            let _ = answer.send(());
                        }
                    }
                    // The writer syncs before long.
                    Ok(false) => dirty_since = Some(Instant::now()),
                    Err(error) => return self.stop(&error),
                }
            }
        }
        if let Err(error) = self.flush_durable() {
            self.stop(&error);
        }
    }

    /// Flushes the index, unless it holds records that a power cut can still take: the index would show what the log does
    /// not hold, and offsets that it gives to others.
    fn flush_durable(&self) -> Result<bool, StoreError> {
        let applied = self.shared.index.read().unwrap_or_else(PoisonError::into_inner).applied();
        let durable = self.shared.reader.durable() >= applied || sabotage::is("flush-before-sync");
        if durable {
            flush(&self.shared)?;
        }
        Ok(durable)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut answers = Vec::with_capacity(batch.waiting.len());
        let mut events = Vec::new();
        // In memory before anybody can learn of them.
        self.shared.tail.extend(batch.frames.iter().cloned());
        let applied = {
            let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
            apply_all(&mut index, batch, &mut events, &mut answers)
        };
        for event in &events {
            (self.listener)(event);
        }
        for (done, applied) in answers {
            done(Ok(applied));
        }
        applied
    }

    fn pending_len(&self) -> usize {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).pending_len()
    }

    /// Without the index nothing can be answered truthfully: stop taking records.
    fn stop(&self, error: &StoreError) {
        tracing::error!(%error, "the index failed; the broker is read-only until it is restarted");
        self.shared.fail(&error.to_string());
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
