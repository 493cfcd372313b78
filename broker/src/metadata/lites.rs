//! Creation of lite topics by the first message or subscription.

use kerolox_core::record::{LiteTopic, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_store::{ApplyOutcome, StoreError};

use super::BrokerMetadata;
use crate::log_client::LogRefusal;

/// A lite topic was not created.
#[derive(Debug, thiserror::Error)]
pub enum LiteError {
    /// The parent has reached its limit.
    #[error(
        "topic {topic:?} has {count} lite topics on this broker, where {max} is the limit; let idle ones expire (+lite.topic.expiration=MINUTES), or have the operator raise lite.max-topics"
    )]
    TooMany {
        /// Name of the parent.
        topic: String,
        /// Number of its lite topics.
        count: u64,
        /// Limit of lite topics.
        max: u64,
    },
    /// All queue numbers are used up.
    #[error("this broker has used up the numbers for lite topics; use another broker")]
    NoNumbers,
    /// The parent was deleted in the meantime.
    #[error("topic {0:?} was deleted; create it with mqadmin updateTopic")]
    NoTopic(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log refused it.
    #[error(transparent)]
    Log(#[from] LogRefusal),
}

impl BrokerMetadata {
    /// The queues of lite topics, in the given order; missing ones are created, all with one write. The parent may have at most
    /// `max` lite topics.
    ///
    /// # Errors
    /// [`LiteError`]; none was created then.
    pub async fn put_lites(&self, topic: &Topic, names: &[&str], max: u64) -> Result<Vec<u32>, LiteError> {
        let (mut queues, records) = {
            let index = self.log.store().state();
            let (mut queues, mut records) = (Vec::with_capacity(names.len()), Vec::new());
            for name in names {
                let known = index.lites.get(topic.id, name)?.map(|lite| lite.queue);
                queues.push(known);
                if known.is_none() {
                    let queue =
                        index.lites.next_queue().saturating_add(records.len().try_into().unwrap_or(u32::MAX));
                    let (topic_id, name) = (topic.id, (*name).to_owned());
                    let lite = LiteTopic { topic_id, queue, name, created_ms: self.log.store().now_ms() };
                    records.push(Record::Meta(MetaRecord { change: Some(MetaChange::PutLite(lite)) }));
                }
            }
            let count = index.queues.lite_len(topic.id);
            if !records.is_empty() && count.saturating_add(records.len() as u64) > max {
                return Err(LiteError::TooMany { topic: topic.name.clone(), count, max });
            }
            (queues, records)
        };
        if !records.is_empty() {
            let mut made = self.log.propose_for(topic, &records, None).await?.into_iter();
            for queue in queues.iter_mut().filter(|queue| queue.is_none()) {
                *queue = match made.next().map(|applied| applied.outcome) {
                    Some(ApplyOutcome::Lite { queue, .. }) => Some(queue),
                    Some(ApplyOutcome::TopicGone) => return Err(LiteError::NoTopic(topic.name.clone())),
                    _ => return Err(LiteError::NoNumbers),
                };
            }
        }
        Ok(queues.into_iter().flatten().collect())
    }
}
