//! Messages of topics with deduplication, and the result of the first of each.
//!
//! The memory follows from the log from its beginning on, and is not part of snapshots, which would become too large. Two
//! rules make an index that is made from a trimmed log decide like the one before:
//!
//! - Messages before the beginning of the log are forgotten. Retention by time waits for the window; when space is
//!   short, the window is cut short.
//! - A record that duplicates another one, which happens only when the two were in flight together, *hangs* on it: the log is
//!   not trimmed between the two. That is why each such pair is recorded.
//!
//! Entries are kept in buckets by time, which are dropped as wholes. A bucket is at least half as long as the window
//! was when it was begun, so that a look-up reads at most three of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kerolox_core::dedup::DedupPolicy;
use kerolox_core::record::TrimRecord;
use kerolox_core::topic::Topic;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp, pairs};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::table::{ComparedKey, QueueId, ReplayBegin, StateTable};

/// The message that others duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstMessage {
    /// Position of the message.
    pub position: u64,
    /// When it was stored, milliseconds since the Unix epoch.
    pub store_ms: i64,
    /// Queue and offset, if it was visible at once.
    pub place: Option<(u32, u64)>,
}

/// A stretch of time whose messages are stored together: 2 to the power of `bits` milliseconds from `start_ms` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bucket {
    pub(super) topic_id: u32,
    pub(super) start_ms: i64,
    pub(super) bits: u8,
}

impl Bucket {
    /// The bucket of a message that is stored at `now_ms`.
    fn of(topic_id: u32, dedup: DedupPolicy, now_ms: i64) -> Self {
        let bits = (dedup.window_ms / 2).unsigned_abs().next_power_of_two().trailing_zeros();
        let start_ms = now_ms >> bits << bits;
        Self { topic_id, start_ms, bits: u8::try_from(bits).expect("at most 64") }
    }

    fn end_ms(self) -> i64 {
        self.start_ms.saturating_add(1 << self.bits)
    }

    /// Whether a message in it can be remembered at `now_ms`.
    fn may_remember(self, dedup: DedupPolicy, now_ms: i64) -> bool {
        self.start_ms < now_ms.saturating_add(dedup.window_ms)
            && self.end_ms() > now_ms.saturating_sub(dedup.window_ms)
    }
}

/// Messages of topics with deduplication, by identity, and records that duplicate others.
pub struct DedupTable {
    kv: Arc<dyn Kv>,
    /// All existing buckets.
    buckets: BTreeSet<Bucket>,
    /// Entries that are not in the store yet.
    new: HashMap<(Bucket, u128), FirstMessage>,
    /// Buckets that were dropped but are still in the store.
    dropped: BTreeSet<Bucket>,
    /// Records that hang on others.
    hanging: Overlay,
}

impl DedupTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self {
            kv: kv.clone(),
            buckets: BTreeSet::new(),
            new: HashMap::new(),
            dropped: BTreeSet::new(),
            hanging: Overlay::new(kv.clone()),
        }
    }

    fn get(&self, bucket: Bucket, hash: u128) -> Result<Option<FirstMessage>, StoreError> {
        if let Some(first) = self.new.get(&(bucket, hash)) {
            return Ok(Some(*first));
        }
        if self.dropped.contains(&bucket) {
            return Ok(None);
        }
        self.kv.get(KeyFamily::Dedup, &keys::dedup(bucket, hash))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// The newest message at or behind `trimmed` that a message with this hash would duplicate if it were stored in the topic
    /// at `now_ms`. Messages for which `is_taken_back` holds do not count.
    pub(super) fn first_of(
        &self,
        topic: &Topic,
        hash: u128,
        now_ms: i64,
        trimmed: u64,
        is_taken_back: impl Fn(&FirstMessage) -> Result<bool, StoreError>,
    ) -> Result<Option<FirstMessage>, StoreError> {
        let Some(dedup) = DedupPolicy::of(topic) else { return Ok(None) };
        let from = Bucket { topic_id: topic.id, start_ms: i64::MIN, bits: 0 };
        let until = Bucket { topic_id: topic.id, start_ms: i64::MAX, bits: u8::MAX };
        let mut newest: Option<FirstMessage> = None;
        for bucket in self.buckets.range(from..=until).filter(|bucket| bucket.may_remember(dedup, now_ms)) {
            if let Some(first) = self.get(*bucket, hash)?
                && first.position >= newest.map_or(trimmed, |newest| newest.position)
                && dedup.remembers(first.store_ms, now_ms)
                && !is_taken_back(&first)?
            {
                newest = Some(first);
            }
        }
        Ok(newest)
    }

    /// Remembers a message that is no duplicate.
    pub(super) fn remember(&mut self, topic: &Topic, hash: u128, first: FirstMessage) {
        let Some(dedup) = DedupPolicy::of(topic) else { return };
        let bucket = Bucket::of(topic.id, dedup, first.store_ms);
        if self.buckets.insert(bucket) {
            let other = |other: &Bucket| other.topic_id == bucket.topic_id;
            self.drop_buckets(|old| other(old) && !old.may_remember(dedup, first.store_ms));
        }
        assert!(self.buckets.contains(&bucket), "the bucket of a message remembers it");
        self.new.insert((bucket, hash), first);
    }

    /// Records that the record at `repeat` duplicates the one at `first`.
    pub(super) fn hang(&mut self, repeat: u64, first: u64) {
        assert!(first < repeat, "a repeat lies behind the first record");
        self.hanging.put(KeyFamily::Dedup, keys::hanging(repeat), first.to_be_bytes().to_vec());
    }

    fn drop_buckets(&mut self, is_over: impl Fn(&Bucket) -> bool) {
        let gone: Vec<Bucket> = self.buckets.iter().filter(|bucket| is_over(bucket)).copied().collect();
        if gone.is_empty() {
            return;
        }
        self.buckets.retain(|bucket| !gone.contains(bucket));
        self.new.retain(|(bucket, _), _| !gone.contains(bucket));
        self.dropped.extend(gone);
    }

    /// Forgets a topic.
    pub(super) fn forget(&mut self, topic_id: u32) {
        self.drop_buckets(|bucket| bucket.topic_id == topic_id);
    }

    /// Whether a record at or behind `before` duplicates one before it: then the log cannot be trimmed there.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn hangs_on(&self, before: u64) -> Result<bool, StoreError> {
        let found = self.hanging()?;
        Ok(found.iter().any(|(repeat, first)| *first < before && before <= *repeat))
    }

    /// Pairs of positions: a duplicate and its first record.
    fn hanging(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        /// A small page: such pairs are rare, for both records have to be in flight together.
        const PAGE: usize = 64;
        let mut found = Vec::new();
        let mut from = keys::hanging(0);
        loop {
            let page = self.hanging.scan(KeyFamily::Dedup, &from, PAGE)?;
            for (key, value) in &page {
                let Some(repeat) = keys::parse_hanging(key) else { return Ok(found) };
                found.push((repeat, keys::read_u64(value, "repeated message")?));
            }
            match page.get(PAGE - 1) {
                Some((last, _)) => from = [last, &[0][..]].concat(),
                None => return Ok(found),
            }
        }
    }
}

