//! The storage engine as the rest of the broker uses it: asynchronous, with errors in the protocol's words.

use std::sync::Arc;
use std::time::Duration;

use kerolox_core::group::Group;
use kerolox_core::group_change::{self, GroupChange};
use kerolox_core::record::{
    DeleteGroup, DeleteTopic, DropLites, LiteTopic, MetaChange, MetaRecord, Record, Withhold,
};
use kerolox_core::replicas::Durability;
use kerolox_core::topic::{PERM_READ, PERM_WRITE, Topic};
use kerolox_core::topic_change::{self, TopicChange};
use kerolox_gateway::refusal::Refusal;
use kerolox_proto::v2::Code;
use kerolox_store::{AppliedRecord, ApplyOutcome, ProposeError, QueueEntry, ReadMessage, Store, StoreError};
use tokio::sync::{Mutex, MutexGuard, Notify, oneshot, watch};

use crate::config::BrokerConfig;
use crate::dedup_gate::{Reservation, Underway};
use crate::replication::{Leadership, RemoteRead};
use crate::tasks::retention::DiskSpace;

/// The storage engine of this broker. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    store: Arc<Store>,
    default_queues: u32,
    durability: Durability,
    ack_timeout: Duration,
    min_in_sync: usize,
    /// Of a member of a replicated group.
    reign: Option<Arc<Leadership>>,
    space: DiskSpace,
    underway: Underway,
    /// Held from looking at a topic or group until its change is applied, so that no change is lost to another one.
    changing: Arc<Mutex<()>>,
    /// Tells of topics that were created or changed.
    topics_changed: Arc<Notify>,
    /// The same for everybody who waits for one.
    topics_version: Arc<watch::Sender<u64>>,
}

impl Engine {
    /// An engine over `store`, for a reign if this broker is a member of a replicated group. Messages are refused while disk
    /// `space` is short.
    pub(crate) fn new(
        store: Arc<Store>,
        config: &BrokerConfig,
        space: DiskSpace,
        reign: Option<Arc<Leadership>>,
    ) -> Self {
        let durability = Durability { flush: config.log.flush(), replicas: config.replication.replicas() };
        let (changing, topics_changed) = (Arc::default(), Arc::default());
        let (underway, topics_version) = (Underway::default(), Arc::default());
        Self {
            store,
            default_queues: config.topics.default_queues,
            durability,
            ack_timeout: config.replication.ack_timeout.duration(),
            min_in_sync: config.replication.min_in_sync,
            reign,
            space,
            underway,
            changing,
            topics_changed,
            topics_version,
        }
    }

    /// The store, for look-ups.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The messages that entries stand for, each as from [`Store::read_entry`]. In a replicated group those that are damaged here
    /// are read at a slave, and those that lie far back too if the operator wants that.
    pub(crate) async fn read_entries(&self, entries: &[Option<QueueEntry>]) -> Vec<ReadMessage> {
        let far: Vec<QueueEntry> = match &self.reign {
            Some(reign) if reign.reads_far_back_elsewhere() => {
                entries.iter().flatten().filter(|entry| !self.store.is_hot(entry.position)).copied().collect()
            }
            _ => Vec::new(),
        };
        let elsewhere = self.read_elsewhere(&far).await;
        let read = |entry: &Option<QueueEntry>| match entry {
            Some(entry) => match elsewhere.get(&entry.position) {
                Some(message) => Ok(Some(message.clone())),
                None => self.store.read_entry(entry),
            },
            None => Ok(None),
        };
        let mut messages: Vec<ReadMessage> = entries.iter().map(read).collect();
        let is_damaged = |read: &ReadMessage| read.as_ref().is_err_and(StoreError::is_damage);
        let damaged = entries.iter().zip(&messages).filter(|(_, read)| is_damaged(read));
        let damaged: Vec<QueueEntry> = damaged.filter_map(|(entry, _)| *entry).collect();
        let mended = self.read_elsewhere(&damaged).await;
        for (entry, read) in entries.iter().zip(&mut messages) {
            if let Some(message) = entry.and_then(|entry| mended.get(&entry.position)) {
                *read = Ok(Some(message.clone()));
            }
        }
        messages
    }

