//! Replay of a log, to verify an index.
//!
//! A log whose old segments were removed is applied from its first whole snapshot on. A long-lived index may still know
//! earlier records: entries below the first offsets of the snapshot, and transactions that ended before it. That is out of
//! scope, everything else must be equal.

mod scan;

use std::ops::Range;
use std::sync::Arc;

use kerolox_core::record::Record;
use kerolox_log::{DamagedRange, Frame};

use super::table::{ComparedKey, ReplayBegin, StateTable};
use super::{FORMAT, QueueRepair, StateMachine, keys};
use crate::error::StoreError;
use crate::kv::{KeyFamily, KeyValue, Kv, KvError, MemKv, WriteOp};

use scan::Scan;

/// Changed keys that are collected before they are moved to the map.
const FLUSH_KEYS: usize = 50_000;
/// The changed keys are counted once per this many records.
const RECORDS_PER_COUNT: u64 = 64;
/// Number of differences that are described; the others are counted.
const EXAMPLES: usize = 20;

/// An index in memory, made from the records of a log.
pub struct LogReplay {
    state: StateMachine,
    kv: Arc<dyn Kv>,
    until: u64,
    /// Keys that a record behind the index's position removes.
    doomed: Vec<(KeyFamily, Range<Vec<u8>>)>,
    begin: Begin,
    /// Position of the first record of the log.
    start: u64,
    /// Number of applied records.
    taken: u64,
}

/// The beginning of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// With the first record of all.
    Whole,
    /// With a snapshot that was not found yet.
    Waiting,
    /// With the snapshot that began at this position and may be incomplete.
    Snapshot(u64),
    /// With the whole snapshot that began at this position.
    Begun(u64),
}

/// The differences between an index and the state that follows from the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateComparison {
    /// Keys compared.
    pub keys: u64,
    /// Keys that differ.
    pub differences: u64,
    /// The first differences.
    pub examples: Vec<StateDifference>,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDifference {
    /// Family of the key.
    pub family: KeyFamily,
    /// The key.
    pub key: Vec<u8>,
    /// Kind of the difference.
    pub how: DifferenceKind,
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The key follows from the log, but is not in the index.
    Missing,
    /// The key is in the index, but does not follow from the log.
    Unexpected,
    /// The value differs from the one that follows from the log.
    Different,
}

impl LogReplay {
    /// A replay of the records before log position `until`. It takes some 30 bytes of memory per message, and 10 for each key.
    pub fn until(until: u64) -> Self {
        Self::new(Arc::new(MemKv::default()), until, Begin::Whole)
    }

    /// A replay of a log whose first record lies at `start`, because earlier ones were removed. Records before the first
    /// whole snapshot are skipped.
    pub fn of_trimmed(start: u64, until: u64) -> Self {
        Self { start, ..Self::new(Arc::new(MemKv::default()), until, Begin::Waiting) }
    }

    /// A replay of all records that knows bounds of queues but not their entries: little memory even for a long log.
    /// [`super::QueueTable::entries`] fails on it.
    pub fn without_entries() -> Self {
        Self::new(Arc::new(WithoutEntries(MemKv::default())), u64::MAX, Begin::Whole)
    }

    fn new(kv: Arc<dyn Kv>, until: u64, begin: Begin) -> Self {
        let state = StateMachine::empty(kv.clone()).expect("a map in memory does not fail");
        Self { state, kv, until, doomed: Vec::new(), begin, start: 0, taken: 0 }
    }

    /// Where the state machine began: 0, or the position of the snapshot that it loaded; `None` without one.
    pub fn begin(&self) -> Option<u64> {
        match self.begin {
            Begin::Whole => Some(0),
            Begin::Begun(position) => Some(position),
            Begin::Waiting | Begin::Snapshot(_) => None,
        }
    }