impl StateTable for DedupTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Dedup]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let mut from = keys::id(1);
        // One key of each bucket is enough: skip to the next bucket.
        while let Some((key, _)) = self.kv.scan(KeyFamily::Dedup, &from, 1)?.into_iter().next() {
            let (bucket, _) = keys::parse_dedup(&key)?;
            self.buckets.insert(bucket);
            from = keys::dedup(bucket, u128::MAX);
            from.push(0);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.hanging.changes(ops);
        let dropped = self.dropped.iter().map(|bucket| keys::dedup_bucket(*bucket));
        ops.extend(dropped.map(|prefix| WriteOp::DeletePrefix(KeyFamily::Dedup, prefix)));
        let new = self.new.iter();
        ops.extend(new.map(|((bucket, hash), first)| {
            WriteOp::Put(KeyFamily::Dedup, keys::dedup(*bucket, *hash), encode(first))
        }));
    }

    fn flushed(&mut self) {
        self.hanging.clear();
        self.new.clear();
        self.dropped.clear();
    }

    fn pending_len(&self) -> usize {
        self.hanging.len() + self.new.len()
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        self.forget(topic_id);
        Ok(())
    }

    /// Forgets duplicates of records before the position.
    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        for (repeat, first) in self.hanging()? {
            assert!(
                first >= trim.before || repeat < trim.before,
                "the log is not trimmed between a record and one that it made a repeat"
            );
            if repeat < trim.before {
                self.hanging.delete(KeyFamily::Dedup, keys::hanging(repeat));
            }
        }
        Ok(())
    }

    /// Messages before the beginning are not remembered.
    fn differs_before(&self, begin: ReplayBegin, key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        let (None, Some(found)) = (key.own, key.found) else { return Ok(false) };
        // Values of both kinds begin with the position of the first message.
        let first = found.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        Ok(first.is_some_and(|position| position < begin.position))
    }

    fn shift(&mut self, (topic_id, queue): QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.kv.scan(KeyFamily::Dedup, from, limit)) {
            let (key, value) = pair?;
            if key.starts_with(&keys::id(topic_id)) {
                let (bucket, hash) = keys::parse_dedup(&key)?;
                if self.buckets.contains(&bucket) && !self.dropped.contains(&bucket) {
                    self.new.entry((bucket, hash)).or_insert(decode(&value)?);
                }
            }
        }
        let here = self.new.iter_mut().filter(|((bucket, _), _)| bucket.topic_id == topic_id);
        for (at, offset) in here.filter_map(|(_, first)| first.place.as_mut()) {
            if *at == queue && *offset >= from {
                *offset += by;
            }
        }
        Ok(())
    }
}

/// Length of a value without queue and offset.
const HELD_LEN: usize = 16;

fn encode(first: &FirstMessage) -> Vec<u8> {
    let mut bytes = [first.position.to_be_bytes(), first.store_ms.to_be_bytes()].concat();
    if let Some((queue, offset)) = first.place {
        bytes.extend_from_slice(&queue.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<FirstMessage, StoreError> {
    let what = "remembered message";
    let (held, place) = bytes.split_at_checked(HELD_LEN).ok_or_else(|| StoreError::Index(what.to_owned()))?;
    let (position, store_ms) = held.split_at(HELD_LEN / 2);
    let place = match place.split_at_checked(4) {
        None => None,
        Some((queue, offset)) => Some((keys::read_u32(queue, what)?, keys::read_u64(offset, what)?)),
    };
    let store_ms = keys::read_u64(store_ms, what)?.cast_signed();
    Ok(FirstMessage { position: keys::read_u64(position, what)?, store_ms, place })
}
