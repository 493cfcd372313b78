//! Offsets of consumer groups: queries and changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kerolox_core::delivery::{BacklogCounts, DeliveryEngine, MessageFate, QueuePosition, RetryingMessage};
use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::topic::Topic;
use kerolox_gateway::refusal::Refusal;
use kerolox_runtime::process::now_ms;
use kerolox_store::{Store, StoreError};

use super::DeliveryDirectory;
use super::subscription::{add_queue, add_queues};

/// Lite topics that are read under one lock of the store.
const PAGE: usize = 2_000;

impl DeliveryDirectory {
    /// Sets a group's offsets in queues of a topic, each between the oldest message and the end of the queue; durable when
    /// this returns. Messages in flight or waiting for another attempt there are forgotten.
    ///
    /// # Errors
    /// INTERNAL_SERVER_ERROR when the store cannot be read, and the log's errors.
    pub async fn reset(
        &self,
        group: &Group,
        topic: &Topic,
        offsets: impl IntoIterator<Item = (u32, u64)>,
    ) -> Result<(), Refusal> {
        let subscription = self.subscription(group, topic)?;
        let within = |(queue, offset): (u32, u64)| {
            let bounds = self.log.store().state().queues.bounds(topic.id, queue);
            (queue, offset.clamp(bounds.min, bounds.next))
        };
        let offsets: Vec<(u32, u64)> = offsets.into_iter().map(within).collect();
        subscription.change(now_ms(), |engine| {
            offsets.iter().for_each(|(queue, offset)| engine.reset(*queue, QueueOffset::new(*offset)));
        });
        Ok(self.progress.flush(&subscription).await?)
    }

