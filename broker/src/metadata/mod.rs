//! Topics, consumer groups and lite topics of this broker: requested changes, on their way into the log. Their present state is
//! the state machine's ([`kerolox_store::Store::state`]).

mod changes;
mod lites;

use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::group_change::GroupChange;
use kerolox_core::record::{
    DeleteGroup, DeleteTopic, DropLites, MetaChange, MetaRecord, Record, WithholdChange,
};
use kerolox_core::topic::{PERM_READ, PERM_WRITE, Topic};
use kerolox_core::topic_change::TopicChange;
use kerolox_store::{ApplyOutcome, ProposeError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::log_client::{LogClient, LogRefusal};
use changes::{ChangePlanner, QueuedChange, WantedChange};

pub(crate) use changes::MetadataChanges;
pub use lites::LiteError;

/// Changes that may wait for their turn; later callers wait to enqueue theirs.
const WAITING_MAX: usize = 64;

/// Changes topics, groups and lite topics. Cheap to clone.
#[derive(Clone)]
pub struct BrokerMetadata {
    log: LogClient,
    planner: ChangePlanner,
    queue: mpsc::Sender<QueuedChange>,
    topics_version: Arc<watch::Sender<u64>>,
}

/// A topic or group was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The requested change is not possible.
    #[error("{0}")]
    Invalid(String),
    /// The log refused the change.
    #[error(transparent)]
    Log(#[from] LogRefusal),
}

impl BrokerMetadata {
    /// The metadata of the broker whose log is `log`, and the task that changes them, which the caller has to run. New
    /// topics have `default_queues` queues.
    pub(crate) fn new(log: LogClient, default_queues: u32) -> (Self, MetadataChanges) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let planner = ChangePlanner { log: log.clone(), default_queues };
        let topics_version = Arc::new(watch::Sender::new(0));
        let changes = MetadataChanges::new(planner.clone(), waiting, topics_version.clone());
        (Self { log, planner, queue, topics_version }, changes)
    }

    /// Creates or changes a topic; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_topic(&self, change: &TopicChange) -> Result<(Arc<Topic>, bool), ChangeError> {
        topic_of(self.change(WantedChange::PutTopic(change.clone())).await?)
    }

    /// Creates a topic unless there is one of this name; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn make_topic(&self, change: &TopicChange) -> Result<(Arc<Topic>, bool), ChangeError> {
        topic_of(self.change(WantedChange::MakeTopic(change.clone())).await?)
    }

    /// The result of a change of a topic, with the present topic. Changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`].
    pub fn plan_topic(&self, change: &TopicChange) -> Result<(Option<Arc<Topic>>, Topic), ChangeError> {
        self.planner.topic(change)
    }

    /// The result of a change of a consumer group, with the present group. Changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`].
    pub fn plan_group(&self, change: &GroupChange) -> Result<(Option<Arc<Group>>, Group), ChangeError> {
        self.planner.group(change)
    }

    /// A version that advances whenever a topic was created or changed, also by the broker itself, as for dead-letter
    /// topics.
    pub fn topics_version(&self) -> watch::Receiver<u64> {
        self.topics_version.subscribe()
    }

    /// Creates or changes a consumer group; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_group(&self, change: &GroupChange) -> Result<(Arc<Group>, bool), ChangeError> {
        group_of(self.change(WantedChange::PutGroup(change.clone())).await?)
    }

    /// Creates the member `client` of a broadcast group, unless it exists.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_member(&self, group: &Group, client: &str) -> Result<Arc<Group>, ChangeError> {
        let member = WantedChange::PutMember(Box::new(group.as_member(client)));
        group_of(self.change(member).await?).map(|(member, _)| member)
    }

    /// Removes lite topics of a parent that got no message since they were read; returns whether one was removed.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn drop_lites(&self, drop: DropLites) -> Result<bool, ChangeError> {
        deleted(self.propose(MetaChange::DropLites(drop)).await?)
    }

    /// Deletes a topic; returns whether it existed.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn delete_topic(&self, name: &str) -> Result<bool, ChangeError> {
        let deletion = MetaChange::DeleteTopic(DeleteTopic { name: name.to_owned() });
        deleted(self.change(WantedChange::Delete(deletion)).await?)
    }

    /// Deletes a consumer group; returns whether it existed.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn delete_group(&self, name: &str) -> Result<bool, ChangeError> {
        let deletion = MetaChange::DeleteGroup(DeleteGroup { name: name.to_owned() });
        deleted(self.change(WantedChange::Delete(deletion)).await?)
    }

    /// Withholds permissions from all topics, or restores them.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn withhold(&self, perm: u32) -> Result<(), ChangeError> {
        if perm & !(PERM_READ | PERM_WRITE) != 0 {
            return Err(ChangeError::Invalid(format!(
                "{perm} cannot be withheld: use 0 (nothing), 2 (write), 4 (read) or 6 (read and write)"
            )));
        }
        if self.log.store().state().topics.withheld() != perm {
            self.propose(MetaChange::Withhold(WithholdChange { perm })).await?;
        }
        Ok(())
    }

    /// Whether writing is withheld from producers of this broker group.
    pub fn withholds_writing(&self) -> bool {
        self.log.store().state().topics.withheld() & PERM_WRITE != 0
    }

    /// Requests a change from the task. It is made even if the caller does not wait for it.
    async fn change(&self, change: WantedChange) -> Result<ApplyOutcome, ChangeError> {
        let (answer, made) = oneshot::channel();
        let queued = QueuedChange { change, answer };
        self.queue.send(queued).await.map_err(|_| LogRefusal(ProposeError::Closed))?;
        made.await.map_err(|_| LogRefusal(ProposeError::Closed))?
    }

    /// Proposes a change that does not depend on other changes.
    async fn propose(&self, change: MetaChange) -> Result<ApplyOutcome, ChangeError> {
        propose(&self.log, change).await
    }
}

async fn propose(log: &LogClient, change: MetaChange) -> Result<ApplyOutcome, ChangeError> {
    let record = Record::Meta(MetaRecord { change: Some(change) });
    Ok(log.propose(&record).await?.outcome)
}

fn topic_of(outcome: ApplyOutcome) -> Result<(Arc<Topic>, bool), ChangeError> {
    match outcome {
        ApplyOutcome::Topic(topic, created) => Ok((topic, created)),
        other => Err(unexpected(&other)),
    }
}

fn group_of(outcome: ApplyOutcome) -> Result<(Arc<Group>, bool), ChangeError> {
    match outcome {
        ApplyOutcome::Group(group, created) => Ok((group, created)),
        other => Err(unexpected(&other)),
    }
}

fn deleted(outcome: ApplyOutcome) -> Result<bool, ChangeError> {
    match outcome {
        ApplyOutcome::Deleted(was_there) => Ok(was_there),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(outcome: &ApplyOutcome) -> ChangeError {
    ChangeError::Invalid(format!("the change had another effect than it should ({outcome:?}); try it again"))
}

#[cfg(test)]
mod tests;
