//! The index: everything that follows from the log, held so that it can be looked up.
//!
//! | family | key (integers big-endian) | value |
//! |---|---|---|
//! | state | name | `applied`, `trimmed`: u64 log position; `unsettled`: u64 position of damage; `joining`: u64 positions of half messages that wait for the last one of their transaction; `format`, `epoch` of the newest record, `next-topic`, `next-group`, `next-lite`, `withheld` permissions: u32; `store-ms`: i64 time of the newest record; `broker`: text |
//! | topics | u32 id | [`kerolox_core::topic::Topic`] |
//! | groups | u32 id | [`kerolox_core::group::Group`] |
//! | queues | u32 topic, u32 queue | u64 min offset, u64 next offset, i64 time of the newest entry |
//! | entries | u32 topic, u32 queue, u64 first offset | 256 entries of 24 bytes, see [`Entry`]; fewer in the pieces of a queue's last block |
//! | halves | u64 position | [`kerolox_core::transaction::Half`] |
//! | half-due | i64 due time (sign bit flipped), u64 position | the same, of undecided ones |
//! | timers | u64 position | [`kerolox_core::timer::Timer`] |
//! | timer-due | i64 due time (sign bit flipped), u64 position | the same, of pending ones |
//! | progress | u32 group, u32 topic, u32 queue | [`kerolox_core::acks::Acks`] |
//! | kept | u32 topic, u32 queue, u64 offset | [`Entry`] of a message whose record was carried forward |
//! | dedup | u32 topic, i64 time (sign bit flipped), u8 bits, u128 hash | u64 position, i64 time, and u32 queue, u64 offset of what was visible at once, see [`dedup`] |
//! | dedup | u32 0, u64 position of a record that repeats another one | u64 position of that one |
//! | audit | u64 position | [`kerolox_core::audit::AuditEntry`], at most [`kerolox_core::audit::AUDIT_MAX`] |
//! | lookups | u32 GiB of the log, u16 bucket, u64 first position | hashes and places of 8 bytes, see [`lookup`] |
//! | moving | u32 topic | [`kerolox_core::slots::Moving`] |
//! | lites | u32 topic, name | [`kerolox_core::record::LiteTopic`] |
//!
//! Format version 3. An index of another version is thrown away and rebuilt from the log.

mod apply;
mod audit;
pub mod check;
mod dead;
mod dedup;
#[cfg(test)]
mod dedup_test;
mod entries;
mod halves;
mod held;
mod keys;
mod lites;
mod lookup;
mod meta;
mod moving;
mod overlay;
mod snapshot;
#[cfg(test)]
mod tests;
mod timers;
mod transactions;
mod trim;
mod unsettled;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kerolox_core::acks::Acks;
use kerolox_core::timer::Timer;
use kerolox_core::transaction::Half;

use crate::error::StoreError;
use crate::kv::{Family, Kv, Op};

pub use apply::{Event, Outcome};
pub use dedup::First;
pub use entries::{BLOCK, Entry, QueueBounds};
pub use lookup::Positions;
pub use trim::ToCarry;
pub use unsettled::Repair;

use dedup::Seen;
use entries::Queues;
use lites::Lites;
use lookup::Lookups;
use meta::Meta;
use moving::MovingTopics;
use overlay::Overlay;
use snapshot::Loading;
use unsettled::Unsettled;

const FORMAT: u32 = 3;

/// The fold's state. One owner applies records; others read under a lock.
pub struct StateMachine {
    kv: Arc<dyn Kv>,
    overlay: Overlay,
    applied: u64,
    trimmed: u64,
    store_ms: i64,
    epoch: u32,
    loading: Loading,
    broker: String,
    meta: Meta,
    queues: Queues,
    lites: Lites,
    moving: MovingTopics,
    lookups: Lookups,
    seen: Seen,
    progress: HashMap<(u32, u32, u32), Progress>,
    /// Positions of half messages that wait for the one whose transaction they belong to: that comes next.
    joining: Vec<u64>,
    /// How to remove from the store what was deleted, with the next flush and not before: the record that deletes may not be
    /// durable yet. Nobody looks there in the meantime, for numbers of topics, groups and lite topics are never given again.
    gone: Vec<Op>,
    /// Transactions by topic that nobody decided.
    undecided: HashMap<u32, u64>,
    /// Messages that wait for their delivery time, by topic.
    scheduled: HashMap<u32, u64>,
    /// Damage was met since the last snapshot.
    unsettled: Option<Unsettled>,
    /// Positions of the audit trail's entries.
    audited: BTreeSet<u64>,
    repairs: Vec<Repair>,
}

struct Progress {
    acks: Acks,
    dirty: bool,
}