    /// The position of a group in each queue of a topic: as its consumers know it if there are any, otherwise as the log
    /// does. The query activates no subscription.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn positions(
        &self,
        group: &Group,
        topic: &Topic,
    ) -> Result<BTreeMap<u32, QueuePosition>, StoreError> {
        let mut logged = DeliveryEngine::new(group.id, topic.id, 0, group.policy(topic));
        add_queues(&mut logged, topic, group, self.log.store())?;
        let now_ms = now_ms();
        let mut positions = logged.positions(now_ms);
        if let Some(active) = self.active(group.id, topic.id) {
            positions.extend(active.with(|engine| engine.positions(now_ms)));
        }
        Ok(positions)
    }

    /// Failed messages of a group in a topic that wait for their next attempt, `max` at the most, like
    /// [`Self::positions`].
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn retrying(
        &self,
        group: &Group,
        topic: &Topic,
        max: usize,
    ) -> Result<Vec<RetryingMessage>, StoreError> {
        if let Some(active) = self.active(group.id, topic.id) {
            return Ok(active.with(|engine| engine.retrying(max)));
        }
        let mut logged = DeliveryEngine::new(group.id, topic.id, 0, group.policy(topic));
        add_queues(&mut logged, topic, group, self.log.store())?;
        Ok(logged.retrying(max))
    }

    /// The state of the message at an offset of a queue for a group's consumers, and their filters, like
    /// [`Self::positions`].
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn fate(
        &self,
        group: &Group,
        topic: &Topic,
        queue: u32,
        offset: u64,
    ) -> Result<(MessageFate, Vec<Arc<Filter>>), StoreError> {
        let active = match topic.has_lites() {
            true => self.lites.find(topic.id, queue, group.id),
            false => self.active(group.id, topic.id),
        };
        let now_ms = now_ms();
        let known = |engine: &mut DeliveryEngine| {
            Some((engine.fate(now_ms, queue, QueueOffset::new(offset))?, engine.filters()))
        };
        if let Some(known) = active.and_then(|active| active.with(known)) {
            return Ok(known);
        }
        let mut logged = DeliveryEngine::new(group.id, topic.id, 0, group.policy(topic));
        if topic.has_lites() {
            add_queue(&mut logged, (topic.id, queue), group.id, group.start(), self.log.store())?;
        } else {
            add_queues(&mut logged, topic, group, self.log.store())?;
        }
        // A queue that the topic lost has no messages for consumers.
        Ok((logged.fate(now_ms, queue, QueueOffset::new(offset)).unwrap_or(MessageFate::Done), Vec::new()))
    }

    /// Number of undone messages of a group in a lite topic, like [`Self::positions`]; `None` if the group never
    /// consumed it.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn lite_lag(&self, group: &Group, topic: &Topic, queue: u32) -> Result<Option<u64>, StoreError> {
        let now_ms = now_ms();
        if let Some(active) = self.lites.find(topic.id, queue, group.id)
            && let Some(counts) = active.with(|engine| engine.counts(now_ms)).get(&queue)
        {
            return Ok(Some(counts.lag));
        }
        let is_known = self.log.store().state().acks(group.id, topic.id, queue)?.is_some();
        if !is_known && self.lite_directory().with(|table| table.count(topic.id, queue, Some(group.id))) == 0
        {
            return Ok(None);
        }
        let mut logged = DeliveryEngine::new(group.id, topic.id, 0, group.policy(topic));
        add_queue(&mut logged, (topic.id, queue), group.id, group.start(), self.log.store())?;
        Ok(logged.counts(now_ms).get(&queue).map(|counts| counts.lag))
    }

    /// Number of lite topics of a topic that a group consumes or has consumed, and the counts of their undone messages, all
    /// together.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn lite_totals(&self, group: &Group, topic: &Topic) -> Result<(u64, BacklogCounts), StoreError> {
        let (store, now_ms) = (self.log.store(), now_ms());
        let mut totals = Totals::default();
        let mut subscribed = self.lite_directory().with(|table| table.queues(topic.id, group.id));
        let active = self.lites.of_group(topic.id, group.id);
        let at_work: BTreeMap<u32, BacklogCounts> =
            active.iter().flat_map(|active| active.with(|engine| engine.counts(now_ms))).collect();
        totals.add(&at_work);
        let logged = || DeliveryEngine::new(group.id, topic.id, 0, group.policy(topic));
        let mut from = FIRST_LITE_QUEUE;
        loop {
            let index = store.state();
            let page = index.lites_with_progress(group.id, topic.id, from, PAGE)?;
            let Some(last) = page.keys().last().copied() else { break };
            let mut logged = logged();
            for (queue, acks) in page {
                subscribed.remove(&queue);
                if !at_work.contains_key(&queue) {
                    logged.add_queue(
                        queue,
                        acks,
                        QueueOffset::new(index.queues.bounds(topic.id, queue).next),
                    );
                }
            }
            drop(index);
            totals.add(&logged.counts(now_ms));
            from = last + 1;
        }
        let mut new = logged();
        for queue in subscribed.iter().filter(|queue| !at_work.contains_key(queue)) {
            add_queue(&mut new, (topic.id, *queue), group.id, group.start(), store)?;
        }
        totals.add(&new.counts(now_ms));
        Ok((totals.queues, totals.counts))
    }

    /// The ids of the topics that a group consumes or has consumed.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn topics_of(&self, group: &Group) -> Result<BTreeSet<u32>, StoreError> {
        let mut topics = self.log.store().state().progress.topics_of(group.id)?;
        topics.extend(self.active_topics(group.id));
        topics.extend(self.lite_directory().with(|table| table.parents(group.id)));
        Ok(topics)
    }
}

/// The groups whose cursors a group uses: itself, or its members if it is a broadcast group.
pub(crate) fn cursors(store: &Store, group: &Arc<Group>) -> Vec<Group> {
    if !group.is_broadcast() {
        return vec![Group::clone(group)];
    }
    let groups = store.state().groups.all();
    let members = groups.iter().filter(|member| member.parent == group.id);
    members.map(|member| Group { id: member.id, ..group.as_member(&member.member) }).collect()
}

/// A sum over queues.
#[derive(Default)]
struct Totals {
    queues: u64,
    counts: BacklogCounts,
}

impl Totals {
    fn add(&mut self, queues: &BTreeMap<u32, BacklogCounts>) {
        self.queues += queues.len() as u64;
        for counts in queues.values() {
            self.counts += *counts;
        }
    }
}
