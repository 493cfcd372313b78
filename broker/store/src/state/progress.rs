//! Progress of consumer groups.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kerolox_core::acks::QueueAcks;
use kerolox_core::lite::{FIRST_LITE_QUEUE, LAST_LITE_QUEUE};
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{GroupProgress, SnapshotRecord};

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp, pairs};
use crate::state::keys;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::{QueueId, StateTable};

/// Number of no group (group numbers begin with 1): its progress in a dead-letter topic marks the dead letters that
/// went back.
pub(super) const REDRIVEN: u32 = 0;

/// A group and a queue in which it consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProgressId {
    pub(super) group_id: u32,
    pub(super) topic_id: u32,
    pub(super) queue: u32,
}

/// The progress of each group in each queue. Recent changes are in memory: those since the flush before the last one.
pub struct ProgressTable {
    kv: Arc<dyn Kv>,
    recent: HashMap<ProgressId, RecentProgress>,
    /// Number of entries that are not in the store yet.
    dirty: usize,
    gone: GoneProgress,
}

struct RecentProgress {
    acks: QueueAcks,
    is_dirty: bool,
}

/// Deleted progress that is still in the store: the deleting record may not be durable yet.
#[derive(Default)]
struct GoneProgress {
    groups: HashSet<u32>,
    topics: HashSet<u32>,
    queues: HashSet<QueueId>,
    /// Changes that remove it.
    ops: Vec<WriteOp>,
}

impl GoneProgress {
    fn has(&self, id: ProgressId) -> bool {
        !self.ops.is_empty()
            && (self.groups.contains(&id.group_id)
                || self.topics.contains(&id.topic_id)
                || self.queues.contains(&(id.topic_id, id.queue)))
    }
}

