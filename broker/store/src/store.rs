//! The engine's API: open, propose, look up, close.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MessageRecord, Record, RecordError, RecordKind};
use kerolox_core::replicas::AckDurability;
use kerolox_log::fs::Folder;
use kerolox_log::{DamagedRange, Frame, Log, LogError, LogOptions, LogReader, NewFrame, sabotage};

use crate::damage::Damage;
use crate::error::{ProposeError, StoreError};
use crate::gate::Gate;
use crate::kv::Kv;
use crate::leading::Listener;
use crate::opening::StoreOpening;
use crate::standby_log::StandbyLogState;
use crate::state::{ApplyOutcome, QueueRepair, StateEvent, StateMachine};
use crate::tail::Tail;
use crate::writer::{Proposal, Work};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Broker group that owns the data.
    pub broker: String,
    /// See [`LogOptions`].
    pub log: LogOptions,
    /// Bytes of proposals that may wait for the disk before more are refused.
    pub waiting_bytes_max: usize,
    /// Maximum time that a record which requires no sync ([`FlushRequirement::Async`]) stays without one.
    pub flush_interval: Duration,
    /// Bytes of the newest messages that are kept in memory for reading.
    pub tail_bytes: usize,
}

/// The result of a proposed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRecord {
    /// Position of the record in the log.
    pub position: u64,
    /// When it was stored, milliseconds since the Unix epoch.
    pub store_ms: i64,
    /// Decision of the state machine.
    pub outcome: ApplyOutcome,
}

/// Called once, on a thread of the engine, when a proposed record is durable and applied, or cannot be. Must not block.
pub type ProposalCompletion = Box<dyn FnOnce(Result<AppliedRecord, ProposeError>) + Send>;

/// The completion of a batch: the result of each record, in order, or why none of them was stored.
pub type BatchCompletion = Box<dyn FnOnce(Result<Vec<AppliedRecord>, ProposeError>) + Send>;

/// Log positions, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPositions {
    /// End of the appended records.
    pub end: u64,
    /// End of the durable records.
    pub durable: u64,
    /// End of the applied records.
    pub applied: u64,
}

pub(crate) struct Shared {
    pub(crate) state: RwLock<StateMachine>,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) reader: LogReader,
    pub(crate) tail: Tail,
    pub(crate) damage: Damage,
    pub(crate) gate: Gate,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    waiting_bytes: AtomicUsize,
    failure: Mutex<Option<String>>,
    /// Why no record may be stored, although it could be.
    forbidden: OnceLock<String>,
}

impl Shared {
    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) fn read_state(&self) -> RwLockReadGuard<'_, StateMachine> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_state(&self) -> RwLockWriteGuard<'_, StateMachine> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of proposals that are not stored yet.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn release_bytes(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Makes the engine refuse records; the first failure is kept.
    pub(crate) fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.to_owned());
    }

    pub(crate) fn failure(&self) -> Option<String> {
        if let Some(reason) = self.forbidden.get() {
            return Some(reason.clone());
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The storage engine of one broker. Share it behind an `Arc`.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) broker: String,
    pub(crate) flush_interval: Duration,
    pub(crate) listener: Listener,
    waiting_bytes_max: usize,
    /// The log, while no writer owns it.
    pub(crate) parked: Mutex<Option<StandbyLogState>>,
    /// Dropping it ends the writer.
    pub(crate) proposals: Mutex<Option<Sender<Proposal>>>,
    /// The indexer ends when this and the writer's sender are dropped.
    pub(crate) work: Mutex<Option<Sender<Work>>>,
    pub(crate) threads: Mutex<Threads>,
}

/// The threads of a leading store.
#[derive(Default)]
pub(crate) struct Threads {
    pub(crate) writer: Option<JoinHandle<Option<Log>>>,
    pub(crate) others: Vec<JoinHandle<()>>,
}

