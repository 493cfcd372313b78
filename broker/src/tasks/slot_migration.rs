//! Moves message groups to the queues that the present number of queues of their topic determines, once consumers have finished
//! their earlier messages (`kerolox_core::slots`).

use std::time::Duration;

use kerolox_core::record::{FinishedRecord, MovingTopic, ProgressItem, ProgressRecord, Record};
use kerolox_core::slots;
use kerolox_store::{Store, StoreError};

use crate::log_client::LogClient;

/// Interval of the checks while message groups have to move. A group moves when it got no message for as long.
const INTERVAL: Duration = Duration::from_millis(100);
/// Interval while none has to.
const IDLE: Duration = Duration::from_secs(1);

/// Moves message groups, for ever.
pub(crate) async fn run(log: LogClient) {
    loop {
        let topics = log.store().state().ordering.all();
        tokio::time::sleep(if topics.is_empty() { IDLE } else { INTERVAL }).await;
        let mut finished = Vec::new();
        for topic in &topics {
            match finished_in(log.store(), topic) {
                Ok(found) => finished.extend(found.into_iter().map(ProgressItem::Finished)),
                Err(error) => {
                    tracing::error!(%error, "the progress of consumers cannot be read; retrying")
                }
            }
        }
        if !finished.is_empty()
            && let Err(error) = log.propose(&Record::Progress(ProgressRecord::new(finished))).await
        {
            tracing::warn!(%error, "message groups cannot move to other queues; retrying");
        }
    }
}

/// The queues of a topic in which all messages are finished that message groups wait for.
fn finished_in(store: &Store, topic: &MovingTopic) -> Result<Vec<FinishedRecord>, StoreError> {
    let index = store.state();
    let topic_id = topic.topic_id;
    let mut groups = Vec::new();
    for group in index.groups.all() {
        if index.progress.topics_of(group.id)?.contains(&topic_id) {
            groups.push(group);
        }
    }
    let mut finished = Vec::new();
    for (queue, mark) in topic.moving.marks() {
        let mut floors = Vec::new();
        for group in &groups {
            let acks = index.acks(group.id, topic_id, queue)?;
            floors.push((group.fifo, acks.map_or(0, |acks| acks.committed().get())));
        }
        // Expired messages no longer count.
        let first = index.queues.bounds(topic_id, queue).min;
        let floor = slots::finished_by_all(floors).unwrap_or(0).max(first);
        if floor >= mark {
            finished.push(FinishedRecord { topic_id, queue, floor });
        }
    }
    Ok(finished)
}
