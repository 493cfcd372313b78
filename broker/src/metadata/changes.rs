//! The task that makes all changes of topics and groups. The result of a change depends on the present state, so the next one is
//! planned after the previous one is applied: no change overwrites another.

use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::group_change::{self, GroupChange};
use kerolox_core::record::MetaChange;
use kerolox_core::topic::Topic;
use kerolox_core::topic_change::{self, TopicChange};
use kerolox_store::ApplyOutcome;
use tokio::sync::{mpsc, oneshot, watch};

use super::{ChangeError, propose};
use crate::log_client::LogClient;

/// A change that waits for its turn.
pub(super) struct QueuedChange {
    pub(super) change: WantedChange,
    /// The caller may have gone away; the change is made all the same.
    pub(super) answer: oneshot::Sender<Result<ApplyOutcome, ChangeError>>,
}

/// The requested change.
pub(super) enum WantedChange {
    PutTopic(TopicChange),
    /// Leaves an existing topic unchanged.
    MakeTopic(TopicChange),
    PutGroup(GroupChange),
    /// The member of a broadcast group, without an id yet.
    PutMember(Box<Group>),
    Delete(MetaChange),
}

/// The plan for a requested change.
enum PlannedChange {
    Propose(MetaChange),
    /// Nothing to do: this is the outcome.
    Done(ApplyOutcome),
}

/// Plans changes against the state machine's content.
#[derive(Clone)]
pub(super) struct ChangePlanner {
    pub(super) log: LogClient,
    pub(super) default_queues: u32,
}

impl ChangePlanner {
    pub(super) fn topic(&self, change: &TopicChange) -> Result<(Option<Arc<Topic>>, Topic), ChangeError> {
        let present = self.log.store().state().topics.get(&change.name);
        let wanted = topic_change::changed(present.as_deref(), change, self.default_queues)
            .map_err(|error| ChangeError::Invalid(error.to_string()))?;
        Ok((present, wanted))
    }

    pub(super) fn group(&self, change: &GroupChange) -> Result<(Option<Arc<Group>>, Group), ChangeError> {
        let present = self.log.store().state().groups.get(&change.name);
        let wanted = group_change::changed(present.as_deref(), change)
            .map_err(|error| ChangeError::Invalid(error.to_string()))?;
        Ok((present, wanted))
    }

    fn plan(&self, change: WantedChange) -> Result<PlannedChange, ChangeError> {
        let state = || self.log.store().state();
        let change = match change {
            WantedChange::MakeTopic(change) => {
                let present = state().topics.get(&change.name);
                match present {
                    Some(present) => return Ok(PlannedChange::Done(ApplyOutcome::Topic(present, false))),
                    None => return self.plan(WantedChange::PutTopic(change)),
                }
            }
            WantedChange::PutTopic(change) => {
                let (present, mut wanted) = self.topic(&change)?;
                if present.is_none() {
                    wanted.id = state().topics.next_id();
                }
                MetaChange::PutTopic(wanted)
            }
            WantedChange::PutGroup(change) => {
                let (present, mut wanted) = self.group(&change)?;
                if present.is_none() {
                    wanted.id = state().groups.next_id();
                }
                MetaChange::PutGroup(wanted)
            }
            WantedChange::PutMember(member) => {
                let id = state().groups.next_id();
                MetaChange::PutGroup(Group { id, ..*member })
            }
            WantedChange::Delete(deletion) => deletion,
        };
        Ok(PlannedChange::Propose(change))
    }
}

/// The task.
pub(crate) struct MetadataChanges {
    planner: ChangePlanner,
    waiting: mpsc::Receiver<QueuedChange>,
    topics_version: Arc<watch::Sender<u64>>,
}

impl MetadataChanges {
    pub(super) fn new(
        planner: ChangePlanner,
        waiting: mpsc::Receiver<QueuedChange>,
        topics_version: Arc<watch::Sender<u64>>,
    ) -> Self {
        Self { planner, waiting, topics_version }
    }

    /// Makes one change after the other, until all senders are dropped. Callers that wait when this future is dropped are told that
    /// the log is closed.
    pub(crate) async fn run(mut self) {
        while let Some(QueuedChange { change, answer }) = self.waiting.recv().await {
            let made = self.make(change).await;
            // The caller has gone away.
            let _ = answer.send(made);
        }
    }

    async fn make(&self, change: WantedChange) -> Result<ApplyOutcome, ChangeError> {
        let change = match self.planner.plan(change)? {
            PlannedChange::Propose(change) => change,
            PlannedChange::Done(outcome) => return Ok(outcome),
        };
        let outcome = propose(&self.planner.log, change).await?;
        if matches!(outcome, ApplyOutcome::Topic(..)) {
            self.topics_version.send_modify(|version| *version += 1);
        }
        Ok(outcome)
    }
}