impl StateMachine {
    /// Loads the index from `kv`; an empty one, one of another format, and one that was left while it was uncertain behind
    /// damage start from nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn load(kv: Arc<dyn Kv>) -> Result<Self, StoreError> {
        let format = kv.get(Family::State, keys::FORMAT)?.map(|bytes| keys::read_u32(&bytes, "format"));
        let is_unsettled = kv.get(Family::State, keys::UNSETTLED)?.is_some();
        if format.transpose()? != Some(FORMAT) || is_unsettled {
            return Self::empty(kv);
        }
        let state = |key: &[u8]| {
            kv.get(Family::State, key)?
                .ok_or_else(|| StoreError::Index(String::from_utf8_lossy(key).into_owned()))
        };
        let applied = keys::read_u64(&state(keys::APPLIED)?, "applied position")?;
        let trimmed = keys::read_u64(&state(keys::TRIMMED)?, "trimmed position")?;
        // An index from before this key was kept knows no time; the next record brings one.
        let store_ms = match kv.get(Family::State, keys::STORE_MS)? {
            Some(bytes) => keys::read_u64(&bytes, "store time")?.cast_signed(),
            None => 0,
        };
        // Nor the epoch: it was always the first one.
        let epoch = match kv.get(Family::State, keys::EPOCH)? {
            Some(bytes) => keys::read_u32(&bytes, "epoch")?,
            None => 1,
        };
        let broker = String::from_utf8_lossy(&state(keys::BROKER)?).into_owned();
        let meta = Meta::load(&*kv)?;
        let queues = Queues::load(&*kv)?;
        let lites = Lites::load(&*kv, queues.names())?;
        let moving = MovingTopics::load(&*kv)?;
        let joining = kv.get(Family::State, keys::JOINING)?.unwrap_or_default();
        let joining = joining.chunks(8).map(|position| keys::read_u64(position, "joining"));
        let joining = joining.collect::<Result<_, _>>()?;
        let seen = Seen::load(&*kv)?;
        let mut index = Self {
            overlay: Overlay::new(kv.clone()),
            kv,
            applied,
            trimmed,
            store_ms,
            epoch,
            loading: Loading::Never,
            broker,
            meta,
            queues,
            lites,
            moving,
            lookups: Lookups::default(),
            seen,
            progress: HashMap::new(),
            joining,
            gone: Vec::new(),
            undecided: HashMap::new(),
            scheduled: HashMap::new(),
            unsettled: None,
            audited: BTreeSet::new(),
            repairs: Vec::new(),
        };
        index.count_open::<Half>()?;
        index.count_open::<Timer>()?;
        index.load_audited()?;
        Ok(index)
    }

    /// Throws away whatever `kv` holds.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn empty(kv: Arc<dyn Kv>) -> Result<Self, StoreError> {
        kv.write(Family::ALL.map(|family| Op::DeletePrefix(family, Vec::new())).to_vec())?;
        Ok(Self {
            overlay: Overlay::new(kv.clone()),
            kv,
            applied: 0,
            trimmed: 0,
            store_ms: 0,
            epoch: 0,
            loading: Loading::Blank,
            broker: String::new(),
            meta: Meta::default(),
            queues: Queues::default(),
            lites: Lites::default(),
            moving: MovingTopics::default(),
            lookups: Lookups::default(),
            seen: Seen::default(),
            progress: HashMap::new(),
            joining: Vec::new(),
            gone: Vec::new(),
            undecided: HashMap::new(),
            scheduled: HashMap::new(),
            unsettled: None,
            audited: BTreeSet::new(),
            repairs: Vec::new(),
        })
    }

    /// Everything before this log position is in the index.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Store time of the newest record applied, milliseconds since the Unix epoch.
    pub fn store_ms(&self) -> i64 {
        self.store_ms
    }

    /// Epoch of the newest record applied; 0 when there was none.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Broker group that the log belongs to; empty before the first record.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// What a group has finished in a queue, what expired included; `None` if it never finished or failed anything there.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn acks(&self, group_id: u32, topic_id: u32, queue: u32) -> Result<Option<Acks>, StoreError> {
        let mut acks = self.logged_acks(group_id, topic_id, queue)?;
        if let Some(acks) = &mut acks {
            acks.expire_below(self.queues.bounds(topic_id, queue).min);
        }
        Ok(acks)
    }

    /// The ids of the topics in which a group finished or failed anything, or was given an offset.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn topics_of(&self, group_id: u32) -> Result<BTreeSet<u32>, StoreError> {
        let here = self.progress.keys().filter(|(group, _, _)| *group == group_id);
        let mut topics: BTreeSet<u32> = here.map(|(_, topic, _)| *topic).collect();
        let prefix = keys::id(group_id);
        let mut from = prefix.clone();
        // One key of each topic is enough: on to the next topic.
        while let Some((key, _)) = self.kv.scan(Family::Progress, &from, 1)?.into_iter().next()
            && key.starts_with(&prefix)
        {
            let topic = keys::read_u32(&key[4..8], "progress")?;
            topics.insert(topic);
            let Some(next) = topic.checked_add(1) else { break };
            from = keys::queue(group_id, next);
        }
        topics.retain(|topic| self.topic_by_id(*topic).is_some());
        Ok(topics)
    }

    /// What the log says that a group has finished in a queue.
    fn logged_acks(&self, group_id: u32, topic_id: u32, queue: u32) -> Result<Option<Acks>, StoreError> {
        if let Some(progress) = self.progress.get(&(group_id, topic_id, queue)) {
            return Ok(Some(progress.acks.clone()));
        }
        if self.is_progress_gone((group_id, topic_id, queue)) {
            return Ok(None);
        }
        let key = keys::progress(group_id, topic_id, queue);
        let stored = self.kv.get(Family::Progress, &key)?;
        stored.map(|bytes| decode_acks(&bytes)).transpose()
    }

    /// Changes since the last flush, to be written as one batch; then call [`Self::flushed`]. In between nothing may
    /// be applied.
    pub fn pending(&self) -> Vec<Op> {
        let mut ops = self.gone.clone();
        ops.extend(self.overlay.ops());
        self.queues.pending(&mut ops);
        self.lookups.pending(&mut ops);
        self.seen.pending(&mut ops);
        self.moving.pending(&mut ops);
        for ((group_id, topic_id, queue), progress) in self.progress.iter().filter(|(_, p)| p.dirty) {
            let key = keys::progress(*group_id, *topic_id, *queue);
            ops.push(Op::Put(Family::Progress, key, progress.acks.encode()));
        }
        if self.unsettled.is_none() {
            ops.push(Op::Delete(Family::State, keys::UNSETTLED.to_vec()));
        }
        // Absent as long as nothing is withheld, as in older indexes.
        ops.push(match self.meta.withheld {
            0 => Op::Delete(Family::State, keys::WITHHELD.to_vec()),
            perm => Op::Put(Family::State, keys::WITHHELD.to_vec(), perm.to_be_bytes().to_vec()),
        });
        let mut state = |key: &[u8], value: Vec<u8>| ops.push(Op::Put(Family::State, key.to_vec(), value));
        state(keys::FORMAT, FORMAT.to_be_bytes().to_vec());
        state(keys::APPLIED, self.applied.to_be_bytes().to_vec());
        state(keys::STORE_MS, self.store_ms.to_be_bytes().to_vec());
        state(keys::EPOCH, self.epoch.to_be_bytes().to_vec());
        state(keys::TRIMMED, self.trimmed.to_be_bytes().to_vec());
        state(keys::BROKER, self.broker.clone().into_bytes());
        state(keys::NEXT_TOPIC, self.meta.next_topic.to_be_bytes().to_vec());
        state(keys::NEXT_GROUP, self.meta.next_group.to_be_bytes().to_vec());
        state(keys::NEXT_LITE, self.lites.next.to_be_bytes().to_vec());
        state(keys::JOINING, self.joining.iter().flat_map(|position| position.to_be_bytes()).collect());
        ops
    }

    /// What [`Self::pending`] returned is in the store.
    pub fn flushed(&mut self) {
        self.gone.clear();
        self.overlay.clear();
        self.queues.flushed();
        self.lookups.flushed();
        self.seen.flushed();
        self.moving.flushed();
        // Progress that is clean can be read back; keeping it only for what is in use bounds memory by activity.
        self.progress.retain(|_, progress| std::mem::take(&mut progress.dirty));
    }

    /// Roughly how much waits to be flushed, in keys.
    pub fn pending_len(&self) -> usize {
        if matches!(self.loading, Loading::Part(_)) {
            // Half of a snapshot is no state to start from.
            return 0;
        }
        self.gone.len()
            + self.overlay.len()
            + self.queues.dirty_len()
            + self.lookups.dirty_len()
            + self.seen.dirty_len()
            + self.moving.dirty_len()
    }
}

impl StateMachine {
    /// Whether progress in the store is of a group, topic or lite topic that was deleted.
    fn is_progress_gone(&self, (group_id, topic_id, queue): (u32, u32, u32)) -> bool {
        let is_group_gone = group_id != dead::REDRIVEN && !self.meta.group_ids.contains(&group_id);
        // Behind damage, what made them may be what is missing.
        !self.is_unsettled()
            && (is_group_gone || self.topic_by_id(topic_id).is_none() || self.is_lite_gone(topic_id, queue))
    }
}

fn decode_acks(bytes: &[u8]) -> Result<Acks, StoreError> {
    Acks::decode(bytes).map_err(|error| StoreError::Index(format!("progress: {error}")))
}
