//! Lite topics: which queues of a parent have which names.

use std::collections::{BTreeMap, HashMap, HashSet};

use kerolox_core::acks::Acks;
use kerolox_core::lite::{FIRST_LITE_QUEUE, LAST_LITE_QUEUE, is_lite};
use kerolox_core::record::{DropLite, DropLites, LiteTopic};
use kerolox_core::topic::{MessageType, Topic};
use prost::Message;

use crate::error::StoreError;
use crate::kv::{Family, Kv, Op, pairs};
use crate::state::apply::{Event, Outcome};
use crate::state::{StateMachine, decode_acks, keys};

/// Lite topics that are read at a time.
const PAGE: usize = 1_000;

/// What is known of lite topics without looking into the store.
pub(super) struct Lites {
    /// How many each parent has.
    counts: HashMap<u32, u64>,
    /// The number that the next one gets.
    pub(super) next: u32,
}

impl Default for Lites {
    fn default() -> Self {
        Self { counts: HashMap::new(), next: FIRST_LITE_QUEUE }
    }
}

impl Lites {
    /// `queues` are all queues that there are.
    pub(super) fn load(kv: &dyn Kv, queues: impl Iterator<Item = (u32, u32)>) -> Result<Self, StoreError> {
        let mut lites = Self::default();
        if let Some(next) = kv.get(Family::State, keys::NEXT_LITE)? {
            lites.next = keys::read_u32(&next, "next lite topic")?;
        }
        lites.count(queues);
        Ok(lites)
    }

    fn count(&mut self, queues: impl Iterator<Item = (u32, u32)>) {
        self.counts.clear();
        for (topic_id, _) in queues.filter(|(_, queue)| is_lite(*queue)) {
            *self.counts.entry(topic_id).or_default() += 1;
        }
    }
}

