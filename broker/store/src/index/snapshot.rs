//! The fold's state as records: what a segment begins with, so that an index can be rebuilt without what came before.

use std::collections::BTreeMap;

use kerolox_core::acks::Acks;
use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::record::{GroupProgress, HeldHalf, HeldTimer, KeptMessage, QueueState, SnapshotRecord};
use kerolox_core::transaction::Half;
use prost::Message;

use crate::error::StoreError;
use crate::index::{Index, Progress, decode_acks, keys};
use crate::kv::{Family, pairs};

/// A part is closed when it reaches this size, so that a snapshot of a big broker does not become one huge record.
const PART_BYTES: usize = 1 << 20;

/// What an index takes from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loading {
    /// Nothing was applied yet: a snapshot is taken up.
    Blank,
    /// The part of this number comes next.
    Part(u32),
    /// The index has a state of its own: snapshots are skipped.
    Never,
}

/// Cuts the state into parts.
struct Parts {
    done: Vec<SnapshotRecord>,
    current: SnapshotRecord,
    bytes: usize,
}

impl Parts {
    fn new(current: SnapshotRecord) -> Self {
        let bytes = current.encoded_len();
        Self { done: Vec::new(), current, bytes }
    }

    /// Puts an item of `len` bytes into a list of the current part.
    fn push<T>(&mut self, len: usize, item: T, list: impl FnOnce(&mut SnapshotRecord) -> &mut Vec<T>) {
        if self.bytes + len > PART_BYTES {
            let next = SnapshotRecord { part: self.current.part + 1, ..SnapshotRecord::default() };
            self.done.push(std::mem::replace(&mut self.current, next));
            self.bytes = 0;
        }
        self.bytes += len;
        list(&mut self.current).push(item);
    }

    fn finish(mut self) -> Vec<SnapshotRecord> {
        self.current.last = true;
        self.done.push(self.current);
        self.done
    }
}

impl Index {
    /// The state after everything applied so far, in parts for one record each.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn snapshot(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut parts = Parts::new(SnapshotRecord {
            broker: self.broker.clone(),
            next_topic: self.meta.next_topic,
            next_group: self.meta.next_group,
            // Absent before the first one: logs without lite topics look as they always did.
            next_lite: if self.lites.next == FIRST_LITE_QUEUE { 0 } else { self.lites.next },
            ..SnapshotRecord::default()
        });
        for topic in self.topics() {
            parts.push(topic.encoded_len() + 8, (*topic).clone(), |part| &mut part.topics);
        }
        for group in self.groups() {
            parts.push(group.encoded_len() + 8, (*group).clone(), |part| &mut part.groups);
        }
        for state in self.queues.states() {
            parts.push(state.encoded_len() + 8, state, |part| &mut part.queues);
        }
        for ((group_id, topic_id, queue), acks) in self.all_progress()? {
            let progress = GroupProgress { group_id, topic_id, queue, acks: acks.encode() };
            parts.push(progress.encoded_len() + 8, progress, |part| &mut part.progress);
        }
        self.each_open(|position, half: Half| {
            // What it waits for would have been stored next to it.
            if half.joins && half.leader == 0 {
                return;
            }
            let held = HeldHalf { position, half };
            parts.push(held.encoded_len() + 8, held, |part| &mut part.halves);
        })?;
        self.each_open(|position, timer| {
            let held = HeldTimer { position, timer };
            parts.push(held.encoded_len() + 8, held, |part| &mut part.timers);
        })?;
        for lite in self.all_lites()? {
            parts.push(lite.encoded_len() + 8, lite, |part| &mut part.lites);
        }
        for moving in self.moving.all() {
            parts.push(moving.encoded_len() + 8, moving, |part| &mut part.moving);
        }
        for kept in self.all_kept()? {
            parts.push(kept.encoded_len() + 8, kept, |part| &mut part.kept);
        }
        for audited in self.all_audited()? {
            parts.push(audited.encoded_len() + 8, audited, |part| &mut part.audit);
        }
        Ok(parts.finish())
    }

    /// Whether this part of a snapshot would be taken up.
    pub(super) fn expects_part(&self, part: u32) -> bool {
        match self.loading {
            Loading::Blank => part == 0,
            Loading::Part(next) => part == next,
            Loading::Never => false,
        }
    }

    /// Takes up one part, if this index starts from nothing or is uncertain behind damage.
    pub(super) fn apply_snapshot(&mut self, part: SnapshotRecord) -> Result<(), StoreError> {
        if self.is_unsettled() {
            return self.collect_snapshot(part);
        }
        let expected = match self.loading {
            Loading::Blank => 0,
            Loading::Part(number) => number,
            Loading::Never => return Ok(()),
        };
        if part.part != expected {
            return Err(StoreError::Index(format!("snapshot: part {} follows part {expected}", part.part)));
        }
        if part.part == 0 {
            self.broker = part.broker;
            self.meta.next_topic = part.next_topic;
            self.meta.next_group = part.next_group;
            self.lites.next = self.lites.next.max(part.next_lite);
        }
        for topic in part.topics {
            self.overlay.put(Family::Topics, keys::id(topic.id), topic.encode_to_vec());
            self.meta.insert_topic(topic);
        }
        for group in part.groups {
            self.overlay.put(Family::Groups, keys::id(group.id), group.encode_to_vec());
            self.meta.insert_group(group);
        }
        for state in &part.queues {
            self.queues.restore(state);
        }
        for progress in part.progress {
            let acks = Acks::decode(&progress.acks)
                .map_err(|error| StoreError::Index(format!("snapshot: {error}")))?;
            let key = (progress.group_id, progress.topic_id, progress.queue);
            self.progress.insert(key, Progress { acks, dirty: true });
        }
        for held in part.halves {
            self.put_held(held.position, None, &held.half);
        }
        for held in part.timers {
            self.put_held(held.position, None, &held.timer);
        }
        part.moving.into_iter().for_each(|moving| self.moving.restore(moving));
        for kept in part.kept {
            self.put_kept(&kept);
        }
        for audited in &part.audit {
            self.put_audited(audited);
        }
        part.lites.iter().for_each(|lite| self.restore_lite(lite));
        if part.last {
            self.count_lites();
        }
        self.loading = if part.last { Loading::Never } else { Loading::Part(expected + 1) };
        Ok(())
    }

    /// Progress of all groups, as it is in memory or in the store.
    pub(super) fn all_progress(&self) -> Result<BTreeMap<(u32, u32, u32), Acks>, StoreError> {
        let mut all = BTreeMap::new();
        for pair in pairs(|from, limit| self.kv.scan(Family::Progress, from, limit)) {
            let (key, value) = pair?;
            all.insert(keys::parse_progress(&key)?, decode_acks(&value)?);
        }
        all.extend(self.progress.iter().map(|(key, progress)| (*key, progress.acks.clone())));
        Ok(all)
    }

    pub(super) fn all_kept(&self) -> Result<Vec<KeptMessage>, StoreError> {
        let mut all = Vec::new();
        self.each_kept(|kept| all.push(kept))?;
        Ok(all)
    }
}

/// The state of a queue for a snapshot.
pub(super) fn queue_state(topic_id: u32, queue: u32, next: u64, newest_ms: i64) -> QueueState {
    QueueState { topic_id, queue, next, newest_ms }
}
