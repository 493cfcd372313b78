//! One consumer group on one topic: the engine's state behind a lock, and those who wait for messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kerolox_core::acks::Acks;
use kerolox_core::delivery::{self, HandleError, Held, Lease, Picked};
use kerolox_core::group::Group;
use kerolox_core::record::QueueProgress;
use kerolox_core::topic::Topic;
use kerolox_store::{Store, StoreError};
use tokio::sync::Notify;

/// The owner of one subscription's state. The lock is a leaf: it is held for one decision, never across an await.
pub struct Subscription {
    state: Mutex<delivery::Subscription>,
    /// One permit wakes one waiter. Whoever leaves something for others passes it on.
    wake: Notify,
}

impl Subscription {
    pub(super) fn new(group_id: u32, topic_id: u32, lease_base: u64) -> Self {
        Self {
            state: Mutex::new(delivery::Subscription::new(group_id, topic_id, lease_base)),
            wake: Notify::new(),
        }
    }

    /// Takes up the queues of the topic that are not known yet, going on where the log says the group stands.
    pub(super) fn add_queues(&self, topic: &Topic, group: &Group, store: &Store) -> Result<(), StoreError> {
        let mut state = self.lock();
        for queue in (0..topic.read_queues).filter(|queue| !state.has_queue(*queue)).collect::<Vec<_>>() {
            let index = store.index();
            let bounds = index.queue_bounds(topic.id, queue);
            let acks = index.acks(group.id, topic.id, queue)?;
            let start = if group.consume_from_min { bounds.min } else { bounds.next };
            state.add_queue(queue, acks.unwrap_or_else(|| Acks::starting_at(start)), bounds.next);
        }
        Ok(())
    }

    /// Messages became visible.
    pub(super) fn extend(&self, queue: u32, end: u64) {
        self.lock().extend(queue, end);
        self.wake.notify_one();
    }

    /// Messages expired.
    pub(super) fn expire_below(&self, queue: u32, min: u64) {
        self.lock().expire_below(queue, min);
    }

    /// Hands out visible messages; see [`delivery::Subscription::receive`].
    pub fn receive(
        &self,
        now_ms: i64,
        max: usize,
        held: Held,
        client: &str,
        alive: impl Fn(&str) -> bool,
    ) -> Vec<Picked> {
        let picked = self.lock().receive(now_ms, None, max, held, client, alive);
        if picked.len() == max {
            self.wake.notify_one();
        }
        picked
    }

    /// See [`delivery::Subscription::skip`].
    pub fn skip(&self, picked: &[Picked]) {
        self.lock().skip(picked);
    }

    /// See [`delivery::Subscription::give_back`].
    pub fn give_back(&self, now_ms: i64, picked: &[Picked]) {
        self.lock().give_back(now_ms, picked);
        self.wake.notify_one();
    }

    /// See [`delivery::Subscription::ack`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn ack(&self, now_ms: i64, lease: &Lease) -> Result<(), HandleError> {
        self.lock().ack(now_ms, lease)
    }

    /// See [`delivery::Subscription::change_invisible`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn change_invisible(
        &self,
        now_ms: i64,
        lease: &Lease,
        duration_ms: u64,
    ) -> Result<Option<Lease>, HandleError> {
        let changed = self.lock().change_invisible(now_ms, lease, duration_ms);
        // Somebody has to wait for the new time.
        self.wake.notify_one();
        changed
    }

    /// A client left: what it held while alive is visible again.
    pub(super) fn client_left(&self, now_ms: i64, client: &str) {
        self.lock().client_left(now_ms, client);
        self.wake.notify_one();
    }

    /// When the next message in flight becomes visible.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.lock().next_due_ms()
    }

    /// Completes when there may be something to receive.
    pub async fn arrival(&self) {
        self.wake.notified().await;
    }

    /// Lets somebody else look: for waiters that give up.
    pub fn pass_on(&self) {
        self.wake.notify_one();
    }

    pub(super) fn take_progress(&self) -> Vec<QueueProgress> {
        self.lock().take_progress()
    }

    fn lock(&self) -> MutexGuard<'_, delivery::Subscription> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription as everybody holds it.
pub(crate) type Shared = Arc<Subscription>;
