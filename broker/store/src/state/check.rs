//! Applying a log once more, to see whether an index is what it should be.
//!
//! A log whose old segments were given up is applied from its first whole snapshot on. What lies before that, an index that
//! was there all the time may still know: entries below the offsets that the snapshot begins with, and transactions that
//! ended before it. That is out of scope, everything else must be equal.

use std::sync::Arc;

use kerolox_core::record::Record;
use kerolox_core::timer::ScheduledMessage;
use kerolox_core::transaction::HalfMessage;
use kerolox_log::{DamagedRange, Frame};

use super::pieces::{self, ENTRY_LEN};
use super::queues::decode_bounds;
use super::{FORMAT, QueueBounds, QueueRepair, StateMachine, dedup, held, keys, lookup};
use crate::error::StoreError;
use crate::kv::{Family, Kv, KvError, MemKv, Op, Pair};

/// Changed keys that are kept apart before they are moved to the map.
const FLUSH_KEYS: usize = 50_000;
/// They are counted once in so many records.
const RECORDS_PER_COUNT: u64 = 64;
/// Differences that are described; the others are counted.
const EXAMPLES: usize = 20;
const PAGE: usize = 1024;

/// An index in memory, made from the records of a log.
pub struct LogReplay {
    state: StateMachine,
    kv: Arc<dyn Kv>,
    until: u64,
    doomed: Vec<Doomed>,
    begin: Begin,
    /// Position of the first record of the log.
    start: u64,
    /// Records that were applied.
    taken: u64,
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// With the first record of all.
    Whole,
    /// With a snapshot that has not come yet.
    Waiting,
    /// With the snapshot that began at this position and may not be whole.
    Snapshot(u64),
    /// With the whole snapshot that began at this position.
    Begun(u64),
}

/// Keys that a record behind the index's position removes.
struct Doomed {
    family: Family,
    prefix: Vec<u8>,
    /// Only keys before this one.
    before: Option<Vec<u8>>,
}

/// Where an index differs from what follows from the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Keys compared.
    pub keys: u64,
    /// Keys that differ.
    pub differences: u64,
    /// The first of them.
    pub examples: Vec<Difference>,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Family of the key.
    pub family: Family,
    /// The key.
    pub key: Vec<u8>,
    /// How it differs.
    pub how: How,
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Follows from the log, and is not in the index.
    Missing,
    /// Is in the index, and does not follow from the log.
    Unexpected,
    /// Has another value than the one that follows from the log.
    Different,
}

impl LogReplay {
    /// A replay of the records before log position `until`. It takes some 30 bytes of memory per message, and 10 for each key.
    pub fn until(until: u64) -> Self {
        Self::new(Arc::new(MemKv::default()), until, Begin::Whole)
    }

    /// The same for a log whose first record lies at `start`, because what was before it was given up. Records before the
    /// first whole snapshot are skipped.
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

    /// Where the state machine began: 0, or the position of the snapshot that it took up; `None` when there was none.
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
    /// [`StoreError::Record`] when the record cannot be understood: a broker cannot be started on this log.
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

    /// Whether a record lies before the first whole snapshot. Follows the parts of that, and forgets one that is not whole.
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

