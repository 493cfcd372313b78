//! The engine's front: open, propose, look up, close.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::Flush;
use kerolox_core::record::{EpochRecord, Kind, MessageRecord, Record, RecordError};
use kerolox_log::fs::Folder;
use kerolox_log::{DamagedRange, Frame, Log, LogError, LogOptions, NewFrame, Reader, sabotage};

use crate::damage::Damage;
use crate::error::{ProposeError, StoreError};
use crate::index::{Event, Index, Outcome, Repair};
use crate::indexer::{Applier, Indexer};
use crate::kv::Kv;
use crate::opening::{Opening, catch_up};
use crate::tail::Tail;
use crate::writer::{self, Proposal, Work, Writer};

/// How the engine works.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Broker group whose data this is.
    pub broker: String,
    /// See [`LogOptions`].
    pub log: LogOptions,
    /// Bytes of proposals that may wait for the disk before more are refused.
    pub waiting_bytes_max: usize,
    /// Longest time that a record which waits for no sync ([`Flush::Async`]) stays without one.
    pub flush_interval: Duration,
    /// Bytes of the newest messages that are kept in memory for reading.
    pub tail_bytes: usize,
}

/// What became of a proposed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where it lies in the log.
    pub position: u64,
    /// When it was stored, milliseconds since the Unix epoch.
    pub store_ms: i64,
    /// What the fold decided.
    pub outcome: Outcome,
}

/// Called once, on a thread of the engine, when a proposed record is durable and applied, or cannot be. Must not block.
pub type Completion = Box<dyn FnOnce(Result<Applied, ProposeError>) + Send>;

/// The same for a batch: what became of each record, in order, or why none of them was stored.
pub type BatchCompletion = Box<dyn FnOnce(Result<Vec<Applied>, ProposeError>) + Send>;

/// Log positions, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// End of what was appended.
    pub end: u64,
    /// End of what is durable.
    pub durable: u64,
    /// End of what the index holds.
    pub applied: u64,
}