impl ProgressTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { kv: kv.clone(), recent: HashMap::new(), dirty: 0, gone: GoneProgress::default() }
    }

    /// The logged progress of a group in a queue, without messages that expired since.
    pub(super) fn logged(&self, id: ProgressId) -> Result<Option<QueueAcks>, StoreError> {
        if let Some(progress) = self.recent.get(&id) {
            return Ok(Some(progress.acks.clone()));
        }
        if self.gone.has(id) {
            return Ok(None);
        }
        let stored = self.kv.get(KeyFamily::Progress, &keys::progress(id))?;
        stored.map(|bytes| decode(&bytes)).transpose()
    }

    /// Whether a dead letter went back to its group.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn is_redriven(&self, topic_id: u32, queue: u32, offset: u64) -> Result<bool, StoreError> {
        let id = ProgressId { group_id: REDRIVEN, topic_id, queue };
        Ok(self.logged(id)?.is_some_and(|acks| acks.is_done(QueueOffset::new(offset))))
    }

    /// The ids of the topics in which a group finished or failed a message, or got an offset.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn topics_of(&self, group_id: u32) -> Result<BTreeSet<u32>, StoreError> {
        let mut topics = BTreeSet::new();
        let prefix = keys::id(group_id);
        let mut from = prefix.clone();
        // One key of each topic is enough: skip to the next topic.
        while let Some((key, _)) = self.kv.scan(KeyFamily::Progress, &from, 1)?.into_iter().next()
            && key.starts_with(&prefix)
        {
            let topic = keys::read_u32(&key[4..8], "progress")?;
            topics.insert(topic);
            let Some(next) = topic.checked_add(1) else { break };
            from = keys::queue(group_id, next);
        }
        topics.retain(|topic| !self.gone.topics.contains(topic));
        topics.extend(self.recent.keys().filter(|id| id.group_id == group_id).map(|id| id.topic_id));
        Ok(topics)
    }

    /// Progress of a group in lite topics of a parent, by queue, from queue `from` on; about `max` entries, and none only when
    /// there are no more.
    pub(super) fn of_lites(
        &self,
        group_id: u32,
        topic_id: u32,
        from: u32,
        max: usize,
    ) -> Result<BTreeMap<u32, QueueAcks>, StoreError> {
        let from = from.max(FIRST_LITE_QUEUE);
        let key = keys::progress(ProgressId { group_id, topic_id, queue: from });
        let mut page = BTreeMap::new();
        for (key, value) in self.kv.scan(KeyFamily::Progress, &key, max)? {
            let id = keys::parse_progress(&key)?;
            if (id.group_id, id.topic_id) != (group_id, topic_id) {
                break;
            }
            page.insert(id.queue, decode(&value)?);
        }
        let is_full = page.len() == max;
        // Entries in memory behind a full page belong to a later page.
        let last = page.keys().last().copied().filter(|_| is_full).unwrap_or(LAST_LITE_QUEUE);
        let recent = self.recent.iter().filter(|(id, _)| {
            (id.group_id, id.topic_id) == (group_id, topic_id) && (from..=last).contains(&id.queue)
        });
        page.extend(recent.map(|(id, progress)| (id.queue, progress.acks.clone())));
        Ok(page)
    }

    /// Progress of all groups in all queues.
    pub(super) fn all(&self) -> Result<BTreeMap<ProgressId, QueueAcks>, StoreError> {
        let mut all = BTreeMap::new();
        for pair in self.stored_only() {
            let (id, value) = pair?;
            all.insert(id, decode(&value)?);
        }
        all.extend(self.recent.iter().map(|(id, progress)| (*id, progress.acks.clone())));
        Ok(all)
    }

    /// Entries that are only in the store, in stored form.
    fn stored_only(&self) -> impl Iterator<Item = Result<(ProgressId, Vec<u8>), StoreError>> + '_ {
        let stored = pairs(|from, limit| self.kv.scan(KeyFamily::Progress, from, limit));
        let parsed = stored.map(|pair| {
            let (key, value) = pair?;
            Ok((keys::parse_progress(&key)?, value))
        });
        parsed.filter(|pair| {
            pair.as_ref().map_or(true, |(id, _)| !self.recent.contains_key(id) && !self.gone.has(*id))
        })
    }

    /// Replaces the progress of a group in a queue.
    pub(super) fn put(&mut self, id: ProgressId, acks: QueueAcks) {
        let new = RecentProgress { acks, is_dirty: true };
        let old = self.recent.insert(id, new);
        self.dirty += usize::from(old.is_none_or(|old| !old.is_dirty));
        assert!(self.dirty <= self.recent.len(), "unstored progress is in memory");
    }

    /// Changes the progress of a group in a queue.
    pub(super) fn change(
        &mut self,
        id: ProgressId,
        change: impl FnOnce(&mut QueueAcks),
    ) -> Result<(), StoreError> {
        let mut acks = self.logged(id)?.unwrap_or_default();
        change(&mut acks);
        self.put(id, acks);
        Ok(())
    }

    /// Reopens offsets of a queue for all groups whose progress is in memory.
    pub(super) fn reopen_recent(&mut self, queue: QueueId, first: u64, end: u64) {
        let here = self.recent.iter_mut().filter(|(id, _)| (id.topic_id, id.queue) == queue);
        here.for_each(|(_, progress)| progress.acks.reopen(QueueOffset::new(first), QueueOffset::new(end)));
    }

    fn forget(&mut self, is_gone: impl Fn(&ProgressId) -> bool) {
        let mut dirty = 0;
        self.recent.retain(|id, progress| {
            let stays = !is_gone(id);
            dirty += usize::from(!stays && progress.is_dirty);
            stays
        });
        self.dirty = self.dirty.checked_sub(dirty).expect("removed entries were counted when they came");
    }

    /// Groups among these ids that have progress in a topic.
    fn groups_in(&self, topic_id: u32, group_ids: &[u32]) -> Result<BTreeSet<u32>, StoreError> {
        let recent = self.recent.keys().filter(|id| id.topic_id == topic_id);
        let mut groups: BTreeSet<u32> = recent.map(|id| id.group_id).collect();
        for group_id in group_ids {
            let prefix = keys::queue(*group_id, topic_id);
            let found = self.kv.scan(KeyFamily::Progress, &prefix, 1)?;
            if found.first().is_some_and(|(key, _)| key.starts_with(&prefix)) {
                groups.insert(*group_id);
            }
        }
        Ok(groups)
    }
}