    async fn read_elsewhere(&self, entries: &[QueueEntry]) -> RemoteRead {
        match &self.reign {
            Some(reign) if !entries.is_empty() => reign.read_elsewhere(entries).await,
            _ => RemoteRead::default(),
        }
    }

    /// What is being stored in topics without duplicates.
    pub fn underway(&self) -> &Underway {
        &self.underway
    }

    /// Proposes a record at once; the returned future waits until it is stored and applied. Dropping the future does not
    /// take the record back.
    pub fn propose(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<AppliedRecord, ProposeError>> + Send + use<> {
        let (answer, applied) = oneshot::channel();
        // Acknowledgements that are lost with the master come again as messages; everything else is to be kept.
        let is_progress = matches!(record, Record::Progress(_));
        match self.refusal().filter(|refusal| !is_progress || *refusal == ProposeError::NotMaster) {
            Some(refusal) => drop(answer.send(Err(refusal))),
            // Whoever asked may have gone away; the record stays all the same.
            None => {
                let done = Box::new(move |outcome| drop(answer.send(outcome)));
                self.store.propose(record, self.durability, done);
            }
        }
        self.confirmed(applied)
    }

    /// Waits for the answer to a proposal, as long as slaves may take to confirm it.
    fn confirmed<T: Send>(
        &self,
        answer: oneshot::Receiver<Result<T, ProposeError>>,
    ) -> impl Future<Output = Result<T, ProposeError>> + Send + use<T> {
        let patience = self.reign.is_some().then_some(self.ack_timeout);
        async move {
            let answer = match patience {
                Some(patience) => match tokio::time::timeout(patience, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(ProposeError::Unconfirmed(patience)),
                },
                None => answer.await,
            };
            answer.unwrap_or(Err(ProposeError::Closed))
        }
    }

    /// Why nothing that is to be kept can be taken, as far as that is known beforehand.
    fn refusal(&self) -> Option<ProposeError> {
        let reign = self.reign.as_ref()?;
        if reign.over.is_requested() {
            return Some(ProposeError::NotMaster);
        }
        let in_sync = reign.in_sync_len();
        (in_sync < self.min_in_sync).then_some(ProposeError::NotInSync { in_sync, needed: self.min_in_sync })
    }

    /// Whether this broker is sure to be the master: only then may it hand out messages, which another master may have
    /// given to others.
    ///
    /// # Errors
    /// HA_NOT_AVAILABLE
    pub fn check_rule(&self) -> Result<(), Refusal> {
        let is_over = self.reign.as_ref().is_some_and(|reign| reign.over.is_requested());
        if is_over || !self.store.rules() {
            return Err(refused_by_log(&ProposeError::NotMaster));
        }
        Ok(())
    }

    /// The same for new messages of a topic, which may have its own idea of what counts as stored. All are stored or none
    /// is. They are refused while disk space is short; everything that is not a new message still goes through. `reservation` is
    /// dropped when they are stored or cannot be, whether or not somebody still waits for that.
    pub fn propose_for(
        &self,
        topic: &Topic,
        messages: &[Record],
        reservation: Option<Reservation>,
    ) -> impl Future<Output = Result<Vec<AppliedRecord>, ProposeError>> + Send + use<> {
        let (answer, applied) = oneshot::channel();
        if let Some(refusal) = self.refusal() {
            drop(answer.send(Err(refusal)));
        } else if self.space.is_short() {
            drop(answer.send(Err(ProposeError::NoRoom)));
        } else {
            let durability = Durability {
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

    /// Creates or changes a topic; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_topic(&self, change: &TopicChange) -> Result<(Arc<Topic>, bool), ChangeError> {
        let changing = self.changing.lock().await;
        self.put_topic_locked(&changing, change).await
    }

    /// What a change would make of a topic, with what it is now. Changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`].
    pub fn plan_topic(&self, change: &TopicChange) -> Result<(Option<Arc<Topic>>, Topic), ChangeError> {
        let present = self.store.state().topics.get(&change.name);
        let wanted = topic_change::changed(present.as_deref(), change, self.default_queues)
            .map_err(|error| ChangeError::Invalid(error.to_string()))?;
        Ok((present, wanted))
    }

    /// What a change would make of a consumer group, with what it is now. Changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`].
    pub fn plan_group(&self, change: &GroupChange) -> Result<(Option<Arc<Group>>, Group), ChangeError> {
        let present = self.store.state().groups.get(&change.name);
        let wanted = group_change::changed(present.as_deref(), change)
            .map_err(|error| ChangeError::Invalid(error.to_string()))?;
        Ok((present, wanted))
    }

    /// Creates a topic unless there is one of this name; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn make_topic(&self, change: &TopicChange) -> Result<(Arc<Topic>, bool), ChangeError> {
        let changing = self.changing.lock().await;
        let present = self.store.state().topics.get(&change.name);
        match present {
            Some(present) => Ok((present, false)),
            None => self.put_topic_locked(&changing, change).await,
        }
    }

    async fn put_topic_locked(
        &self,
        _changing: &MutexGuard<'_, ()>,
        change: &TopicChange,
    ) -> Result<(Arc<Topic>, bool), ChangeError> {
        let (present, mut wanted) = self.plan_topic(change)?;
        if present.is_none() {
            wanted.id = self.store.state().topics.next_id();
        }
        match self.change(MetaChange::PutTopic(wanted)).await? {
            ApplyOutcome::Topic(topic, created) => {
                self.topics_changed.notify_one();
                self.topics_version.send_modify(|version| *version += 1);
                Ok((topic, created))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Returns when topics were created or changed since it returned last, whoever did it: the broker itself creates
    /// dead-letter topics. For one task.
    pub async fn topics_changed(&self) {
        self.topics_changed.notified().await;
    }

    /// Changes whenever a topic was created or changed. For any number of tasks.
    pub fn topics_version(&self) -> watch::Receiver<u64> {
        self.topics_version.subscribe()
    }

    /// Creates or changes a consumer group; the flag tells whether it is new.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_group(&self, change: &GroupChange) -> Result<(Arc<Group>, bool), ChangeError> {
        let _changing = self.changing.lock().await;
        let (present, mut wanted) = self.plan_group(change)?;
        if present.is_none() {
            wanted.id = self.store.state().groups.next_id();
        }
        match self.change(MetaChange::PutGroup(wanted)).await? {
            ApplyOutcome::Group(group, created) => Ok((group, created)),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the member `client` of a broadcast group, unless there is one.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn put_member(&self, group: &Group, client: &str) -> Result<Arc<Group>, ChangeError> {
        let _changing = self.changing.lock().await;
        let id = self.store.state().groups.next_id();
        let wanted = Group { id, ..group.as_member(client) };
        match self.change(MetaChange::PutGroup(wanted)).await? {
            ApplyOutcome::Group(member, _) => Ok(member),
            other => Err(unexpected(&other)),
        }
    }

    /// The queues of lite topics, in their order; those that do not exist are made, all with one write. Their parent is to have
    /// `max` lite topics at the most.
    ///
    /// # Errors
    /// [`LiteError`]; none was made then.
    pub async fn put_lites(&self, topic: &Topic, names: &[&str], max: u64) -> Result<Vec<u32>, LiteError> {
        let (mut queues, records) = {
            let index = self.store.state();
            let (mut queues, mut records) = (Vec::with_capacity(names.len()), Vec::new());
            for name in names {
                let known = index.lites.get(topic.id, name)?.map(|lite| lite.queue);
                queues.push(known);
                if known.is_none() {
                    let queue =
                        index.lites.next_queue().saturating_add(records.len().try_into().unwrap_or(u32::MAX));
                    let (topic_id, name) = (topic.id, (*name).to_owned());
                    let lite = LiteTopic { topic_id, queue, name, created_ms: self.store.now_ms() };
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
            let mut made = self.propose_for(topic, &records, None).await?.into_iter();
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

    /// Removes lite topics of a parent that have got no message since they were looked at; the answer tells whether one went.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn drop_lites(&self, drop: DropLites) -> Result<bool, ChangeError> {
        match self.change(MetaChange::DropLites(drop)).await? {
            ApplyOutcome::Deleted(was_there) => Ok(was_there),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a topic; the answer tells whether there was one.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn delete_topic(&self, name: &str) -> Result<bool, ChangeError> {
        self.delete(MetaChange::DeleteTopic(DeleteTopic { name: name.to_owned() })).await
    }

    /// Deletes a consumer group; the answer tells whether there was one.
    ///
    /// # Errors
    /// [`ChangeError::Log`].
    pub async fn delete_group(&self, name: &str) -> Result<bool, ChangeError> {
        self.delete(MetaChange::DeleteGroup(DeleteGroup { name: name.to_owned() })).await
    }

    /// Withholds permissions from all topics, or gives back what was withheld.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn withhold(&self, perm: u32) -> Result<(), ChangeError> {
        if perm & !(PERM_READ | PERM_WRITE) != 0 {
            return Err(ChangeError::Invalid(format!(
                "{perm} cannot be withheld: use 0 (nothing), 2 (write), 4 (read) or 6 (read and write)"
            )));
        }
        if self.store.state().topics.withheld() != perm {
            self.change(MetaChange::Withhold(Withhold { perm })).await?;
        }
        Ok(())
    }

    /// Whether producers are not to send to this broker group.
    pub fn withholds_writing(&self) -> bool {
        self.store.state().topics.withheld() & PERM_WRITE != 0
    }

    async fn delete(&self, change: MetaChange) -> Result<bool, ChangeError> {
        let _changing = self.changing.lock().await;
        match self.change(change).await? {
            ApplyOutcome::Deleted(was_there) => Ok(was_there),
            other => Err(unexpected(&other)),
        }
    }

    async fn change(&self, change: MetaChange) -> Result<ApplyOutcome, ChangeError> {
        let record = Record::Meta(MetaRecord { change: Some(change) });
        Ok(self.propose(&record).await?.outcome)
    }
}

/// A topic or group was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be stored.
    #[error(transparent)]
    Log(#[from] ProposeError),
}

/// A lite topic was not made.
#[derive(Debug, thiserror::Error)]
pub enum LiteError {
    /// The parent has as many as it may have.
    #[error(
        "topic {topic:?} has {count} lite topics on this broker, where {max} is the limit; let idle ones expire (+lite.topic.expiration=MINUTES), or have the operator raise lite.max-topics"
    )]
    TooMany {
        /// The parent.
        topic: String,
        /// How many it has.
        count: u64,
        /// How many it may have.
        max: u64,
    },
    /// All queue numbers were given.
    #[error("this broker has given out all numbers that lite topics can have; use another broker")]
    NoNumbers,
    /// The parent was deleted in the meantime.
    #[error("topic {0:?} was deleted; create it with mqadmin updateTopic")]
    NoTopic(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be stored.
    #[error(transparent)]
    Log(#[from] ProposeError),
}

fn unexpected(outcome: &ApplyOutcome) -> ChangeError {
    ChangeError::Invalid(format!("the change had another effect than it should ({outcome:?}); try it again"))
}

/// How a failed proposal reaches a client.
pub fn refused_by_log(error: &ProposeError) -> Refusal {
    let code = match error {
        ProposeError::Busy { .. } | ProposeError::NoRoom | ProposeError::NotNow(_) => Code::TooManyRequests,
        ProposeError::ReadOnly(_) | ProposeError::Closed => Code::InternalServerError,
        ProposeError::NotMaster | ProposeError::NotInSync { .. } => Code::HaNotAvailable,
        ProposeError::Deposed | ProposeError::Unconfirmed(_) => Code::SlavePersistenceTimeout,
    };
    Refusal::new(code, error.to_string())
}

/// How a failed look-up reaches a client. The cause goes to the broker's log: somebody has to mend it, unless the broker does.
pub fn refused_by_store(error: &StoreError) -> Refusal {
    if error.index_damage().is_some() {
        let text = "the broker's index is damaged and is made again from the log; try again in a moment";
        return Refusal::new(Code::InternalServerError, text);
    }
    tracing::error!(%error, "reading the store failed");
    Refusal::new(Code::InternalServerError, format!("the broker cannot read its store: {error}"))
}