pub(crate) struct Shared {
    pub(crate) index: RwLock<Index>,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) reader: Reader,
    pub(crate) tail: Tail,
    pub(crate) damage: Damage,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    waiting_bytes: AtomicUsize,
    failure: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of proposals that are not stored.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn release_bytes(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// The first failure stays.
    pub(crate) fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.to_owned());
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The storage engine of one broker. Share it behind an `Arc`.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Arc<dyn Folder>,
    waiting_bytes_max: usize,
    /// Taken by [`Self::close`]: without it the writer ends.
    proposals: Mutex<Option<Sender<Proposal>>>,
    /// The indexer ends when this and the writer's end of it are gone.
    work: Mutex<Option<Sender<Work>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the log in `folder` and the index in `kv`, brings the index up to date, and starts the engine's threads.
    /// `clock` gives milliseconds since the Unix epoch; `listener` is called on a thread of the engine and must not block.
    ///
    /// # Errors
    /// [`StoreError`]; nothing acknowledged is changed then.
    pub fn open(
        options: StoreOptions,
        folder: Arc<dyn Folder>,
        kv: Arc<dyn Kv>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
        listener: impl Fn(&Event) + Send + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_watched(options, folder, kv, clock, listener, &Opening::default())
    }

    /// The same, for an index that may take long to be brought up to date: `opening` shows how far it is, and can stop it.
    /// Blocks until everything in the log is in the index.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] when it was stopped.
    pub fn open_watched(
        options: StoreOptions,
        folder: Arc<dyn Folder>,
        kv: Arc<dyn Kv>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
        listener: impl Fn(&Event) + Send + 'static,
        opening: &Opening,
    ) -> Result<Self, StoreError> {
        let (mut log, recovered) = Log::open(folder.clone(), options.log)?;
        if recovered.cut_bytes > 0 {
            tracing::warn!(
                bytes = recovered.cut_bytes,
                at = recovered.end,
                kept = recovered.cut_file,
                "cut off an unfinished write at the end of the log; nothing acknowledged is affected"
            );
        }
        let mut index = Index::load(kv.clone())?;
        if index.applied() > log.end() && !sabotage::is("index-ahead-of-log") {
            tracing::warn!(
                applied = index.applied(),
                end = log.end(),
                "the index is ahead of the log; rebuilding it"
            );
            index = Index::empty(kv.clone())?;
        }
        let reader = log.reader();
        if index.applied() != 0 && index.applied() < reader.start() {
            tracing::warn!(
                applied = index.applied(),
                start = reader.start(),
                "the log begins behind the index; rebuilding it"
            );
            index = Index::empty(kv.clone())?;
        }
        let shared = Arc::new(Shared {
            index: RwLock::new(index),
            kv,
            reader,
            tail: Tail::new(options.tail_bytes),
            damage: Damage::default(),
            clock: Box::new(clock),
            waiting_bytes: AtomicUsize::new(0),
            failure: Mutex::new(None),
        });
        recovered.damaged.iter().for_each(|range| shared.damage.note(range));
        let mut folded = catch_up(&shared, opening)?;
        if shared.index.read().unwrap_or_else(PoisonError::into_inner).broker().is_empty() {
            // A new log, or one whose first record is damaged.
            begin(&mut log, &options.broker, shared.now_ms())?;
            folded += catch_up(&shared, opening)?;
        }
        check_owner(&shared, &options.broker)?;
        if shared.read_index().is_unsettled() {
            fix_what_is_uncertain(&mut log, &shared)?;
            folded += catch_up(&shared, opening)?;
        }
        finish_trim(&shared, &*folder)?;
        shared.damage.note_repairs(shared.read_index().repairs());
        tracing::info!(end = log.end(), folded, "storage is open");
        Self::start(shared, folder, log, &options, Box::new(listener))
    }

    fn start(
        shared: Arc<Shared>,
        folder: Arc<dyn Folder>,
        log: Log,
        options: &StoreOptions,
        listener: Box<dyn Fn(&Event) + Send>,
    ) -> Result<Self, StoreError> {
        let (proposals, incoming) = mpsc::channel();
        let (work, asked) = mpsc::channel();
        let (syncs, to_sync) = mpsc::channel();
        let requests = work.clone();
        let applier = Arc::new(Mutex::new(Applier::new(shared.clone(), listener)));
        let writer = Writer {
            log,
            epoch: 1,
            shared: shared.clone(),
            proposals: incoming,
            work,
            applier: applier.clone(),
            handed: 0,
            syncs,
            last_ms: shared.index.read().unwrap_or_else(PoisonError::into_inner).store_ms(),
            flush_interval: options.flush_interval,
            unsynced_since: None,
            unnoted: false,
        };
        let indexer = Indexer { applier, work: asked };
        let syncer = shared.clone();
        let threads = vec![
            spawn("log-writer", move || writer.run())?,
            spawn("log-syncer", move || writer::run_syncer(&to_sync, &syncer))?,
            spawn("indexer", move || indexer.run())?,
        ];
        Ok(Self {
            shared,
            folder,
            waiting_bytes_max: options.waiting_bytes_max,
            proposals: Mutex::new(Some(proposals)),
            work: Mutex::new(Some(requests)),
            threads: Mutex::new(threads),
        })
    }

    /// Proposes a record. `done` is called exactly once: when it is stored as `flush` says and applied, or when it
    /// cannot be.
    ///
    /// Only messages are refused when too much waits for the disk. Everything else is small, and refusing it would hurt
    /// more than it saves: consumers and producers would repeat what they have done already.
    pub fn propose(&self, record: &Record, flush: Flush, done: Completion) {
        let one = |applied: Result<Vec<Applied>, ProposeError>| {
            done(applied.map(|mut all| all.pop().expect("one for each record")));
        };
        self.propose_batch(std::slice::from_ref(record), flush, Box::new(one));
    }

    /// Proposes records that share their fate: they are stored one behind the other, with nothing in between, and answered
    /// together, or none is stored. (A crash before the answer may leave the first ones of them.) See [`Self::propose`].
    pub fn propose_batch(&self, records: &[Record], flush: Flush, done: BatchCompletion) {
        let has_messages = records.iter().any(|record| matches!(record, Record::Message(_)));
        // They remove ranges of the index at once, which nothing brings back if a power cut takes the record.
        let removes = records.iter().any(|record| matches!(record, Record::Meta(_) | Record::Trim(_)))
            && !sabotage::is("meta-without-sync");
        let flush = if removes { Flush::Sync } else { flush };
        if let Some(reason) = self.shared.failure() {
            return done(Err(ProposeError::ReadOnly(reason)));
        }
        let (records, bytes) = encode(records);
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        if has_messages && waiting > 0 && waiting + bytes > self.waiting_bytes_max {
            self.shared.release_bytes(bytes);
            return done(Err(ProposeError::Busy { waiting, limit: self.waiting_bytes_max }));
        }
        let proposal = Proposal { records, bytes, flush, done };
        let refused = match &*self.proposals.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(proposals) => proposals.send(proposal).err().map(|lost| lost.0),
            None => Some(proposal),
        };
        if let Some(proposal) = refused {
            self.shared.release_bytes(bytes);
            (proposal.done)(Err(ProposeError::Closed));
        }
    }

    /// The index, for look-ups. Hold the guard shortly: records are applied under the write lock.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the message record of `len` bytes at `position`, with its frame.
    ///
    /// # Errors
    /// [`StoreError::Log`] when it cannot be read, [`StoreError::Record`] when it is no message.
    pub fn read_message(&self, position: u64, len: u32) -> Result<(Frame, MessageRecord), StoreError> {
        self.message(position, |reader| reader.read(position, len))
    }

    /// The same without knowing its length.
    pub fn read_message_at(&self, position: u64) -> Result<(Frame, MessageRecord), StoreError> {
        self.message(position, |reader| reader.read_at(position))
    }

    fn message(
        &self,
        position: u64,
        read: impl FnOnce(&Reader) -> Result<Frame, LogError>,
    ) -> Result<(Frame, MessageRecord), StoreError> {
        let frame = match self.shared.tail.get(position) {
            Some(frame) => frame,
            None => read(&self.shared.reader).map_err(|error| self.shared.damage.notice(error))?,
        };
        let malformed = |source| StoreError::Record { position, source };
        if frame.kind != Kind::Message as u8 {
            return Err(malformed(RecordError::Malformed {
                kind: "message",
                reason: format!("it is of kind {}", frame.kind),
            }));
        }
        let message = MessageRecord::decode(frame.body.clone()).map_err(malformed)?;
        // The copy of a message keeps the time of the first one.
        let store_ms = message.header.carried.map_or(frame.store_ms, |carried| carried.store_ms);
        Ok((Frame { store_ms, ..frame }, message))
    }

    /// Makes the index durable up to what was applied when this was called, or further. The log does not need it; it
    /// shortens the next start. Waits until what was applied is synced.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be written.
    pub fn flush_index(&self) -> Result<(), StoreError> {
        let (answer, flushed) = mpsc::channel();
        let asked = match &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(work) => work.send(Work::Flush(answer)).is_ok(),
            None => false,
        };
        // An indexer that has ended flushed at its end, or failed and said so.
        if asked {
            let _ = flushed.recv();
        }
        Ok(self.shared.kv.persist()?)
    }

    /// Ranges of the log that could not be read since the store was opened, by position. There may be others that nobody
    /// wanted to read yet.
    pub fn damaged(&self) -> Vec<DamagedRange> {
        self.shared.damage.ranges()
    }

    /// Queues that are not what they were before the log was damaged, because the index had to be brought up to date over
    /// the damage when the store was opened.
    pub fn repairs(&self) -> Vec<Repair> {
        self.shared.damage.repairs()
    }

    /// Where the log stands.
    pub fn positions(&self) -> Positions {
        let applied = self.index().applied();
        Positions { end: self.shared.reader.end(), durable: self.shared.reader.durable(), applied }
    }

    /// Why the engine refuses records, if it does.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Finishes what was proposed, flushes the index and closes the log. Proposals are refused from here on; look-ups
    /// go on. Blocks until the threads have ended.
    pub fn close(&self) {
        drop(self.proposals.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.work.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                self.shared.fail("a storage thread panicked");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| StoreError::Thread(name, error))
}

