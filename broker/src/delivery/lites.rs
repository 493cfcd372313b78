//! Subscriptions to lite topics: only an active child has its own engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kerolox_core::group::{Group, StartPosition};
use kerolox_core::topic::Topic;
use kerolox_gateway::refusal::Refusal;
use kerolox_runtime::process::now_ms;
use parking_lot::RwLock;

use super::directory::DeliveryDirectory;
use super::lite_subscriptions::LiteDirectory;
use super::subscription::TopicSubscription;
use crate::refused::refused_by_store;

/// Active subscriptions by topic and queue, one for each group.
type ByQueue = HashMap<(u32, u32), Vec<Arc<TopicSubscription>>>;

/// The active lite topics, and their waiting clients.
#[derive(Default)]
pub(super) struct Lites {
    active: RwLock<ByQueue>,
    pub(super) directory: Arc<LiteDirectory>,
    /// The highest lease of the forgotten subscriptions.
    last_lease: AtomicU64,
}

impl Lites {
    /// Calls `act` with each subscription to a lite topic.
    pub(super) fn each(&self, topic_id: u32, queue: u32, act: &dyn Fn(&TopicSubscription)) {
        let active = self.active.read();
        active.get(&(topic_id, queue)).into_iter().flatten().for_each(|subscription| act(subscription));
    }

    pub(super) fn find(&self, topic_id: u32, queue: u32, group_id: u32) -> Option<Arc<TopicSubscription>> {
        let active = self.active.read();
        let subscriptions = active.get(&(topic_id, queue))?;
        subscriptions.iter().find(|subscription| subscription.group_id() == group_id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<TopicSubscription>> {
        let active = self.active.read();
        active.values().flatten().cloned().collect()
    }

    /// The subscriptions of a group below one topic.
    pub(super) fn of_group(&self, topic_id: u32, group_id: u32) -> Vec<Arc<TopicSubscription>> {
        let all = self.all().into_iter();
        all.filter(|subscription| (subscription.topic_id(), subscription.group_id()) == (topic_id, group_id))
            .collect()
    }

    /// Forgets subscriptions whose lite topic, topic or group is gone.
    pub(super) fn retain(&self, stays: impl Fn(&Arc<TopicSubscription>) -> bool) {
        let mut active = self.active.write();
        active.retain(|_, subscriptions| {
            subscriptions.retain(|subscription| stays(subscription));
            !subscriptions.is_empty()
        });
    }

    /// Forgets the subscriptions to one lite topic.
    pub(super) fn drop_queue(&self, topic_id: u32, queue: u32) {
        self.active.write().remove(&(topic_id, queue));
    }

    fn add(
        &self,
        topic_id: u32,
        queue: u32,
        group_id: u32,
        new: impl FnOnce() -> Arc<TopicSubscription>,
    ) -> Arc<TopicSubscription> {
        let mut active = self.active.write();
        let subscriptions = active.entry((topic_id, queue)).or_default();
        match subscriptions.iter().find(|subscription| subscription.group_id() == group_id) {
            Some(found) => found.clone(),
            None => {
                let new = new();
                subscriptions.push(new.clone());
                new
            }
        }
    }

    /// The base for leases of a new subscription, whose numbers never repeat those of an earlier one to the same lite topic,
    /// even when the clock was set back: as long as the clock runs, it is ahead of all of them.
    fn next_lease_base(&self) -> u64 {
        let now_us = u64::try_from(now_ms()).unwrap_or(0).saturating_mul(1_000);
        now_us.max(self.last_lease.load(Ordering::Relaxed))
    }
}

impl DeliveryDirectory {
    /// The subscriptions of clients to lite topics.
    pub fn lite_directory(&self) -> &LiteDirectory {
        &self.lites.directory
    }

    /// The subscription of a group to a lite topic; `None` when there is no such lite topic. A group that is new to it
    /// begins at `start`.
    ///
    /// # Errors
    /// INTERNAL_SERVER_ERROR when the store cannot be read.
    pub fn lite_subscription(
        &self,
        group: &Group,
        topic: &Topic,
        queue: u32,
        start: StartPosition,
    ) -> Result<Option<Arc<TopicSubscription>>, Refusal> {
        let found = self.lites.find(topic.id, queue, group.id);
        let subscription = found.unwrap_or_else(|| {
            self.lites.add(topic.id, queue, group.id, || {
                let base = self.lites.next_lease_base();
                let new =
                    TopicSubscription::new(group.id, topic.id, base, group.policy(topic), self.alarm.clone());
                Arc::new(new.of_lite(queue, self.lites.directory.clone()))
            })
        });
        // Checked only after insertion into the directory: a later removal then finds it there.
        if !self.log.store().state().queues.has_lite(topic.id, queue) {
            self.lites.drop_queue(topic.id, queue);
            return Ok(None);
        }
        let begins = subscription
            .catch_up_lite(topic, group, start, self.log.store())
            .map_err(|error| refused_by_store(&error))?;
        if begins {
            self.progress.note(&subscription);
        }
        Ok(Some(subscription))
    }

    /// Forgets idle subscriptions to lite topics: the log has their whole state.
    pub fn retire_lites(&self) {
        // No other task holds a retired one: it could be used while a new one takes its place.
        self.lites.retain(|subscription| {
            let stays = Arc::strong_count(subscription) > 1 || !subscription.with(|engine| engine.is_idle());
            if !stays {
                self.lites.last_lease.fetch_max(subscription.last_lease().get(), Ordering::Relaxed);
            }
            stays
        });
    }
}
