//! Removal of lite topics without messages for the time that their topic sets.

use std::time::Duration;

use kerolox_core::lite;
use kerolox_core::record::{DropLite, DropLites};
use kerolox_core::topic::Topic;
use kerolox_store::{Store, StoreError};

use crate::log_client::LogClient;
use crate::metadata::BrokerMetadata;

/// Lite topics that are checked, and removed, at a time.
const PAGE: usize = 1_000;

/// Removes expired lite topics, for ever.
pub(crate) async fn run(log: LogClient, metadata: BrokerMetadata, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let topics = log.store().state().topics.all();
        for topic in topics.iter().filter(|topic| lite::expires_ms(topic, 0).is_some()) {
            if let Err(error) = expire(log.store(), &metadata, topic).await {
                tracing::error!(topic = topic.name, %error, "lite topics cannot be removed; retrying");
            }
        }
    }
}

async fn expire(
    store: &Store,
    metadata: &BrokerMetadata,
    topic: &Topic,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut after = String::new();
    let mut removed = 0;
    loop {
        let (last, lites) = expired(store, topic, &after, store.now_ms())?;
        let Some(last) = last else { break };
        after = last;
        if !lites.is_empty() {
            removed += lites.len();
            metadata.drop_lites(DropLites { topic_id: topic.id, lites }).await?;
        }
    }
    if removed > 0 {
        tracing::info!(topic = topic.name, removed, "lite topics expired");
    }
    Ok(())
}

/// The expired ones among the next lite topics behind `after`, and the name of the last one that was checked.
fn expired(
    store: &Store,
    topic: &Topic,
    after: &str,
    now_ms: i64,
) -> Result<(Option<String>, Vec<DropLite>), StoreError> {
    let index = store.state();
    let mut page = index.lites.page(topic.id, after, PAGE)?;
    let last = page.last().map(|lite| lite.name.clone());
    page.retain(|found| {
        let newest_ms = index.queues.bounds(topic.id, found.queue).newest_ms;
        lite::expires_ms(topic, newest_ms.max(found.created_ms)).is_some_and(|at_ms| at_ms <= now_ms)
    });
    let gone = page.into_iter().map(|found| {
        let next = index.queues.bounds(topic.id, found.queue).next;
        DropLite { name: found.name, queue: found.queue, next }
    });
    Ok((last, gone.collect()))
}
