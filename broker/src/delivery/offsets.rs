//! Offsets of consumer groups: looked at and set.

use std::collections::{BTreeMap, BTreeSet};

use kerolox_core::delivery::{Standing, Subscription};
use kerolox_core::group::Group;
use kerolox_core::topic::Topic;
use kerolox_kit::process::now_ms;
use kerolox_kit::refusal::Refusal;
use kerolox_store::StoreError;

use super::Deliveries;
use super::subscription::add_queues;
use crate::engine::refused_by_log;

impl Deliveries {
    /// Sets a group's offsets in queues of a topic, each between the oldest message and the end of the queue; durable when
    /// this returns. What is in flight or waits for another attempt there is forgotten.
    ///
    /// # Errors
    /// INTERNAL_SERVER_ERROR when the store cannot be read, and what the log says.
    pub async fn reset(
        &self,
        group: &Group,
        topic: &Topic,
        offsets: impl IntoIterator<Item = (u32, u64)>,
    ) -> Result<(), Refusal> {
        let subscription = self.subscription(group, topic)?;
        let within = |(queue, offset): (u32, u64)| {
            let bounds = self.engine.store().index().queue_bounds(topic.id, queue);
            (queue, offset.clamp(bounds.min, bounds.next))
        };
        let offsets: Vec<(u32, u64)> = offsets.into_iter().map(within).collect();
        subscription.reset(now_ms(), &offsets);
        self.progress.flush(&subscription).await.map_err(|error| refused_by_log(&error))
    }

    /// Where a group stands in each queue of a topic: as its consumers know it if there are any, otherwise as the log does.
    /// Nothing begins by looking.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn standings(&self, group: &Group, topic: &Topic) -> Result<BTreeMap<u32, Standing>, StoreError> {
        let mut logged = Subscription::new(group.id, topic.id, 0, group.policy(topic));
        add_queues(&mut logged, topic, group, self.engine.store())?;
        let now_ms = now_ms();
        let mut standings = logged.standings(now_ms);
        if let Some(active) = self.active(group.id, topic.id) {
            standings.extend(active.standings(now_ms));
        }
        Ok(standings)
    }

    /// The ids of the topics that a group consumes or has consumed.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn topics_of(&self, group: &Group) -> Result<BTreeSet<u32>, StoreError> {
        let mut topics = self.engine.store().index().topics_of(group.id)?;
        topics.extend(self.active_topics(group.id));
        Ok(topics)
    }
}