    /// The next record lies behind damage.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn pass_damage(&mut self, range: &DamagedRange) -> Result<(), StoreError> {
        if range.position < self.until && self.begin().is_some() {
            self.state.pass_damage(range)?;
        }
        Ok(())
    }

    /// What an index suffers that is made from this log, as far as it is not what it was before.
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
    pub fn compare(&mut self, other: &dyn Kv) -> Result<Comparison, StoreError> {
        self.flush()?;
        let mut comparison = Comparison::default();
        for family in Family::ALL {
            let (mut own, mut found) = (Scan::new(&*self.kv, family), Scan::new(other, family));
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
                let how = self.difference(family, &key, own_value, found_value)?;
                own.skip(&key);
                found.skip(&key);
                comparison.keys += 1;
                if let Some(how) = how {
                    comparison.differences += 1;
                    if comparison.examples.len() < EXAMPLES {
                        comparison.examples.push(Difference { family, key, how });
                    }
                }
            }
        }
        Ok(comparison)
    }

    /// How the values of a key differ, as far as that says something.
    fn difference(
        &self,
        family: Family,
        key: &[u8],
        own: Option<&Vec<u8>>,
        found: Option<&Vec<u8>>,
    ) -> Result<Option<How>, StoreError> {
        let how = match (own, found) {
            (own, found) if own == found => return Ok(None),
            (Some(_), None) if self.is_doomed(family, key) => return Ok(None),
            (Some(_), None) => How::Missing,
            (None, _) => How::Unexpected,
            (Some(_), Some(_)) => How::Different,
        };
        let is_old = match self.begin {
            Begin::Begun(begin) => self.is_before(begin, family, key, own, found)?,
            _ => false,
        };
        Ok((!is_old).then_some(how))
    }

    /// Whether a difference lies in what went before the beginning of the state machine.
    fn is_before(
        &self,
        begin: u64,
        family: Family,
        key: &[u8],
        own: Option<&Vec<u8>>,
        found: Option<&Vec<u8>>,
    ) -> Result<bool, StoreError> {
        match (family, own, found) {
            (Family::Entries, own, found) => {
                let (topic_id, queue, first) = keys::parse_block(key)?;
                let bounds = self.state.queues.bounds(topic_id, queue);
                let readable = (first + pieces::BLOCK).min(bounds.next).saturating_sub(bounds.min.max(first));
                let len = usize::try_from(readable).expect("at most a block") * ENTRY_LEN;
                // A block ends with its newest entry; where it begins depends on what was there when it was stored.
                let kept = |block: Option<&Vec<u8>>| {
                    let bytes = block.map_or(&[][..], Vec::as_slice);
                    bytes.len().checked_sub(len).map(|at| bytes[at..].to_vec())
                };
                Ok(kept(own).is_some_and(|own| kept(found) == Some(own)))
            }
            (Family::Lookups, own, found) => {
                let kept = |bucket: Option<&Vec<u8>>| {
                    bucket.map_or_else(Vec::new, |bytes| lookup::since(key, bytes, begin))
                };
                Ok(kept(own) == kept(found))
            }
            // The first snapshot that was whole is not the one that the log begins with: its queues begin too late.
            (Family::Queues, Some(own), Some(found)) if begin != self.start => {
                let (own, found) = (decode_bounds(own)?, decode_bounds(found)?);
                Ok(found.min <= own.min && QueueBounds { min: own.min, ..found } == own)
            }
            (Family::Dedup, None, Some(found)) => {
                Ok(dedup::first_position(found).is_some_and(|position| position < begin))
            }
            (Family::Halves, None, Some(found)) => held::is_over::<HalfMessage>(found, begin),
            (Family::Timers, None, Some(found)) => held::is_over::<ScheduledMessage>(found, begin),
            _ => Ok(false),
        }
    }

    /// Trims remove ranges of keys before the index's position moves on; a crash in between leaves an index without them. That
    /// is no damage: the state machine meets the same record again.
    fn take_later(&mut self, frame: &Frame) -> Result<(), StoreError> {
        let malformed = |source| StoreError::Record { position: frame.position, source };
        let record = Record::decode(frame.kind, frame.body.clone()).map_err(malformed)?;
        if let Record::Trim(trim) = record {
            let before = lookup::first_key(trim.before);
            self.doom(Family::Lookups, Vec::new(), Some(before));
            for state in trim.queues {
                let before = keys::block(state.topic_id, state.queue, state.next);
                self.doom(Family::Entries, keys::queue(state.topic_id, state.queue), Some(before));
            }
        }
        Ok(())
    }

    fn doom(&mut self, family: Family, prefix: Vec<u8>, before: Option<Vec<u8>>) {
        self.doomed.push(Doomed { family, prefix, before });
    }

    fn is_doomed(&self, family: Family, key: &[u8]) -> bool {
        self.doomed.iter().any(|doomed| {
            doomed.family == family
                && key.starts_with(&doomed.prefix)
                && doomed.before.as_deref().is_none_or(|before| key < before)
        })
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.kv.write(self.state.changes())?;
        self.state.flushed();
        Ok(())
    }
}

