//! The path of records into the log: proposed at once, answered when they are stored as their mode requires and
//! applied.

use std::sync::Arc;
use std::time::Duration;

use kerolox_core::record::Record;
use kerolox_core::replicas::AckDurability;
use kerolox_core::topic::Topic;
use kerolox_store::{AppliedRecord, ProposeError, Store};
use tokio::sync::oneshot;

use crate::config::BrokerConfig;
use crate::dedup_gate::DedupReservation;
use crate::replication::Leadership;
use crate::tasks::retention::DiskSpace;

/// Why the log did not take a record, or is not known to have. How callers are told is in `refused.rs`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct LogRefusal(#[from] pub ProposeError);

/// Proposes records to the log of this broker. Cheap to clone.
#[derive(Clone)]
pub struct LogClient {
    store: Arc<Store>,
    durability: AckDurability,
    ack_timeout: Duration,
    min_in_sync: usize,
    /// Leadership of a member of a replicated group.
    leadership: Option<Arc<Leadership>>,
    space: DiskSpace,
}

impl LogClient {
    /// A client of the log of `store`, for one leadership if this broker is a member of a replicated group. Messages are refused while
    /// disk `space` is short.
    pub(crate) fn new(
        store: Arc<Store>,
        config: &BrokerConfig,
        space: DiskSpace,
        leadership: Option<Arc<Leadership>>,
    ) -> Self {
        let durability = AckDurability { flush: config.log.flush(), replicas: config.replication.replicas() };
        let ack_timeout = config.replication.ack_timeout.duration();
        Self {
            store,
            durability,
            ack_timeout,
            min_in_sync: config.replication.min_in_sync,
            leadership,
            space,
        }
    }

    /// The store, for look-ups.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Proposes a record at once; the returned future waits until it is stored and applied. Dropping the future does not
    /// take the record back.
    pub fn propose(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<AppliedRecord, LogRefusal>> + Send + use<> {
        let (answer, applied) = oneshot::channel();
        // Acknowledgements that are lost with the master lead to redelivery; all other records must be kept.
        let is_progress = matches!(record, Record::Progress(_));
        match self.refusal().filter(|refusal| !is_progress || *refusal == ProposeError::NotMaster) {
            Some(refusal) => drop(answer.send(Err(refusal))),
            // The caller may have gone away; the record stays all the same.
            None => {
                let done = Box::new(move |outcome| drop(answer.send(outcome)));
                self.store.propose(record, self.durability, done);
            }
        }
        self.confirmed(applied)
    }

    /// Waits for the answer to a proposal, within the time limit for slaves to confirm it.
    fn confirmed<T: Send>(
        &self,
        answer: oneshot::Receiver<Result<T, ProposeError>>,
    ) -> impl Future<Output = Result<T, LogRefusal>> + Send + use<T> {
        let patience = self.leadership.is_some().then_some(self.ack_timeout);
        async move {
            let answer = match patience {
                Some(patience) => match tokio::time::timeout(patience, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(ProposeError::Unconfirmed(patience).into()),
                },
                None => answer.await,
            };
            Ok(answer.unwrap_or(Err(ProposeError::Closed))?)
        }
    }

    /// Why records that must be kept cannot be accepted, as far as that is known beforehand.
    fn refusal(&self) -> Option<ProposeError> {
        let leadership = self.leadership.as_ref()?;
        if leadership.over.is_requested() {
            return Some(ProposeError::NotMaster);
        }
        let in_sync = leadership.in_sync_len();
        (in_sync < self.min_in_sync).then_some(ProposeError::NotInSync { in_sync, needed: self.min_in_sync })
    }

    /// Checks that this broker is surely the master: only then may it hand out messages, which another master may have
    /// given to others.
    ///
    /// # Errors
    /// It is not.
    pub fn check_rule(&self) -> Result<(), LogRefusal> {
        let is_over = self.leadership.as_ref().is_some_and(|leadership| leadership.over.is_requested());
        if is_over || !self.store.rules() {
            return Err(ProposeError::NotMaster.into());
        }
        Ok(())
    }

    /// Proposes new messages of a topic, which may have its own requirement of what counts as stored. All are stored or none is.
    /// They are refused while disk space is short; all other records are still accepted. `reservation` is dropped when they are
    /// stored or cannot be, even if no caller waits for that any more.
    pub fn propose_for(
        &self,
        topic: &Topic,
        messages: &[Record],
        reservation: Option<DedupReservation>,
    ) -> impl Future<Output = Result<Vec<AppliedRecord>, LogRefusal>> + Send + use<> {
        let (answer, applied) = oneshot::channel();
        if let Some(refusal) = self.refusal() {
            drop(answer.send(Err(refusal)));
        } else if self.space.is_short() {
            drop(answer.send(Err(ProposeError::NoRoom)));
        } else {
            let durability = AckDurability {
                flush: topic.flush().unwrap_or(self.durability.flush),
                replicas: topic.replicas().unwrap_or(self.durability.replicas),
            };
            let space = self.space.clone();
            let done = move |outcome| {
                drop(reservation);
                if matches!(outcome, Err(ProposeError::NoRoom)) {
                    space.ran_out();
                }
                drop(answer.send(outcome));
            };
            self.store.propose_batch(messages, durability, Box::new(done));
        }
        self.confirmed(applied)
    }
}

#[cfg(test)]
mod tests {
    use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, ProgressRecord};
    use kerolox_store::ApplyOutcome;

