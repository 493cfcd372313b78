//! The path of acknowledgements into the log: one record carries all progress that was made while the previous record
//! became durable.

use std::sync::Arc;

use kerolox_core::delivery::DeliveryEngine;
use kerolox_core::record::{ProgressItem, ProgressRecord, Record};
use kerolox_store::ProposeError;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::dead;
use super::subscription::TopicSubscription;
use crate::log_client::{LogClient, LogRefusal};
use crate::metadata::BrokerMetadata;

/// Collects the progress of subscriptions and logs it. Cheap to clone.
#[derive(Clone, Default)]
pub struct ProgressLog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    changed: Vec<Arc<TopicSubscription>>,
    answers: Vec<oneshot::Sender<Result<(), LogRefusal>>>,
    is_closed: bool,
}

impl ProgressLog {
    /// Logs until [`Self::close`]. For one task.
    pub(crate) async fn run(self, log: LogClient, metadata: BrokerMetadata) {
        run(&self.inner, &log, &metadata).await;
    }

    /// Ends [`Self::run`]; waiting and later callers get an error. Progress since the last record is not logged: its messages
    /// are delivered again.
    pub fn close(&self) {
        let waiting = Waiting { is_closed: true, ..Waiting::default() };
        drop(std::mem::replace(&mut *self.inner.waiting.lock(), waiting));
        self.inner.wake.notify_one();
    }

    /// Schedules a progress record; does not wait for it.
    pub fn note(&self, subscription: &Arc<TopicSubscription>) {
        self.enqueue(subscription, None);
    }

    /// Completes when all progress of the subscription so far is durable and applied.
    ///
    /// # Errors
    /// [`LogRefusal`] when it cannot be logged.
    pub async fn flush(&self, subscription: &Arc<TopicSubscription>) -> Result<(), LogRefusal> {
        let (answer, durable) = oneshot::channel();
        self.enqueue(subscription, Some(answer));
        durable.await.unwrap_or(Err(ProposeError::Closed.into()))
    }

    fn enqueue(
        &self,
        subscription: &Arc<TopicSubscription>,
        answer: Option<oneshot::Sender<Result<(), LogRefusal>>>,
    ) {
        let mut waiting = self.inner.waiting.lock();
        if waiting.is_closed {
            return;
        }
        if !waiting.changed.iter().any(|known| Arc::ptr_eq(known, subscription)) {
            waiting.changed.push(subscription.clone());
        }
        waiting.answers.extend(answer);
        drop(waiting);
        self.inner.wake.notify_one();
    }
}

async fn run(inner: &Inner, log: &LogClient, metadata: &BrokerMetadata) {
    loop {
        let (changed, answers) = {
            let mut waiting = inner.waiting.lock();
            if waiting.is_closed {
                return;
            }
            (std::mem::take(&mut waiting.changed), std::mem::take(&mut waiting.answers))
        };
        if changed.is_empty() {
            inner.wake.notified().await;
            continue;
        }
        let items: Vec<ProgressItem> = changed
            .iter()
            .flat_map(|subscription| subscription.with(DeliveryEngine::take_progress))
            .map(ProgressItem::Queue)
            .collect();
        let mut logged = if items.is_empty() {
            // The batch before took it along, and is durable unless the log failed: batches follow each other.
            log.store().failure().map_or(Ok(()), |reason| Err(ProposeError::ReadOnly(reason).into()))
        } else {
            log.propose(&Record::Progress(ProgressRecord::new(items))).await.map(drop)
        };
        for subscription in &changed {
            let dead = subscription.with(DeliveryEngine::take_exhausted);
            if !dead.is_empty() {
                logged = logged.and(dead::bury(log, metadata, subscription, &dead).await);
            }
        }
        for answer in answers {
            // The caller may have gone away.
            let _ = answer.send(logged.clone());
        }
    }
}