/// Up to where the index in `kv` holds the log; `None` when it is empty, of another format or uncertain behind damage, and
/// a broker would make it anew.
///
/// # Errors
/// [`StoreError`] when `kv` cannot be read or holds something malformed.
pub fn applied_of(kv: &dyn Kv) -> Result<Option<u64>, StoreError> {
    let Some(format) = kv.get(Family::State, keys::FORMAT)? else { return Ok(None) };
    if keys::read_u32(&format, "format")? != FORMAT || kv.get(Family::State, keys::UNSETTLED)?.is_some() {
        return Ok(None);
    }
    let applied = kv.get(Family::State, keys::APPLIED)?;
    applied.map(|bytes| keys::read_u64(&bytes, "applied position")).transpose()
}

/// All pairs of a family, read a page at a time. Pairs that are apart only because a flush came in between are one here.
struct Scan<'a> {
    kv: &'a dyn Kv,
    family: Family,
    page: std::vec::IntoIter<Pair>,
    next: Option<Vec<u8>>,
    current: Option<Pair>,
}

impl<'a> Scan<'a> {
    fn new(kv: &'a dyn Kv, family: Family) -> Self {
        Self { kv, family, page: Vec::new().into_iter(), next: Some(Vec::new()), current: None }
    }

    /// Makes sure that there is a current pair, if there are any left.
    fn fill(&mut self) -> Result<(), KvError> {
        if self.current.is_some() {
            return Ok(());
        }
        self.read_page()?;
        let Some((key, piece)) = self.page.next() else { return Ok(()) };
        let mut value = plain_of(self.family, piece);
        let whole = whole_of(self.family, key);
        loop {
            self.read_page()?;
            match self.page.as_slice().first() {
                Some((next, _)) if whole_of(self.family, next.clone()) == whole => {
                    value.extend(plain_of(self.family, self.page.next().expect("looked at").1));
                }
                _ => break,
            }
        }
        self.current = Some((whole, value));
        Ok(())
    }

    fn read_page(&mut self) -> Result<(), KvError> {
        if self.page.as_slice().is_empty()
            && let Some(from) = self.next.take()
        {
            let page = self.kv.scan(self.family, &from, PAGE)?;
            // The smallest key behind the last one.
            self.next = page.last().map(|(key, _)| [key, &[0][..]].concat());
            self.page = page.into_iter();
        }
        Ok(())
    }

    fn peek(&self) -> Option<&Pair> {
        self.current.as_ref()
    }

    fn skip(&mut self, key: &[u8]) {
        if self.peek().is_some_and(|(own, _)| own == key) {
            self.current = None;
        }
    }
}

/// A value in a form that shows no borders between pieces.
fn plain_of(family: Family, value: Vec<u8>) -> Vec<u8> {
    if family == Family::Entries { pieces::plain(value) } else { value }
}

/// The key that stands for everything that `key` holds a piece of.
fn whole_of(family: Family, key: Vec<u8>) -> Vec<u8> {
    match family {
        Family::Entries => pieces::block_key(&key).unwrap_or(key),
        Family::Lookups => lookup::bucket_key(&key).unwrap_or(key),
        _ => key,
    }
}

struct WithoutEntries(MemKv);

impl Kv for WithoutEntries {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.0.scan(family, from, limit)
    }

    fn scan_around(
        &self,
        family: Family,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, KvError> {
        self.0.scan_around(family, prefix, at, limit)
    }

    fn write(&self, mut ops: Vec<Op>) -> Result<(), KvError> {
        ops.retain(|op| !matches!(op, Op::Put(Family::Entries, ..)));
        self.0.write(ops)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.0.persist()
    }
}
