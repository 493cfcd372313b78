//! Waiting for messages of a queue without a subscription to it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::Notify;

/// Watched queues, by topic id and number.
#[derive(Default)]
pub(super) struct Watches {
    queues: RwLock<HashMap<(u32, u32), Weak<Notify>>>,
}

/// A queue that is watched as long as this value lives.
pub struct WatchedQueue(Arc<Notify>);

impl Watches {
    /// Watches a queue. Read the queue only after [`WatchedQueue::arrival`] was enabled, so that no arrival is missed.
    pub(super) fn watch(&self, topic_id: u32, queue: u32) -> WatchedQueue {
        let mut queues = self.queues.write();
        if let Some(watched) = queues.get(&(topic_id, queue)).and_then(Weak::upgrade) {
            return WatchedQueue(watched);
        }
        // Before growing, drop the queues that are no longer watched.
        if queues.len() == queues.capacity() {
            queues.retain(|_, watched| watched.strong_count() > 0);
        }
        let watched = Arc::new(Notify::new());
        queues.insert((topic_id, queue), Arc::downgrade(&watched));
        WatchedQueue(watched)
    }

    /// A message became visible.
    pub(super) fn arrived(&self, topic_id: u32, queue: u32) {
        let queues = self.queues.read();
        if let Some(watched) = queues.get(&(topic_id, queue)).and_then(Weak::upgrade) {
            watched.notify_waiters();
        }
    }
}

impl WatchedQueue {
    /// Completes at the next arrival after it was enabled or polled.
    pub fn arrival(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_watches_a_queue_hears_of_an_arrival() {
        let watches = Watches::default();
        let (one, two, other) = (watches.watch(1, 0), watches.watch(1, 0), watches.watch(1, 1));
        let (mut first, mut second) = (Box::pin(one.arrival()), Box::pin(two.arrival()));
        let mut elsewhere = Box::pin(other.arrival());
        assert!(!first.as_mut().enable() && !second.as_mut().enable() && !elsewhere.as_mut().enable());
        watches.arrived(1, 0);
        first.await;
        second.await;
        assert!(!elsewhere.as_mut().enable());
    }

    #[test]
    fn what_nobody_watches_is_forgotten() {
        let watches = Watches::default();
        for queue in 0..1000 {
            drop(watches.watch(1, queue));
        }
        assert!(watches.queues.read().len() < 100);
        watches.arrived(1, 0);
    }
}