    /// Takes the next record of the log.
    ///
    /// # Errors
    /// [`StoreError::Record`] when the record cannot be decoded: a broker cannot be started on this log.
    pub fn take(&mut self, frame: &Frame) -> Result<(), StoreError> {
        if frame.position >= self.until {
            return self.take_later(frame);
        }
        if self.is_before_begin(frame)? {
            return Ok(());
        }
        self.state.apply(frame, &mut Vec::new())?;
        self.taken += 1;
        if self.taken.is_multiple_of(RECORDS_PER_COUNT) && self.state.pending_len() >= FLUSH_KEYS {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether a record lies before the first whole snapshot. Tracks the parts of that snapshot, and drops an incomplete
    /// one.
    fn is_before_begin(&mut self, frame: &Frame) -> Result<bool, StoreError> {
        let (Begin::Waiting | Begin::Snapshot(_)) = self.begin else { return Ok(false) };
        let malformed = |source| StoreError::Record { position: frame.position, source };
        let part = match Record::decode(frame.kind, frame.body.clone()).map_err(malformed)? {
            Record::Snapshot(part) => Some(part),
            _ => None,
        };
        let follows = part.as_ref().is_some_and(|part| self.state.expects_part(part.part));
        if !follows && self.begin != Begin::Waiting {
            self.state = StateMachine::empty(self.kv.clone())?;
            self.begin = Begin::Waiting;
        }
        let Some(part) = part.filter(|part| self.state.expects_part(part.part)) else { return Ok(true) };
        let from = if let Begin::Snapshot(from) = self.begin { from } else { frame.position };
        self.begin = if part.last { Begin::Begun(from) } else { Begin::Snapshot(from) };
        Ok(false)
    }

    /// Passes over damage: the next record lies behind it.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn pass_damage(&mut self, range: &DamagedRange) -> Result<(), StoreError> {
        if range.position < self.until && self.begin().is_some() {
            self.state.pass_damage(range)?;
        }
        Ok(())
    }

    /// The damage to the queues of an index that is made from this log.
    ///
    /// # Errors
    /// [`StoreError`] when the index holds something malformed.
    pub fn repairs(&mut self) -> Result<&[QueueRepair], StoreError> {
        if self.state.uncertainty.is_open() {
            self.state.name_unknown_topics()?;
            self.state.note_open_end();
        }
        Ok(self.state.uncertainty.repairs())
    }

    /// The index made so far.
    pub fn state(&self) -> &StateMachine {
        &self.state
    }

    /// Compares all keys with those of `other`, an index that holds the log up to the position of [`Self::until`].
    ///
    /// # Errors
    /// [`StoreError`] when `other` cannot be read.
    pub fn compare(&mut self, other: &dyn Kv) -> Result<StateComparison, StoreError> {
        self.flush()?;
        let mut comparison = StateComparison::default();
        for family in KeyFamily::ALL {
            let table = self.state.table_of(family);
            let (mut own, mut found) = (Scan::new(&*self.kv, family, table), Scan::new(other, family, table));
            loop {
                own.fill()?;
                found.fill()?;
                let (key, own_value, found_value) = match (own.peek(), found.peek()) {
                    (None, None) => break,
                    (Some(a), Some(b)) if a.0 == b.0 => (a.0.clone(), Some(&a.1), Some(&b.1)),
                    (Some(a), Some(b)) if b.0 < a.0 => (b.0.clone(), None, Some(&b.1)),
                    (None, Some(b)) => (b.0.clone(), None, Some(&b.1)),
                    (Some(a), _) => (a.0.clone(), Some(&a.1), None),
                };
                let values = (own_value.map(Vec::as_slice), found_value.map(Vec::as_slice));
                let compared = ComparedKey { family, key: &key, own: values.0, found: values.1 };
                let how = self.difference(table, &compared)?;
                own.skip(&key);
                found.skip(&key);
                comparison.keys += 1;
                if let Some(how) = how {
                    comparison.differences += 1;
                    if comparison.examples.len() < EXAMPLES {
                        comparison.examples.push(StateDifference { family, key, how });
                    }
                }
            }
        }
        Ok(comparison)
    }

    /// The difference between the values of a key, if it is relevant.
    fn difference(
        &self,
        table: Option<&dyn StateTable>,
        key: &ComparedKey<'_>,
    ) -> Result<Option<DifferenceKind>, StoreError> {
        let how = match (key.own, key.found) {
            (own, found) if own == found => return Ok(None),
            (Some(_), None) if self.is_doomed(key) => return Ok(None),
            (Some(_), None) => DifferenceKind::Missing,
            (None, _) => DifferenceKind::Unexpected,
            (Some(_), Some(_)) => DifferenceKind::Different,
        };
        let is_old = match (self.begin, table) {
            (Begin::Begun(position), Some(table)) => {
                let begin = ReplayBegin { position, is_log_begin: position == self.start };
                table.differs_before(begin, key)?
            }
            _ => false,
        };
        Ok((!is_old).then_some(how))
    }

    /// Trims remove ranges of keys before the index's position advances; a crash in between leaves an index without them. That
    /// is no damage: the state machine applies the same record again.
    fn take_later(&mut self, frame: &Frame) -> Result<(), StoreError> {
        let malformed = |source| StoreError::Record { position: frame.position, source };
        let record = Record::decode(frame.kind, frame.body.clone()).map_err(malformed)?;
        if let Record::Trim(trim) = record {
            let ranges = self.state.tables().into_iter().flat_map(|table| table.trimmed_ranges(&trim));
            self.doomed.extend(ranges);
        }
        Ok(())
    }

    fn is_doomed(&self, key: &ComparedKey<'_>) -> bool {
        let mut doomed = self.doomed.iter().filter(|(family, _)| *family == key.family);
        doomed.any(|(_, range)| range.start.as_slice() <= key.key && key.key < range.end.as_slice())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.kv.write(self.state.changes())?;
        self.state.flushed();
        Ok(())
    }
}

/// Position up to which the index in `kv` holds the log; `None` when it is empty, of another format or uncertain behind
/// damage, so that a broker would rebuild it.
///
/// # Errors
/// [`StoreError`] when `kv` cannot be read or holds something malformed.
pub fn applied_of(kv: &dyn Kv) -> Result<Option<u64>, StoreError> {
    let Some(format) = kv.get(KeyFamily::State, keys::FORMAT)? else { return Ok(None) };
    if keys::read_u32(&format, "format")? != FORMAT || kv.get(KeyFamily::State, keys::UNSETTLED)?.is_some() {
        return Ok(None);
    }
    let applied = kv.get(KeyFamily::State, keys::APPLIED)?;
    applied.map(|bytes| keys::read_u64(&bytes, "applied position")).transpose()
}

struct WithoutEntries(MemKv);

impl Kv for WithoutEntries {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(family, key)
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.0.scan(family, from, limit)
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.0.scan_around(family, prefix, at, limit)
    }

    fn write(&self, mut ops: Vec<WriteOp>) -> Result<(), KvError> {
        ops.retain(|op| !matches!(op, WriteOp::Put(KeyFamily::Entries, ..)));
        self.0.write(ops)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.0.persist()
    }
}