impl StateMachine {
    /// The queue of a lite topic.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn lite(&self, topic_id: u32, name: &str) -> Result<Option<LiteTopic>, StoreError> {
        let stored = self.overlay.get(Family::Lites, &keys::lite(topic_id, name))?;
        stored.map(|bytes| decode(&bytes)).transpose()
    }

    /// Up to `max` lite topics of a parent, by name, from the first one behind `after` on; an empty `after` begins with the
    /// first one.
    ///
    /// # Errors
    /// See [`Self::lite`].
    pub fn lites(&self, topic_id: u32, after: &str, max: usize) -> Result<Vec<LiteTopic>, StoreError> {
        self.lites_with_prefix(topic_id, "", after, max)
    }

    /// The same for those whose names begin with `prefix`.
    ///
    /// # Errors
    /// See [`Self::lite`].
    pub fn lites_with_prefix(
        &self,
        topic_id: u32,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<LiteTopic>, StoreError> {
        let own = keys::lite(topic_id, prefix);
        // The smallest key behind that of `after`.
        let behind = || [keys::lite(topic_id, after), vec![0]].concat();
        let from = if after.is_empty() { own.clone() } else { own.clone().max(behind()) };
        let found = self.overlay.scan(Family::Lites, &from, max)?;
        let own = found.iter().take_while(|(key, _)| key.starts_with(&own));
        own.map(|(_, value)| decode(value)).collect()
    }

    /// The lite topics in which a group has progress, by queue, from queue `from` on; about `max` of them, and none only when
    /// there are no more.
    ///
    /// # Errors
    /// See [`Self::lite`].
    pub fn lites_with_progress(
        &self,
        group_id: u32,
        topic_id: u32,
        from: u32,
        max: usize,
    ) -> Result<BTreeMap<u32, Acks>, StoreError> {
        let from = from.max(FIRST_LITE_QUEUE);
        let key = keys::progress(group_id, topic_id, from);
        let mut page = BTreeMap::new();
        for (key, value) in self.kv.scan(Family::Progress, &key, max)? {
            let (group, topic, queue) = keys::parse_progress(&key)?;
            if (group, topic) != (group_id, topic_id) {
                break;
            }
            page.insert(queue, decode_acks(&value)?);
        }
        let is_full = page.len() == max;
        // Behind a full page, what only memory knows belongs to a later one.
        let last = page.keys().last().copied().filter(|_| is_full).unwrap_or(LAST_LITE_QUEUE);
        let in_memory = self.progress.iter().filter(|((group, topic, queue), _)| {
            (*group, *topic) == (group_id, topic_id) && (from..=last).contains(queue)
        });
        page.extend(in_memory.map(|((_, _, queue), progress)| (*queue, progress.acks.clone())));
        for (queue, acks) in &mut page {
            acks.expire_below(self.queues.bounds(topic_id, *queue).min);
        }
        Ok(page)
    }

    /// How many lite topics a parent has.
    pub fn lites_len(&self, topic_id: u32) -> u64 {
        self.lites.counts.get(&topic_id).copied().unwrap_or(0)
    }

    /// The queue number that the next new lite topic gets.
    pub fn next_lite_queue(&self) -> u32 {
        self.lites.next
    }

    /// Whether there is a lite topic with this queue.
    pub fn has_lite_queue(&self, topic_id: u32, queue: u32) -> bool {
        is_lite(queue) && self.queues.has(topic_id, queue)
    }

    /// Whether a queue is a lite topic that was removed, or never was: nothing of it is to be kept.
    pub(super) fn is_lite_gone(&self, topic_id: u32, queue: u32) -> bool {
        is_lite(queue) && !self.queues.has(topic_id, queue) && !self.may_lack_lite(queue)
    }

    pub(super) fn put_lite(
        &mut self,
        mut lite: LiteTopic,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        if self.is_topic_gone(lite.topic_id) {
            return Ok(Outcome::TopicGone);
        }
        self.note_topic(lite.topic_id);
        if let Some(present) = self.lite(lite.topic_id, &lite.name)? {
            return Ok(Outcome::Lite { queue: present.queue, is_new: false });
        }
        lite.queue = self.new_lite_queue(lite.topic_id, lite.queue);
        if lite.queue > LAST_LITE_QUEUE {
            return Ok(Outcome::Deleted(false));
        }
        self.insert_lite(&lite);
        let LiteTopic { topic_id, queue, name, .. } = lite;
        events.push(Event::LiteCreated { topic_id, queue, name });
        Ok(Outcome::Lite { queue, is_new: true })
    }

    fn insert_lite(&mut self, lite: &LiteTopic) {
        self.lites.next = self.lites.next.max(lite.queue + 1);
        if self.queues.add(lite.topic_id, lite.queue) {
            *self.lites.counts.entry(lite.topic_id).or_default() += 1;
        }
        self.restore_lite(lite);
    }

    /// Takes up the name of a queue that is known.
    pub(super) fn restore_lite(&mut self, lite: &LiteTopic) {
        let key = keys::lite(lite.topic_id, &lite.name);
        self.overlay.put(Family::Lites, key, lite.encode_to_vec());
    }

    /// Removes lite topics, but for those that got a message in the meantime.
    pub(super) fn drop_lites(
        &mut self,
        drop: DropLites,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        let topic_id = drop.topic_id;
        let mut gone = Vec::new();
        for DropLite { name, queue, next } in drop.lites {
            let is_as_seen = self.lite(topic_id, &name)?.is_some_and(|lite| lite.queue == queue)
                && self.queues.bounds(topic_id, queue).next == next;
            if is_as_seen {
                self.overlay.delete(Family::Lites, keys::lite(topic_id, &name));
                gone.push(queue);
                events.push(Event::LiteDropped { topic_id, queue, name });
            }
        }
        self.drop_lite_queues(topic_id, &gone)?;
        Ok(Outcome::Deleted(!gone.is_empty()))
    }

    /// All lite topics of a parent go with it; their queues do so by themselves.
    pub(super) fn forget_lites(&mut self, topic_id: u32) -> Result<(), StoreError> {
        self.lites.counts.remove(&topic_id);
        let mut after = String::new();
        loop {
            let page = self.lites(topic_id, &after, PAGE)?;
            for lite in &page {
                self.overlay.delete(Family::Lites, keys::lite(topic_id, &lite.name));
            }
            match page.into_iter().last() {
                Some(last) => after = last.name,
                None => return Ok(()),
            }
        }
    }

    fn drop_lite_queues(&mut self, topic_id: u32, queues: &[u32]) -> Result<(), StoreError> {
        let groups = self.groups_of(topic_id)?;
        let mut ops = Vec::new();
        for queue in queues {
            self.queues.remove(topic_id, *queue, &mut ops);
            for group_id in &groups {
                self.progress.remove(&(*group_id, topic_id, *queue));
                ops.push(Op::Delete(Family::Progress, keys::progress(*group_id, topic_id, *queue)));
            }
            if let Some(count) = self.lites.counts.get_mut(&topic_id) {
                *count = count.saturating_sub(1);
            }
        }
        let gone: HashSet<u32> = queues.iter().copied().collect();
        let mut kept = Vec::new();
        self.each_kept(|message| {
            if message.topic_id == topic_id && gone.contains(&message.queue) {
                kept.push(keys::block(topic_id, message.queue, message.offset));
            }
        })?;
        kept.into_iter().for_each(|key| self.overlay.delete(Family::Kept, key));
        self.gone.extend(ops);
        Ok(())
    }

    /// Groups that have progress in a topic.
    fn groups_of(&self, topic_id: u32) -> Result<Vec<u32>, StoreError> {
        let mut groups: HashSet<u32> = self
            .progress
            .keys()
            .filter(|(_, topic, _)| *topic == topic_id)
            .map(|(group, _, _)| *group)
            .collect();
        for group_id in &self.meta.group_ids {
            let prefix = keys::queue(*group_id, topic_id);
            let found = self.kv.scan(Family::Progress, &prefix, 1)?;
            if found.first().is_some_and(|(key, _)| key.starts_with(&prefix)) {
                groups.insert(*group_id);
            }
        }
        Ok(groups.into_iter().collect())
    }

    pub(super) fn all_lites(&self) -> Result<Vec<LiteTopic>, StoreError> {
        let stored = pairs(|from, limit| self.overlay.scan(Family::Lites, from, limit));
        stored.map(|pair| decode(&pair?.1)).collect()
    }

    /// Lite topics are those of a snapshot; their queues follow, and then [`Self::count_lites`].
    pub(super) fn replace_lites(&mut self, lites: &[LiteTopic], next: u32) -> Result<(), StoreError> {
        for old in self.all_lites()? {
            self.overlay.delete(Family::Lites, keys::lite(old.topic_id, &old.name));
        }
        let known: HashSet<(u32, u32)> = lites.iter().map(|lite| (lite.topic_id, lite.queue)).collect();
        let mut gone: HashMap<u32, Vec<u32>> = HashMap::new();
        for (topic_id, queue) in self.queues.names().filter(|(_, queue)| is_lite(*queue)) {
            if !known.contains(&(topic_id, queue)) {
                gone.entry(topic_id).or_default().push(queue);
            }
        }
        for (topic_id, queues) in gone {
            self.drop_lite_queues(topic_id, &queues)?;
        }
        lites.iter().for_each(|lite| self.restore_lite(lite));
        self.lites.next = next.max(FIRST_LITE_QUEUE);
        Ok(())
    }

    /// To be called when queues were taken up without their names.
    pub(super) fn count_lites(&mut self) {
        self.lites.count(self.queues.names());
    }

    /// The queues of lite topics whose creation nobody knows get names of their own, from which they can be read.
    pub(super) fn name_unknown_lites(&mut self) -> Result<(), StoreError> {
        let known: HashSet<(u32, u32)> =
            self.all_lites()?.iter().map(|lite| (lite.topic_id, lite.queue)).collect();
        let unknown: Vec<(u32, u32)> =
            self.queues.names().filter(|name| is_lite(name.1) && !known.contains(name)).collect();
        for (topic_id, queue) in unknown {
            let name = format!("recovered-{queue}");
            self.insert_lite(&LiteTopic { topic_id, queue, name, created_ms: self.store_ms });
        }
        self.count_lites();
        Ok(())
    }
}

/// A topic for messages whose own nobody knows; `queues` are the numbers of its queues.
pub(super) fn recovered(id: u32, queues: impl Iterator<Item = u32>) -> Topic {
    let (mut ordinary, mut has_lites) = (1, false);
    for queue in queues {
        if is_lite(queue) {
            has_lites = true;
        } else {
            ordinary = ordinary.max(queue + 1);
        }
    }
    let mut topic = Topic {
        id,
        perm: kerolox_core::topic::PERM_READ,
        ..Topic::new(&format!("recovered-{id}"), ordinary)
    };
    if has_lites {
        topic.types = vec![MessageType::Lite.into()];
    }
    topic
}

fn decode(bytes: &[u8]) -> Result<LiteTopic, StoreError> {
    LiteTopic::decode(bytes).map_err(|_| StoreError::Index("lite topic".into()))
}