impl Store {
    /// Opens the log in `folder` and the index in `kv`, brings the index up to date, and starts the engine's threads.
    /// `clock` returns milliseconds since the Unix epoch; `listener` is called on a thread of the engine and must not
    /// block.
    ///
    /// # Errors
    /// [`StoreError`]; nothing acknowledged is changed then.
    pub fn open(
        options: StoreOptions,
        folder: Arc<dyn Folder>,
        kv: Arc<dyn Kv>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
        listener: impl Fn(&StateEvent) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_watched(options, folder, kv, clock, listener, &StoreOpening::default())
    }

    /// Opens a store whose index may need a long update: `opening` reports the progress, and can cancel it. Blocks until
    /// everything in the log is in the index.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] when it was cancelled.
    pub fn open_watched(
        options: StoreOptions,
        folder: Arc<dyn Folder>,
        kv: Arc<dyn Kv>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
        listener: impl Fn(&StateEvent) + Send + Sync + 'static,
        opening: &StoreOpening,
    ) -> Result<Self, StoreError> {
        let store = Self::open_parked(options, folder, kv, clock, listener)?;
        store.rule_alone(None, opening)?;
        Ok(store)
    }

    /// Opens the log and the index of a member of a broker group, and applies nothing: the caller decides which records are
    /// confirmed.
    ///
    /// # Errors
    /// [`StoreError`]; nothing acknowledged is changed then.
    pub fn open_parked(
        options: StoreOptions,
        folder: Arc<dyn Folder>,
        kv: Arc<dyn Kv>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
        listener: impl Fn(&StateEvent) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let (log, recovered) = Log::open(folder.clone(), options.log)?;
        if recovered.cut_bytes > 0 {
            tracing::warn!(
                bytes = recovered.cut_bytes,
                at = recovered.end,
                kept = recovered.cut_file,
                "cut off an unfinished write at the end of the log; nothing acknowledged is affected"
            );
        }
        let mut state = StateMachine::load(kv.clone())?;
        if state.applied() > log.end() && !sabotage::is("index-ahead-of-log") {
            tracing::warn!(
                applied = state.applied(),
                end = log.end(),
                "the index is ahead of the log; rebuilding it"
            );
            state = StateMachine::empty(kv.clone())?;
        }
        let reader = log.reader();
        if state.applied() != 0 && state.applied() < reader.start() {
            tracing::warn!(
                applied = state.applied(),
                start = reader.start(),
                "the log begins behind the index; rebuilding it"
            );
            state = StateMachine::empty(kv.clone())?;
        }
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            kv,
            reader,
            tail: Tail::new(options.tail_bytes),
            damage: Damage::default(),
            clock: Box::new(clock),
            waiting_bytes: AtomicUsize::new(0),
            gate: Gate::default(),
            failure: Mutex::new(None),
            forbidden: OnceLock::new(),
        });
        recovered.damaged.iter().for_each(|range| shared.damage.note(range));
        let store = Self {
            shared,
            folder,
            broker: options.broker,
            flush_interval: options.flush_interval,
            listener: Arc::new(listener),
            waiting_bytes_max: options.waiting_bytes_max,
            parked: Mutex::new(None),
            proposals: Mutex::new(None),
            work: Mutex::new(None),
            threads: Mutex::default(),
        };
        let known = recovered.end - recovered.scanned_bytes;
        let torn = recovered.damaged.iter().map(|range| range.position).filter(|at| *at >= known).min();
        store.park(log, torn);
        Ok(store)
    }

    /// Proposes a record. `done` is called exactly once: when it is stored as `durability` requires and applied, or
    /// when it cannot be.
    ///
    /// Only messages are refused when too much waits for the disk. All other records are small, and refusing them would
    /// hurt more than it saves: consumers and producers would repeat finished work.
    pub fn propose(&self, record: &Record, durability: impl Into<AckDurability>, done: ProposalCompletion) {
        let one = |applied: Result<Vec<AppliedRecord>, ProposeError>| {
            done(applied.map(|mut all| all.pop().expect("one for each record")));
        };
        self.propose_batch(std::slice::from_ref(record), durability, Box::new(one));
    }

    /// Proposes records that succeed or fail together: they are stored consecutively and answered together, or none is
    /// stored. (A crash before the answer may leave the first ones.) See [`Self::propose`].
    pub fn propose_batch(
        &self,
        records: &[Record],
        durability: impl Into<AckDurability>,
        done: BatchCompletion,
    ) {
        let mut durability = durability.into();
        let is_refusable = records.iter().any(is_new_message);
        let has_messages = records.iter().any(|record| matches!(record, Record::Message(_)));
        // They remove ranges of the index at once, which cannot be restored if a power cut takes the record.
        let removes = records.iter().any(|record| matches!(record, Record::Meta(_) | Record::Trim(_)))
            && !sabotage::is("meta-without-sync");
        if removes {
            durability.flush = FlushRequirement::Sync;
        }
        if let Some(reason) = self.shared.failure() {
            return done(Err(ProposeError::ReadOnly(reason)));
        }
        let (records, bytes) = encode(records);
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        if has_messages && waiting > 0 && waiting + bytes > self.waiting_bytes_max {
            self.shared.release_bytes(bytes);
            return done(Err(ProposeError::Busy { waiting, limit: self.waiting_bytes_max }));
        }
        let proposal = Proposal { records, bytes, durability, is_refusable, done };
        let refused = match &*self.proposals.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(proposals) => proposals.send(proposal).err().map(|lost| lost.0),
            None => Some(proposal),
        };
        if let Some(proposal) = refused {
            self.shared.release_bytes(bytes);
            (proposal.done)(Err(if self.standby_log().is_some() {
                ProposeError::NotMaster
            } else {
                ProposeError::Closed
            }));
        }
    }

    /// The clock for record timestamps, milliseconds since the Unix epoch. Use it for comparisons with timestamps.
    pub fn now_ms(&self) -> i64 {
        self.shared.now_ms()
    }

    /// The state, for look-ups. Hold the guard only briefly: records are applied under the write lock.
    pub fn state(&self) -> RwLockReadGuard<'_, StateMachine> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the message record of `len` bytes at `position`, with its frame.
    ///
    /// # Errors
    /// [`StoreError::Log`] when it cannot be read, [`StoreError::Record`] when it is no message.
    pub fn read_message(&self, position: u64, len: u32) -> Result<(Frame, MessageRecord), StoreError> {
        self.message(position, |reader| reader.read(position, len))
    }

    /// Reads the message record at `position`, with its frame, without knowing its length.
    pub fn read_message_at(&self, position: u64) -> Result<(Frame, MessageRecord), StoreError> {
        self.message(position, |reader| reader.read_at(position))
    }

    /// Decodes the message record that another member read at `position` of its copy of the log.
    ///
    /// # Errors
    /// [`StoreError::Log`] when the bytes are not those of this log, [`StoreError::Record`] when it is no message.
    pub fn decode_message(&self, bytes: &Bytes, position: u64) -> Result<(Frame, MessageRecord), StoreError> {
        as_message(self.shared.reader.decode(bytes, position)?)
    }

    /// Whether the message at `position` is among the newest, which are in memory.
    pub fn is_hot(&self, position: u64) -> bool {
        self.shared.tail.get(position).is_some()
    }

    fn message(
        &self,
        position: u64,
        read: impl FnOnce(&LogReader) -> Result<Frame, LogError>,
    ) -> Result<(Frame, MessageRecord), StoreError> {
        as_message(match self.shared.tail.get(position) {
            Some(frame) => frame,
            None => read(&self.shared.reader).map_err(|error| self.shared.damage.notice(error))?,
        })
    }

    /// Makes the index durable at least up to the records applied before this call. The log does not need it; it
    /// shortens the next start. Waits until those records are synced.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be written.
    pub fn flush_index(&self) -> Result<(), StoreError> {
        let (answer, flushed) = mpsc::channel();
        let asked = match &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(work) => work.send(Work::Flush(answer)).is_ok(),
            None => false,
        };
        // An indexer that has ended flushed at its end, or failed and logged it.
        if asked {
            let _ = flushed.recv();
        }
        Ok(self.shared.kv.persist()?)
    }

    /// Ranges of the log that could not be read since the store was opened, by position. Damage that no reader has met
    /// yet is not included.
    pub fn damaged(&self) -> Vec<DamagedRange> {
        self.shared.damage.ranges()
    }

    /// Queues that changed because the index had to be brought up to date over damage when the store was opened.
    pub fn repairs(&self) -> Vec<QueueRepair> {
        self.shared.damage.repairs()
    }

    /// The log, for raw reads.
    pub fn reader(&self) -> &LogReader {
        &self.shared.reader
    }

    /// The current positions of the log.
    pub fn positions(&self) -> LogPositions {
        let applied = self.state().applied();
        LogPositions { end: self.shared.reader.end(), durable: self.shared.reader.durable(), applied }
    }

    /// Refuses every record from now on, for good: stored records would be lost.
    pub fn forbid(&self, reason: &str) {
        // The first reason is kept.
        let _ = self.shared.forbidden.set(reason.to_owned());
    }

    /// Fails with the reason if every record is refused.
    ///
    /// # Errors
    /// [`StoreError::Log`]
    pub fn check_allowed(&self) -> Result<(), StoreError> {
        match self.shared.forbidden.get() {
            Some(reason) => Err(StoreError::Log(LogError::ReadOnly(reason.clone()))),
            None => Ok(()),
        }
    }

    /// Why the engine refuses records, if it does.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Finishes the proposals, flushes the index unless it holds unconfirmed records, and closes the log. New proposals are
    /// refused from here on; look-ups go on. Blocks until the threads have ended.
    pub fn close(&self) {
        let ruling = self.stop_threads();
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (log, flushed) = match (ruling, parked) {
            // The indexer flushed at its end what may be flushed: more than that may be applied, or it failed halfway.
            (Some(log), _) => (log, Ok(())),
            (None, Some(parked)) => (parked.log, self.flush_parked()),
            (None, None) => return,
        };
        if let Err(error) = log.close().map_err(StoreError::from).and(flushed) {
            tracing::error!(%error, "the store could not be closed cleanly; it will be checked at the next start");
            self.shared.fail(&error.to_string());
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether a record is a client's message, and not one that is stored again to be kept.
fn is_new_message(record: &Record) -> bool {
    let Record::Message(MessageRecord { header, .. }) = record else { return false };
    header.carried.is_none() && header.dead.is_none()
}

pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| StoreError::Thread(name, error))
}