/// The records with their bodies one behind the other in one piece of memory, and how long that is.
fn encode(records: &[Record]) -> (Vec<NewFrame>, usize) {
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

/// Writes the first record of a new log.
fn begin(log: &mut Log, broker: &str, now_ms: i64) -> Result<(), StoreError> {
    let epoch = Record::Epoch(EpochRecord { epoch: 1, broker: broker.to_owned() });
    log.append(&[NewFrame { kind: epoch.kind() as u8, body: epoch.encode().into() }], 1, now_ms)?;
    log.sync()?;
    Ok(())
}

/// Writes the state behind damage to the log, so that the offsets that its messages got now stay theirs.
fn fix_what_is_uncertain(log: &mut Log, shared: &Shared) -> Result<(), StoreError> {
    let mut index = shared.write_index();
    index.name_unknown_topics()?;
    index.note_open_end();
    let frames = writer::snapshot_frames(index.snapshot_bodies(true)?);
    let store_ms = shared.now_ms().max(index.store_ms());
    log.begin_segment(writer::frames_len(&frames))?;
    log.append(&frames, 1, store_ms)?;
    Ok(log.sync()?)
}

/// Removes what a trim gave up before a crash kept it from going. Trims to come forget what they need of it.
fn finish_trim(shared: &Shared, folder: &dyn Folder) -> Result<(), StoreError> {
    let trimmed = shared.read_index().trimmed();
    if shared.reader.segments().first().is_some_and(|first| first.end <= trimmed) {
        shared.kv.persist()?;
        shared.reader.remove_before(folder, trimmed)?;
    }
    Ok(())
}

fn check_owner(shared: &Shared, wanted: &str) -> Result<(), StoreError> {
    let index = shared.index.read().unwrap_or_else(PoisonError::into_inner);
    if index.broker() == wanted {
        return Ok(());
    }
    Err(StoreError::ForeignData { found: index.broker().to_owned(), wanted: wanted.to_owned() })
}
