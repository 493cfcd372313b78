//! Applying durable batches and answering their proposers; the indexer thread, which does that while the writer is
//! busy, and flushes the index from time to time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kerolox_log::{Frame, sabotage};

use crate::error::{ProposeError, StoreError};
use crate::leading::Listener;
use crate::standby_log::fold_until;
use crate::state::{StateEvent, StateMachine};
use crate::store::{AppliedRecord, BatchCompletion, Shared};
use crate::writer::{self, Batch, Work};

/// The index is flushed at least this often while it changes; unflushed records are applied again after a crash.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// The index is flushed at the latest when this many keys changed, which bounds its memory.
pub(crate) const FLUSH_KEYS: usize = 50_000;

/// Changes the index, exclusively for the thread that holds its lock: the indexer, or the writer when the indexer is
/// idle.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    listener: Listener,
    /// Number of handed-over batches that are applied.
    taken: u64,
    /// Time of the first unflushed change.
    dirty_since: Option<Instant>,
    /// Set once the log line was written that the index cannot be written for the moment.
    is_told: bool,
    /// Set when the index failed, and its unflushed changes are incomplete.
    failed: bool,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>, listener: Listener) -> Self {
        Self { shared, listener, taken: 0, dirty_since: None, is_told: false, failed: false }
    }

    /// Whether all `handed` batches are applied.
    pub(crate) fn has_taken(&self, handed: u64) -> bool {
        assert!(self.taken <= handed, "no more is applied than was handed over");
        self.taken == handed
    }

    /// Applies a batch that follows everything applied so far, notifies the listener and answers the proposers. True
    /// when the indexer should be woken, to flush before long.
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
        // In memory before any reader can learn of them.
        self.shared.tail.extend(batch.frames.iter().cloned());
        let applied = apply_all(&mut self.shared.write_state(), batch, &mut events, &mut answers);
        for event in &events {
            (self.listener)(event);
        }
        for (done, applied) in answers {
            done(Ok(applied));
        }
        applied
    }

    fn pending_len(&self) -> usize {
        self.shared.read_state().pending_len()
    }

    /// How long the indexer may sleep; `None` when there is nothing to flush.
    fn patience(&self) -> Option<Duration> {
        self.dirty_since.map(|since| FLUSH_INTERVAL.saturating_sub(since.elapsed()))
    }

    fn is_flush_due(&self) -> bool {
        self.patience() == Some(Duration::ZERO) || self.pending_len() >= FLUSH_KEYS
    }

    /// Flushes the index, unless it holds records that a power cut or another master can still take: the index would show
    /// records that the log does not hold, at offsets that later go to others. Returns whether it flushed; otherwise it can
    /// before long.
    fn flush_durable(&mut self) -> Result<bool, StoreError> {
        let applied = self.shared.read_state().applied();
        let durable = self.shared.reader.durable() >= applied || sabotage::is("flush-before-sync");
        let durable = durable && self.shared.gate.high_watermark() >= applied;
        let flushed = durable && self.flush_if_possible()?;
        self.dirty_since = (!flushed).then(Instant::now);
        Ok(flushed)
    }

    /// Flushes, unless the index's store lacks space at the moment: the changes stay in memory, and the log has them
    /// all.
    fn flush_if_possible(&mut self) -> Result<bool, StoreError> {
        match flush(&self.shared) {
            Err(StoreError::Kv(error)) if error.is_full() => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(%error, "the index cannot be written for the moment; it stays in memory until it can");
                }
                Ok(false)
            }
            flushed => {
                self.is_told = false;
                flushed.map(|()| true)
            }
        }
    }

    /// Whether the unflushed, uncommitted backlog is at its limit.
    fn is_full(&self) -> bool {
        self.pending_len() >= 2 * FLUSH_KEYS
            && self.shared.read_state().applied() > self.shared.gate.high_watermark()
    }

    /// Makes the store read-only: without the index no truthful answer is possible.
    fn fail(&mut self, error: &StoreError) {
        self.failed = true;
        match error.index_damage() {
            Some(reason) => tracing::error!(reason, "no record is stored until there is a new index"),
            None => {
                tracing::error!(%error, "the index failed; the broker is read-only until it is restarted")
            }
        }
        self.shared.fail(&why_refused(error));
    }
}

/// A request to the indexer that has to wait until earlier records are confirmed.
enum Waiting {
    Batch(Batch),
    Settle(u64, Sender<()>),
    Snapshot(Sender<Vec<Bytes>>),
}

pub(crate) struct Indexer {
    applier: Arc<Mutex<Applier>>,
    work: Receiver<Work>,
    /// Requests in order of arrival.
    waiting: VecDeque<Waiting>,
    /// Senders to notify of the next flush.
    flushes: Vec<Sender<()>>,
}

impl Indexer {
    pub(crate) fn new(applier: Arc<Mutex<Applier>>, work: Receiver<Work>) -> Self {
        Self { applier, work, waiting: VecDeque::new(), flushes: Vec::new() }
    }

