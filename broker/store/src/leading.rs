//! The transition from a parked log to one that accepts proposals, and back.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use kerolox_core::record::{EpochRecord, Record, RecordKind};
use kerolox_log::{Log, NewFrame};
use kerolox_replication::CommitStatus;

use crate::error::StoreError;
use crate::indexer::{Applier, Indexer};
use crate::opening::{StoreOpening, catch_up};
use crate::standby_log::{NewestRecord, StandbyLogState, newest};
use crate::state::{StateEvent, StateMachine};
use crate::store::{Store, spawn};
use crate::writer::{self, Work, Writer};

/// Notifies when all records from before an epoch are applied; closed without a message when leadership ends first.
pub type SettledSignal = mpsc::Receiver<()>;

impl Store {
    /// Begins to rule alone: everything in the log is confirmed. The index is brought up to date, over damage if there is some,
    /// before this returns. With `epoch`, the epoch begins with a record of it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn rule_alone(&self, epoch: Option<u32>, opening: &StoreOpening) -> Result<(), StoreError> {
        let shared = &self.shared;
        let StandbyLogState { mut log, .. } = self.take_log();
        let mut folded = catch_up(shared, opening)?;
        if shared.read_state().broker().is_empty() {
            // A new log, or one whose first record is damaged.
            self.open_epoch(&mut log, epoch.unwrap_or(1))?;
            folded += catch_up(shared, opening)?;
        } else if let Some(epoch) = epoch {
            self.open_epoch(&mut log, epoch)?;
            folded += catch_up(shared, opening)?;
        }
        self.check_owner()?;
        if shared.read_state().uncertainty.is_open() {
            self.fix_what_is_uncertain(&mut log, epoch.unwrap_or(1))?;
            folded += catch_up(shared, opening)?;
        }
        crate::retention::finish_trim(shared, &*self.folder)?;
        shared.damage.note_repairs(shared.read_state().uncertainty.repairs());
        tracing::info!(end = log.end(), folded, "storage is open");
        let epoch = shared.read_state().epoch();
        let last_ms = shared.read_state().store_ms();
        self.start(log, epoch, last_ms, CommitStatus::ALONE).map(drop)
    }

    /// Begins to lead: appends the record that opens the epoch, and accepts proposals. The records in the log, and that record,
    /// are applied when [`Self::confirm`] reports that the in-sync set has them. Returns the end of the record, and the
    /// receiver that is notified once it is applied.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn rule(&self, epoch: u32) -> Result<(u64, SettledSignal), StoreError> {
        let StandbyLogState { mut log, newest: known, .. } = self.take_log();
        let newest: NewestRecord = known.map_or_else(|| newest(&self.shared), Ok)?;
        assert!(
            newest.epoch <= epoch,
            "epoch {epoch} is led, and the log has a record of epoch {}",
            newest.epoch
        );
        self.open_epoch(&mut log, epoch)?;
        let opened = log.end();
        let last_ms = newest.store_ms.max(self.shared.now_ms());
        Ok((opened, self.start(log, epoch, last_ms, CommitStatus::UNHEARD)?))
    }

    /// Sets the confirmed positions of the log. Cheap; from any thread.
    pub fn confirm(&self, status: CommitStatus) {
        // Slaves answer many times a second, mostly without a change.
        if self.shared.gate.set(status) {
            self.look();
        }
    }

    /// Wakes the indexer to check for work.
    fn look(&self) {
        if let Some(work) = &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            // An indexer that is gone failed and logged it.
            let _ = work.send(Work::Look);
        }
    }

    /// The last status passed to [`Self::confirm`].
    pub fn commit_status(&self) -> CommitStatus {
        self.shared.gate.status()
    }

    /// Everything before this is held by this member and by enough others that no election loses it.
    pub fn safe(&self) -> u64 {
        self.shared.gate.high_watermark().min(self.shared.reader.durable())
    }

    /// Whether no other member rules at this moment, as far as this member can tell.
    pub fn rules(&self) -> bool {
        self.shared.gate.leads()
    }

    /// Ends the leadership: unconfirmed proposals are answered with an error, and their outcome is unknown. The log is parked, and
    /// the index is reset to its certain state. Blocks until the threads have ended.
    ///
    /// # Errors
    /// [`StoreError`] when the log failed, or the index cannot be read. A store with a damaged index can only be retired.
    pub fn step_down(&self) -> Result<(), StoreError> {
        self.shared.gate.shut();
        self.shared.gate.set(CommitStatus::UNHEARD);
        self.look();
        let log = self.stop_threads().ok_or_else(|| self.log_failure())?;
        self.park(log, None);
        let shared = &self.shared;
        // The overlay may hold unconfirmed records, if the sender required only the master.
        *shared.write_state() = StateMachine::load(shared.kv.clone())?;
        shared.tail.truncate(shared.read_state().applied());
        Ok(())
    }

    /// Ends the threads and closes the log, for a store with a damaged index: another one is opened on this log with a new
    /// index. Proposals that are not applied are answered with an error. Blocks until the threads have ended.
    ///
    /// # Errors
    /// [`StoreError`] when the log failed: it must not be opened again by this process.
    pub fn retire(&self) -> Result<(), StoreError> {
        let ruled = self.threads.lock().unwrap_or_else(PoisonError::into_inner).writer.is_some();
        self.shared.gate.shut();
        let ruling = self.stop_threads();
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ruling.or(parked.map(|parked| parked.log)) {
            Some(log) => Ok(log.close()?),
            None if ruled => Err(self.log_failure()),
            // It was given up while it was opened.
            None => Ok(()),
        }
    }

    fn log_failure(&self) -> StoreError {
        let reason = self.shared.failure().unwrap_or_else(|| "the log's writer is gone".to_owned());
        StoreError::Log(kerolox_log::LogError::ReadOnly(reason))
    }

    pub(crate) fn park(&self, log: Log, torn: Option<u64>) {
        let parked = StandbyLogState { log, newest: None, torn };
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(parked);
    }

    fn take_log(&self) -> StandbyLogState {
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        parked.expect("a ruling store steps down first")
    }

    /// Writes the first record of an epoch, and makes it durable.
    fn open_epoch(&self, log: &mut Log, epoch: u32) -> Result<(), StoreError> {
        let record = Record::Epoch(EpochRecord { epoch, broker: self.broker.clone() });
        let store_ms = self.shared.now_ms().max(self.shared.read_state().store_ms());
        let frame = NewFrame { kind: RecordKind::Epoch as u8, body: record.encode().into() };
        log.append(&[frame], epoch, store_ms)?;
        log.sync()?;
        Ok(())
    }

    fn check_owner(&self) -> Result<(), StoreError> {
        let index = self.shared.read_state();
        if index.broker() == self.broker {
            return Ok(());
        }
        Err(StoreError::ForeignData { found: index.broker().to_owned(), wanted: self.broker.clone() })
    }

    /// Writes the state behind damage to the log, so that its messages keep the offsets that they got now.
    fn fix_what_is_uncertain(&self, log: &mut Log, epoch: u32) -> Result<(), StoreError> {
        let mut index = self.shared.write_state();
        index.name_unknown_topics()?;
        index.note_open_end();
        let frames = writer::snapshot_frames(index.snapshot_bodies(true)?);
        let store_ms = self.shared.now_ms().max(index.store_ms());
        let epoch = epoch.max(index.epoch());
        log.begin_segment(writer::frames_len(&frames))?;
        log.append(&frames, epoch, store_ms)?;
        Ok(log.sync()?)
    }

    fn start(
        &self,
        log: Log,
        epoch: u32,
        last_ms: i64,
        status: CommitStatus,
    ) -> Result<SettledSignal, StoreError> {
        let shared = &self.shared;
        shared.gate.open(status);
        let (proposals, incoming) = mpsc::channel();
        let (work, asked) = mpsc::channel();
        let (syncs, to_sync) = mpsc::channel();
        let (settled, is_settled) = mpsc::channel();
        // Before any proposal.
        work.send(Work::Settle(log.end(), settled)).expect("the receiver is here");
        let applier = Arc::new(Mutex::new(Applier::new(shared.clone(), self.listener.clone())));
        let writer = Writer {
            log,
            epoch,
            shared: shared.clone(),
            proposals: incoming,
            work: work.clone(),
            applier: applier.clone(),
            handed: 1,
            syncs,
            last_ms,
            flush_interval: self.flush_interval,
            unsynced_since: None,
            unnoted: false,
            is_told: false,
        };
        let indexer = Indexer::new(applier, asked);
        let syncer = shared.clone();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.writer = Some(spawn("log-writer", move || writer.run())?);
        threads.others = vec![
            spawn("log-syncer", move || writer::run_syncer(&to_sync, &syncer))?,
            spawn("indexer", move || indexer.run())?,
        ];
        *self.proposals.lock().unwrap_or_else(PoisonError::into_inner) = Some(proposals);
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        Ok(is_settled)
    }

    /// Ends the threads; returns the log, if it did not fail.
    pub(crate) fn stop_threads(&self) -> Option<Log> {
        drop(self.proposals.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.work.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let log = match threads.writer.map(std::thread::JoinHandle::join) {
            Some(Ok(log)) => log,
            Some(Err(_)) => {
                self.shared.fail("a storage thread panicked");
                None
            }
            None => None,
        };
        for thread in threads.others {
            if thread.join().is_err() {
                self.shared.fail("a storage thread panicked");
            }
        }
        log
    }
}

/// Called with the events of applied records.
pub(crate) type Listener = Arc<dyn Fn(&StateEvent) + Send + Sync>;