impl StateTable for ProgressTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Progress]
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        let item = |id: ProgressId, acks| {
            let ProgressId { group_id, topic_id, queue } = id;
            GroupProgress { group_id, topic_id, queue, acks }
        };
        for pair in self.stored_only() {
            let (id, acks) = pair?;
            lists.message(tag::PROGRESS, &item(id, acks));
        }
        let mut recent: Vec<_> = self.recent.iter().collect();
        recent.sort_unstable_by_key(|(id, _)| **id);
        for (id, progress) in recent {
            lists.message(tag::PROGRESS, &item(*id, progress.acks.encode()));
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        // At once: the store is marked uncertain meanwhile, so no start uses it in this state.
        self.kv.write(vec![WriteOp::DeletePrefix(KeyFamily::Progress, Vec::new())])?;
        self.recent.clear();
        self.dirty = 0;
        self.gone = GoneProgress::default();
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        for GroupProgress { group_id, topic_id, queue, acks } in part.progress.drain(..) {
            let acks =
                QueueAcks::decode(&acks).map_err(|error| StoreError::Index(format!("snapshot: {error}")))?;
            self.put(ProgressId { group_id, topic_id, queue }, acks);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        ops.extend(self.gone.ops.iter().cloned());
        for (id, progress) in self.recent.iter().filter(|(_, progress)| progress.is_dirty) {
            ops.push(WriteOp::Put(KeyFamily::Progress, keys::progress(*id), progress.acks.encode()));
        }
    }

    fn flushed(&mut self) {
        self.gone = GoneProgress::default();
        self.dirty = 0;
        // Clean entries can be read back; keeping only those in use bounds memory by activity.
        self.recent.retain(|_, progress| std::mem::take(&mut progress.is_dirty));
    }

    fn pending_len(&self) -> usize {
        self.gone.ops.len() + self.dirty
    }

    fn drop_topic(&mut self, topic_id: u32, group_ids: &[u32]) -> Result<(), StoreError> {
        self.forget(|id| id.topic_id == topic_id);
        self.gone.topics.insert(topic_id);
        let groups = group_ids.iter().chain([&REDRIVEN]);
        let prefixes = groups.map(|group_id| keys::queue(*group_id, topic_id));
        self.gone.ops.extend(prefixes.map(|prefix| WriteOp::DeletePrefix(KeyFamily::Progress, prefix)));
        Ok(())
    }

    fn drop_queues(&mut self, topic_id: u32, queues: &[u32], group_ids: &[u32]) -> Result<(), StoreError> {
        let groups = self.groups_in(topic_id, group_ids)?;
        let queues: HashSet<u32> = queues.iter().copied().collect();
        self.forget(|id| id.topic_id == topic_id && queues.contains(&id.queue));
        for queue in queues {
            self.gone.queues.insert((topic_id, queue));
            let id = |group_id: &u32| ProgressId { group_id: *group_id, topic_id, queue };
            let keys = groups.iter().map(|group_id| keys::progress(id(group_id)));
            self.gone.ops.extend(keys.map(|key| WriteOp::Delete(KeyFamily::Progress, key)));
        }
        Ok(())
    }

    fn drop_group(&mut self, group_id: u32) {
        self.forget(|id| id.group_id == group_id);
        self.gone.groups.insert(group_id);
        self.gone.ops.push(WriteOp::DeletePrefix(KeyFamily::Progress, keys::id(group_id)));
    }
}

fn decode(bytes: &[u8]) -> Result<QueueAcks, StoreError> {
    QueueAcks::decode(bytes).map_err(|error| StoreError::Index(format!("progress: {error}")))
}