/// The records with their bodies in one piece of memory, and its length.
pub(crate) fn encode(records: &[Record]) -> (Vec<NewFrame>, usize) {
    let mut bodies = Vec::with_capacity(records.iter().map(Record::size_hint).sum());
    let mut ends = Vec::with_capacity(records.len());
    for record in records {
        record.encode_to(&mut bodies);
        ends.push(bodies.len());
    }
    let mut bodies = Bytes::from(bodies);
    let bytes = bodies.len();
    let mut start = 0;
    let frame = |(record, end): (&Record, usize)| {
        let body = bodies.split_to(end - start);
        start = end;
        NewFrame { kind: record.kind() as u8, body }
    };
    (records.iter().zip(ends).map(frame).collect(), bytes)
}

/// The message in a frame; a carried copy keeps the time of the first record.
fn as_message(frame: Frame) -> Result<(Frame, MessageRecord), StoreError> {
    let position = frame.position;
    let malformed = |source| StoreError::Record { position, source };
    if frame.kind != RecordKind::Message as u8 {
        return Err(malformed(RecordError::Malformed {
            kind: "message",
            reason: format!("it is of kind {}", frame.kind),
        }));
    }
    let message = MessageRecord::decode(frame.body.clone()).map_err(malformed)?;
    let store_ms = message.header.carried.map_or(frame.store_ms, |carried| carried.store_ms);
    Ok((Frame { store_ms, ..frame }, message))
}