    use super::*;
    use crate::test_store::store_in_memory;

    fn client() -> (LogClient, DiskSpace) {
        let space = DiskSpace::default();
        let store = Arc::new(store_in_memory(1 << 20, || 1_000));
        (LogClient::new(store, &BrokerConfig::default(), space.clone(), None), space)
    }

    async fn with_topic(log: &LogClient) -> Topic {
        let topic =
            Topic { id: 1, name: "orders".into(), read_queues: 1, write_queues: 1, ..Topic::default() };
        let record = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic.clone())) });
        log.propose(&record).await.expect("stored");
        topic
    }

    fn message() -> Record {
        let header = MessageHeader { topic_id: 1, message_id: "id".to_owned(), ..MessageHeader::default() };
        Record::Message(MessageRecord { header, system: "".into(), content: "x".into() })
    }

    #[tokio::test]
    async fn a_disk_without_room_refuses_messages_and_nothing_else() {
        let (log, space) = client();
        let topic = with_topic(&log).await;
        let stored = log.propose_for(&topic, &[message(), message()], None).await.expect("stored");
        let places: Vec<_> = stored.iter().map(|applied| applied.outcome.clone()).collect();
        let visible = |offset| ApplyOutcome::Visible { queue: 0, offset };
        assert_eq!(places, [visible(0), visible(1)]);
        space.ran_out();
        let refused = log.propose_for(&topic, &[message()], None).await;
        assert!(matches!(refused, Err(LogRefusal(ProposeError::NoRoom))), "{refused:?}");
        log.propose(&Record::Progress(ProgressRecord::new([]))).await.expect("acknowledgements go on");
    }

    /// A proposed record is stored before its outcome is awaited.
    #[tokio::test]
    async fn a_record_stays_when_nobody_waits_for_it() {
        let (log, _) = client();
        let topic = with_topic(&log).await;
        drop(log.propose_for(&topic, &[message()], None));
        let next = log.propose_for(&topic, &[message()], None).await.expect("stored");
        assert_eq!(next[0].outcome, ApplyOutcome::Visible { queue: 0, offset: 1 });
    }

    #[tokio::test]
    async fn a_store_that_is_closed_takes_nothing() {
        let (log, _) = client();
        log.store().close();
        let topic = Topic { id: 1, ..Topic::default() };
        let refused = log.propose_for(&topic, &[message()], None).await;
        assert!(matches!(refused, Err(LogRefusal(ProposeError::Closed))), "{refused:?}");
    }
}
