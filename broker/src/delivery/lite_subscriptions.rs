//! The subscriptions of clients to lite topics, and the inboxes that wake them: [`LiteSubscriptions`] behind a lock.

use std::sync::Arc;

use kerolox_core::lite::{
    EvictedSubscription, LiteSubscriptions, OverQuota, ReadyQueues, SubscriptionChange,
};
use kerolox_store::mono_ms;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The lite topics that may hold messages for one client of one group.
#[derive(Debug, Default)]
pub struct LiteInbox {
    ready: Mutex<ReadyQueues>,
    wake: Notify,
}

impl LiteInbox {
    /// Adds a queue that may hold messages; wakes one waiting receive.
    pub fn push(&self, queue: u32) {
        self.lock().push(queue);
        self.wake.notify_one();
    }

    /// The queue that has waited longest.
    pub fn pop(&self) -> Option<u32> {
        self.lock().pop()
    }

    /// Completes when a queue may be ready.
    pub async fn arrival(&self) {
        self.wake.notified().await;
    }

    /// Lets another receive of the client continue, if a queue is ready: for receives that end.
    pub fn pass_on(&self) {
        if !self.lock().is_empty() {
            self.wake.notify_one();
        }
    }

    /// Records that a receive with this attempt id got messages of these queues.
    pub fn note_attempt(&self, attempt_id: &str, queues: Vec<u32>) {
        self.lock().note_attempt(attempt_id, queues);
    }

    /// Puts the queues of an earlier receive with this attempt id first: the receive is repeated.
    pub fn repeat(&self, attempt_id: &str) {
        self.lock().repeat(attempt_id);
    }

    fn lock(&self) -> MutexGuard<'_, ReadyQueues> {
        self.ready.lock()
    }
}

/// The directory of subscriptions to lite topics. The lock is a leaf, and inboxes are woken outside it.
#[derive(Debug, Default)]
pub struct LiteDirectory {
    table: Mutex<LiteSubscriptions<Arc<LiteInbox>>>,
}

impl LiteDirectory {
    /// Reads the table.
    pub fn with<T>(&self, ask: impl FnOnce(&LiteSubscriptions<Arc<LiteInbox>>) -> T) -> T {
        ask(&self.lock())
    }

    /// The inbox of a client.
    pub fn inbox(&self, topic_id: u32, group_id: u32, client: &str) -> Arc<LiteInbox> {
        self.lock().inbox(topic_id, group_id, client, mono_ms())
    }

    /// Changes the subscriptions of a client; all clients together have at most `quota`. Returns the subscriptions that
    /// other clients lost by the change.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing changes then.
    pub fn sync(
        &self,
        change: &SubscriptionChange<'_>,
        quota: usize,
    ) -> Result<Vec<EvictedSubscription>, OverQuota> {
        let outcome = self.lock().sync(change, quota, mono_ms())?;
        outcome.ready.into_iter().for_each(|(inbox, queue)| inbox.push(queue));
        Ok(outcome.evicted)
    }

    /// Reports that a lite topic may hold messages: to the clients of one group, or of all.
    pub(super) fn ready(&self, topic_id: u32, queue: u32, group_id: Option<u32>) {
        let inboxes = self.lock().inboxes(topic_id, queue, group_id);
        inboxes.into_iter().for_each(|inbox| inbox.push(queue));
    }

    /// A lite topic was created.
    pub(super) fn created(&self, topic_id: u32, queue: u32, name: &str) {
        self.lock().created(topic_id, queue, name);
    }

    /// A lite topic was removed; its subscribers wait until it is created again.
    pub(super) fn dropped(&self, topic_id: u32, queue: u32, name: &str) {
        self.lock().dropped(topic_id, queue, name);
    }

    /// A client left.
    pub(super) fn client_left(&self, client: &str) {
        self.lock().client_left(client);
    }

    /// Forgets clients that neither live nor repeat their subscriptions, and subscriptions of topics and groups that
    /// are gone.
    pub(super) fn prune(&self, is_live: impl Fn(u32, u32) -> bool, alive: impl Fn(&str) -> bool) {
        self.lock().prune(mono_ms(), is_live, alive);
    }

    fn lock(&self) -> MutexGuard<'_, LiteSubscriptions<Arc<LiteInbox>>> {
        self.table.lock()
    }
}
