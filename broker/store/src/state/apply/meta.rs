//! Creation, change and removal of topics, groups and lite topics.

use kerolox_core::dedup::DedupPolicy;
use kerolox_core::group::Group;
use kerolox_core::lite::{LAST_LITE_QUEUE, is_lite};
use kerolox_core::record::{DropLite, DropLites, LiteTopic, MetaChange};
use kerolox_core::topic::Topic;

use crate::error::StoreError;
use crate::state::{ApplyOutcome, StateEvent, StateMachine};

impl StateMachine {
    pub(super) fn apply_meta(
        &mut self,
        change: Option<MetaChange>,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        match change {
            Some(MetaChange::PutTopic(topic)) => {
                events.push(StateEvent::TopicsChanged);
                Ok(self.put_topic(topic))
            }
            Some(MetaChange::DeleteTopic(delete)) => {
                events.push(StateEvent::TopicsChanged);
                let topic = self.topics.get(&delete.name);
                topic.as_ref().map_or(Ok(()), |topic| self.drop_topic(topic.id))?;
                Ok(ApplyOutcome::Deleted(topic.is_some()))
            }
            Some(MetaChange::PutGroup(group)) => {
                events.push(StateEvent::GroupsChanged);
                Ok(self.put_group(group))
            }
            Some(MetaChange::DeleteGroup(delete)) => {
                events.push(StateEvent::GroupsChanged);
                Ok(ApplyOutcome::Deleted(self.delete_group(&delete.name)))
            }
            Some(MetaChange::PutLite(lite)) => self.put_lite(lite, events),
            Some(MetaChange::DropLites(drop)) => self.drop_lites(drop, events),
            Some(MetaChange::Withhold(withhold)) => {
                events.push(StateEvent::TopicsChanged);
                self.topics.withhold(withhold.perm);
                Ok(ApplyOutcome::Done)
            }
            None => Ok(ApplyOutcome::Done),
        }
    }

    fn put_topic(&mut self, mut topic: Topic) -> ApplyOutcome {
        let present = self.topics.get(&topic.name);
        topic.id = present.as_ref().map_or(self.new_topic_id(topic.id), |present| present.id);
        self.topics.note_id(topic.id);
        if let Some(present) = &present {
            self.ordering.resize(present, &topic, &self.queues);
        }
        if DedupPolicy::of(&topic).is_none() {
            self.dedup.forget(topic.id);
        }
        ApplyOutcome::Topic(self.topics.put(topic), present.is_none())
    }

    /// The id for a new topic: the next one, or the one that its proposer expected if earlier records are uncertain.
    fn new_topic_id(&self, expected: u32) -> u32 {
        let is_usable = self.uncertainty.trusts_expected_ids() && expected != 0 && !self.topics.has(expected);
        if is_usable { expected } else { self.topics.next_id() }
    }

    fn put_group(&mut self, mut group: Group) -> ApplyOutcome {
        let present = self.groups.get(&group.name);
        group.id = present.as_ref().map_or(self.new_group_id(group.id), |present| present.id);
        self.groups.note_id(group.id);
        ApplyOutcome::Group(self.groups.put(group), present.is_none())
    }

    /// [`Self::new_topic_id`] for a group.
    fn new_group_id(&self, expected: u32) -> u32 {
        let is_usable = self.uncertainty.trusts_expected_ids() && expected != 0 && !self.groups.has(expected);
        if is_usable { expected } else { self.groups.next_id() }
    }

    fn delete_group(&mut self, name: &str) -> bool {
        let Some(group) = self.groups.get(name) else { return false };
        self.tables_mut().into_iter().for_each(|table| table.drop_group(group.id));
        true
    }

    fn put_lite(
        &mut self,
        mut lite: LiteTopic,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        if self.is_topic_gone(lite.topic_id) {
            return Ok(ApplyOutcome::TopicGone);
        }
        self.note_topic(lite.topic_id);
        if let Some(present) = self.lites.get(lite.topic_id, &lite.name)? {
            return Ok(ApplyOutcome::Lite { queue: present.queue, is_new: false });
        }
        lite.queue = self.new_lite_queue(lite.topic_id, lite.queue);
        if lite.queue > LAST_LITE_QUEUE {
            return Ok(ApplyOutcome::Deleted(false));
        }
        self.lites.put(&lite);
        self.queues.add(lite.topic_id, lite.queue);
        let LiteTopic { topic_id, queue, name, .. } = lite;
        events.push(StateEvent::LiteCreated { topic_id, queue, name });
        Ok(ApplyOutcome::Lite { queue, is_new: true })
    }

    /// [`Self::new_topic_id`] for the queue of a lite topic.
    fn new_lite_queue(&self, topic_id: u32, expected: u32) -> u32 {
        let is_usable = self.uncertainty.trusts_expected_ids()
            && is_lite(expected)
            && !self.queues.has(topic_id, expected);
        if is_usable { expected } else { self.lites.next_queue() }
    }

    /// Removes lite topics, except those that got a message in the meantime.
    fn drop_lites(
        &mut self,
        drop: DropLites,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let topic_id = drop.topic_id;
        let mut gone = Vec::new();
        for DropLite { name, queue, next } in drop.lites {
            let is_as_seen = self.lites.get(topic_id, &name)?.is_some_and(|lite| lite.queue == queue)
                && self.queues.bounds(topic_id, queue).next == next;
            if is_as_seen {
                self.lites.remove(topic_id, &name);
                gone.push(queue);
                events.push(StateEvent::LiteDropped { topic_id, queue, name });
            }
        }
        self.drop_queues(topic_id, &gone)?;
        Ok(ApplyOutcome::Deleted(!gone.is_empty()))
    }
}
