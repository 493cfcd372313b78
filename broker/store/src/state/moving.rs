//! Which queue a message group stands in, while its topic gets another number of queues.

use std::collections::{BTreeMap, HashSet};

use kerolox_core::record::{Finished, MovingTopic};
use kerolox_core::slots::{self, Moving};
use kerolox_core::topic::{MessageType, Topic};
use prost::Message as _;

use crate::error::StoreError;
use crate::kv::{Family, Kv, Op, pairs};
use crate::state::entries::Queues;
use crate::state::{StateMachine, keys};

/// Topics of which some slots have not moved yet: hardly ever any.
#[derive(Default)]
pub(super) struct MovingTopics {
    by_topic: BTreeMap<u32, Moving>,
    dirty: HashSet<u32>,
}

impl MovingTopics {
    pub(super) fn load(kv: &dyn Kv) -> Result<Self, StoreError> {
        let mut topics = Self::default();
        for pair in pairs(|from, limit| kv.scan(Family::Moving, from, limit)) {
            let (key, value) = pair?;
            let moving = Moving::decode(&*value).map_err(|_| StoreError::Index("moving slots".into()))?;
            topics.by_topic.insert(keys::read_u32(&key, "key of moving slots")?, moving);
        }
        Ok(topics)
    }

    /// `None` once everything has moved.
    fn set(&mut self, topic_id: u32, moving: Option<Moving>) {
        let old = match moving.filter(|moving| !moving.is_over()) {
            Some(moving) => self.by_topic.insert(topic_id, moving),
            None => self.by_topic.remove(&topic_id),
        };
        if old.is_some() || self.by_topic.contains_key(&topic_id) {
            self.dirty.insert(topic_id);
        }
    }

    pub(super) fn remove(&mut self, topic_id: u32) {
        self.set(topic_id, None);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = MovingTopic> + '_ {
        let topics = self.by_topic.iter();
        topics.map(|(topic_id, moving)| MovingTopic { topic_id: *topic_id, moving: moving.clone() })
    }

    /// Takes up a topic of a snapshot.
    pub(super) fn restore(&mut self, MovingTopic { topic_id, moving }: MovingTopic) {
        self.set(topic_id, Some(moving));
    }

    /// Everything is as a snapshot says.
    pub(super) fn replace(&mut self, topics: Vec<MovingTopic>) {
        for topic_id in self.by_topic.keys().copied().collect::<Vec<_>>() {
            self.remove(topic_id);
        }
        topics.into_iter().for_each(|topic| self.restore(topic));
    }

    pub(super) fn pending(&self, ops: &mut Vec<Op>) {
        ops.extend(self.dirty.iter().map(|topic_id| match self.by_topic.get(topic_id) {
            Some(moving) => Op::Put(Family::Moving, keys::id(*topic_id), moving.encode_to_vec()),
            None => Op::Delete(Family::Moving, keys::id(*topic_id)),
        }));
    }

    pub(super) fn flushed(&mut self) {
        self.dirty.clear();
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }
}

/// Where the queues of a topic end that can be consumed. What has expired counts: an index that was made from a snapshot does
/// not know where a queue begins, and must come to the same result.
fn ends<'a>(queues: &'a Queues, topic: &'a Topic) -> impl Fn(u32) -> Option<u64> + 'a {
    let end = |queue| queues.bounds(topic.id, queue).next;
    move |queue| (queue < topic.read_queues).then(|| end(queue)).filter(|next| *next > 0)
}

impl StateMachine {
    /// Topics of which some message groups have not moved to the queue where the present number of queues puts them.
    pub fn moving(&self) -> Vec<MovingTopic> {
        self.moving.all().collect()
    }

    /// The same of one topic.
    pub fn moving_of(&self, topic_id: u32) -> Option<&Moving> {
        self.moving.by_topic.get(&topic_id)
    }

    /// The queue that the next message of a slot goes to; `expected` without a slot.
    pub(super) fn place(&mut self, topic_id: u32, slot: Option<u32>, expected: u32) -> u32 {
        // A topic may be what is missing in damage.
        let (Some(slot), Some(topic)) = (slot, self.meta.topics_by_id.get(&topic_id)) else {
            return expected;
        };
        if let Some(moving) = self.moving.by_topic.get_mut(&topic_id)
            && let Some(queue) = moving.queue(slot)
        {
            if moving.touch(slot) {
                self.moving.dirty.insert(topic_id);
            }
            return queue;
        }
        slots::queue_of(slot, topic.write_queues)
    }

    /// A topic gets another number of queues.
    pub(super) fn resize(&mut self, from: &Topic, to: &Topic) {
        let takes_groups = from.accepts(MessageType::Fifo) || to.accepts(MessageType::Fifo);
        let present = self.moving.by_topic.get(&to.id);
        let is_resized = from.write_queues != to.write_queues || from.read_queues > to.read_queues;
        if !is_resized || !(takes_groups || present.is_some()) {
            return;
        }
        let ends = ends(&self.queues, to);
        let moving = Moving::resized(present, from.write_queues, to.write_queues, &ends);
        self.moving.set(to.id, moving);
    }

    /// Consumers have finished everything before an offset of a queue.
    pub(super) fn apply_finished(&mut self, finished: &Finished) {
        let Finished { topic_id, queue, floor } = *finished;
        let Some(topic) = self.topic_by_id(topic_id) else { return };
        let Some(mut moving) = self.moving.by_topic.get(&topic_id).cloned() else { return };
        if moving.finished(queue, floor, &ends(&self.queues, &topic)) {
            self.moving.set(topic_id, Some(moving));
        }
    }
}
