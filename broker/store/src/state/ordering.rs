//! The queue of a message group while its topic gets another number of queues.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kerolox_core::record::{FinishedRecord, MovingTopic, SnapshotRecord};
use kerolox_core::slots::{self, MovingSlots};
use kerolox_core::topic::{MessageType, Topic};
use prost::Message as _;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp, pairs};
use crate::state::keys;
use crate::state::queues::QueueTable;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;

/// Topics with slots that have not moved to the queue determined by the present number of queues: hardly ever any.
pub struct OrderingTable {
    kv: Arc<dyn Kv>,
    by_topic: BTreeMap<u32, MovingSlots>,
    dirty: HashSet<u32>,
}

impl OrderingTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { kv: kv.clone(), by_topic: BTreeMap::new(), dirty: HashSet::new() }
    }

    /// All of these topics, with the slots that have not moved.
    pub fn all(&self) -> Vec<MovingTopic> {
        let topics = self.by_topic.iter();
        topics.map(|(topic_id, moving)| MovingTopic { topic_id: *topic_id, moving: moving.clone() }).collect()
    }

    /// The slots of a topic that have not moved, if any.
    pub fn get(&self, topic_id: u32) -> Option<&MovingSlots> {
        self.by_topic.get(&topic_id)
    }

    /// Sets the moving slots of a topic; `None` once all have moved.
    fn set(&mut self, topic_id: u32, moving: Option<MovingSlots>) {
        let old = match moving.filter(|moving| !moving.is_over()) {
            Some(moving) => self.by_topic.insert(topic_id, moving),
            None => self.by_topic.remove(&topic_id),
        };
        if old.is_some() || self.by_topic.contains_key(&topic_id) {
            self.dirty.insert(topic_id);
        }
    }

    /// The queue of `topic` for the next message of a slot.
    pub(super) fn place(&mut self, topic: &Topic, slot: u32) -> u32 {
        if let Some(moving) = self.by_topic.get_mut(&topic.id)
            && let Some(queue) = moving.queue(slot)
        {
            if moving.touch(slot) {
                self.dirty.insert(topic.id);
            }
            return queue;
        }
        slots::queue_of(slot, topic.write_queues)
    }

    /// Changes the number of queues of a topic.
    pub(super) fn resize(&mut self, from: &Topic, to: &Topic, queues: &QueueTable) {
        let takes_groups = from.accepts(MessageType::Fifo) || to.accepts(MessageType::Fifo);
        let present = self.by_topic.get(&to.id);
        let is_resized = from.write_queues != to.write_queues || from.read_queues > to.read_queues;
        if !is_resized || !(takes_groups || present.is_some()) {
            return;
        }
        let ends = ends(queues, to);
        let moving = MovingSlots::resized(present, from.write_queues, to.write_queues, &ends);
        self.set(to.id, moving);
    }

    /// Consumers have finished everything before an offset of a queue of `topic`.
    pub(super) fn finish(&mut self, topic: &Topic, finished: &FinishedRecord, queues: &QueueTable) {
        let Some(mut moving) = self.by_topic.get(&topic.id).cloned() else { return };
        if moving.finished(finished.queue, finished.floor, &ends(queues, topic)) {
            self.set(topic.id, Some(moving));
        }
    }
}

/// Ends of the queues of a topic that can be consumed. Expired messages count: a state machine that was made from a
/// snapshot does not know where a queue begins, and must reach the same result.
fn ends<'a>(queues: &'a QueueTable, topic: &'a Topic) -> impl Fn(u32) -> Option<u64> + 'a {
    let end = |queue| queues.bounds(topic.id, queue).next;
    move |queue| (queue < topic.read_queues).then(|| end(queue)).filter(|next| *next > 0)
}

impl StateTable for OrderingTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Moving]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.kv.scan(KeyFamily::Moving, from, limit)) {
            let (key, value) = pair?;
            let moving =
                MovingSlots::decode(&*value).map_err(|_| StoreError::Index("moving slots".into()))?;
            self.by_topic.insert(keys::read_u32(&key, "key of moving slots")?, moving);
        }
        Ok(())
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.all().iter().for_each(|moving| lists.message(tag::MOVING, moving));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.dirty.extend(std::mem::take(&mut self.by_topic).into_keys());
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        for MovingTopic { topic_id, moving } in part.moving.drain(..) {
            self.set(topic_id, Some(moving));
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        ops.extend(self.dirty.iter().map(|topic_id| match self.by_topic.get(topic_id) {
            Some(moving) => WriteOp::Put(KeyFamily::Moving, keys::id(*topic_id), moving.encode_to_vec()),
            None => WriteOp::Delete(KeyFamily::Moving, keys::id(*topic_id)),
        }));
    }

    fn flushed(&mut self) {
        self.dirty.clear();
    }

    fn pending_len(&self) -> usize {
        self.dirty.len()
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        self.set(topic_id, None);
        Ok(())
    }
}