    /// Runs until the writer is gone or the index failed, and flushes at the end.
    pub(crate) fn run(mut self) {
        let applier = self.applier.clone();
        let lock = || applier.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let patience = lock().patience();
            let received = match patience {
                Some(patience) => self.work.recv_timeout(patience),
                None => self.work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Work::Apply(batch)) => self.waiting.push_back(Waiting::Batch(batch)),
                Ok(Work::Settle(end, answer)) => self.waiting.push_back(Waiting::Settle(end, answer)),
                Ok(Work::Snapshot(answer)) => self.waiting.push_back(Waiting::Snapshot(answer)),
                Ok(Work::Flush(answer)) => self.flushes.push(answer),
                Ok(Work::Look) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let mut applier = lock();
            let done = self.do_what_is_possible(&mut applier).and_then(|()| self.flush_if_due(&mut applier));
            if let Err(error) = done {
                applier.fail(&error);
            }
            if applier.failed {
                return;
            }
        }
        let mut applier = lock();
        let done = self.do_what_is_possible(&mut applier);
        let flushed = done.and_then(|()| if applier.failed { Ok(false) } else { applier.flush_durable() });
        if let Err(error) = flushed {
            applier.fail(&error);
        }
    }

    /// Serves the requests in order, up to the first that has to wait.
    fn do_what_is_possible(&mut self, applier: &mut Applier) -> Result<(), StoreError> {
        if applier.shared.gate.is_shut() {
            self.give_up();
            return Ok(());
        }
        while let Some(first) = self.waiting.front()
            && !applier.failed
            && Self::is_possible(first, applier)
        {
            match self.waiting.pop_front() {
                Some(Waiting::Batch(batch)) => {
                    applier.apply(batch);
                    applier.taken += 1;
                }
                Some(Waiting::Settle(end, answer)) => {
                    fold_until(&applier.shared, end, &mut |_, _| {})?;
                    applier.taken += 1;
                    // The requester may have gone away.
                    let _ = answer.send(());
                }
                Some(Waiting::Snapshot(answer)) => {
                    let parts = applier.shared.read_state().snapshot_bodies(false)?;
                    // Without the writer no thread needs the snapshot.
                    let _ = answer.send(parts);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn is_possible(waiting: &Waiting, applier: &Applier) -> bool {
        let gate = &applier.shared.gate;
        match waiting {
            Waiting::Batch(batch) => gate.lets_through(batch.replicas, batch.end()) && !applier.is_full(),
            Waiting::Settle(end, _) => gate.high_watermark() >= *end,
            Waiting::Snapshot(_) => true,
        }
    }

    /// Ends the leadership: the outcome of unconfirmed records is unknown here.
    fn give_up(&mut self) {
        for waiting in self.waiting.drain(..) {
            if let Waiting::Batch(batch) = waiting {
                writer::fail(batch.waiting, &ProposeError::Deposed);
            }
        }
    }

    fn flush_if_due(&mut self, applier: &mut Applier) -> Result<(), StoreError> {
        if (!self.flushes.is_empty() || applier.is_flush_due())
            && !applier.failed
            && applier.flush_durable()?
        {
            for answer in self.flushes.drain(..) {
                // The requester may have stopped waiting.
                let _ = answer.send(());
            }
        }
        Ok(())
    }
}

/// The reason in the answer to a proposer.
fn why_refused(error: &StoreError) -> String {
    match error.index_damage() {
        Some(_) => "its index is damaged and is being rebuilt; try again in a moment".to_owned(),
        None => error.to_string(),
    }
}

/// Applies a batch in order, and collects the answers for its proposers; a failure is the answer to all remaining ones.
fn apply_all(
    index: &mut StateMachine,
    batch: Batch,
    events: &mut Vec<StateEvent>,
    answers: &mut Vec<(BatchCompletion, Vec<AppliedRecord>)>,
) -> Result<(), StoreError> {
    let mut frames = batch.frames.iter();
    let mut waiting = batch.waiting.into_iter();
    while let Some((count, done)) = waiting.next() {
        let apply = |frame: &Frame| {
            let outcome = index.apply(frame, events)?;
            Ok(AppliedRecord { position: frame.position, store_ms: frame.store_ms, outcome })
        };
        match frames.by_ref().take(count).map(apply).collect::<Result<Vec<_>, StoreError>>() {
            Ok(applied) => answers.push((done, applied)),
            Err(error) => {
                let failed = ProposeError::ReadOnly(why_refused(&error));
                done(Err(failed.clone()));
                waiting.for_each(|(_, done)| done(Err(failed.clone())));
                return Err(error);
            }
        }
    }
    assert!(frames.next().is_none(), "every record has a proposer");
    Ok(())
}

/// Writes changes of the index to the key-value store. Only the thread that applies records may call this.
pub(crate) fn flush(shared: &Shared) -> Result<(), StoreError> {
    let (applied, changes) = {
        let state = shared.read_state();
        assert!(
            state.applied() <= shared.reader.durable() || sabotage::is("flush-before-sync"),
            "the index is never made durable beyond the log"
        );
        (state.applied(), state.changes())
    };
    // Readers continue while the batch is written: until `flushed`, they see these values in memory.
    shared.kv.write(changes)?;
    let mut state = shared.write_state();
    assert_eq!(state.applied(), applied, "nothing is applied while changes are flushed");
    state.flushed();
    Ok(())
}
