//! One consumer group on one topic: the engine behind a lock, and the consumers that wait for messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kerolox_core::acks::QueueAcks;
use kerolox_core::delivery::{
    DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, FilterId, FilterResult, HandleError,
    LeaseId, OrderingKey, ReceiveRequest,
};
use kerolox_core::filter::Filter;
use kerolox_core::group::{Group, StartPosition};
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::topic::Topic;
use kerolox_runtime::process::now_ms;
use kerolox_store::{Store, StoreError};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::alarm::Alarm;
use super::lite_subscriptions::LiteDirectory;

/// The owner of one delivery engine. The lock is a leaf: it is held for one decision, never across an await.
///
/// Calls that do not concern waiting consumers reach the engine by [`Self::with`], and calls that may make messages
/// available for them by [`Self::change`]; the other methods add facts that the engine does not know.
pub struct TopicSubscription {
    group_id: u32,
    topic_id: u32,
    state: Mutex<SubscriptionState>,
    alarm: Alarm,
    /// See [`Self::heed_announced`].
    announced_version: AtomicU64,
    /// The queue of a subscription to a lite topic, and the clients that may wait for its messages.
    lite: Option<(u32, Arc<LiteDirectory>)>,
}

struct SubscriptionState {
    engine: DeliveryEngine,
    /// By filter: one permit wakes one waiter. A waiter that leaves messages for others passes it on.
    wakes: HashMap<FilterId, Arc<Notify>>,
    /// Time of the alarm.
    alarm_ms: Option<i64>,
}

/// A consumer's registration among those that receive with an equal filter.
#[derive(Clone)]
pub struct WaiterRegistration {
    /// The filter's number for [`ReceiveRequest`].
    pub filter: FilterId,
    wake: Arc<Notify>,
}

impl WaiterRegistration {
    /// Completes when there may be messages to receive.
    pub async fn arrival(&self) {
        self.wake.notified().await;
    }

    /// Lets another waiter continue: for waiters that give up.
    pub fn pass_on(&self) {
        self.wake.notify_one();
    }
}

impl TopicSubscription {
    pub(super) fn new(
        group_id: u32,
        topic_id: u32,
        lease_base: u64,
        policy: DeliveryPolicy,
        alarm: Alarm,
    ) -> Self {
        let engine = DeliveryEngine::new(group_id, topic_id, lease_base, policy);
        let state = SubscriptionState { engine, wakes: HashMap::new(), alarm_ms: None };
        let announced_version = AtomicU64::default();
        Self { group_id, topic_id, state: Mutex::new(state), alarm, announced_version, lite: None }
    }

    /// Holds messages that no known member wants until all members are known.
    pub(super) fn holding_back(self) -> Self {
        self.with(DeliveryEngine::hold_back);
        self
    }

    /// Makes it the subscription to the one queue of a lite topic.
    pub(super) fn of_lite(self, queue: u32, directory: Arc<LiteDirectory>) -> Self {
        Self { lite: Some((queue, directory)), ..self }
    }

    /// Number of the consumer group.
    pub fn group_id(&self) -> u32 {
        self.group_id
    }

    /// Number of the topic.
    pub fn topic_id(&self) -> u32 {
        self.topic_id
    }

    /// Whether it is a subscription to a lite topic, which is one message group as a whole.
    pub fn is_lite(&self) -> bool {
        self.lite.is_some()
    }

    /// Calls the engine without making messages available for waiting consumers.
    pub fn with<T>(&self, act: impl FnOnce(&mut DeliveryEngine) -> T) -> T {
        act(&mut self.lock().engine)
    }

    /// Calls the engine and wakes waiting consumers, for which messages may be available.
    pub fn change<T>(&self, now_ms: i64, act: impl FnOnce(&mut DeliveryEngine) -> T) -> T {
        let mut state = self.lock();
        let done = act(&mut state.engine);
        state.wake_all();
        self.set_alarm(&mut state, now_ms);
        drop(state);
        self.wake_lite_subscribers();
        done
    }

    /// Applies the announced filters if their `version` is newer than the last one.
    pub fn heed_announced(&self, version: u64, filters: impl FnOnce() -> Vec<Filter>) {
        if self.announced_version.load(Ordering::Acquire) >= version {
            return;
        }
        let filters = filters();
        let mut state = self.lock();
        // Another poll may have applied a newer version.
        if self.announced_version.fetch_max(version, Ordering::AcqRel) < version {
            state.engine.announce(&filters);
        }
    }

    /// Adds the queues of the topic that are not known yet, and applies the current rules of the group. Returns whether
    /// there is a start to be logged.
    pub(super) fn catch_up(&self, topic: &Topic, group: &Group, store: &Store) -> Result<bool, StoreError> {
        let mut state = self.lock();
        state.engine.set_policy(group.policy(topic));
        add_queues(&mut state.engine, topic, group, store)
    }

    /// [`Self::catch_up`] for a subscription to a lite topic, in which a group to which it is new begins at `start`.
    pub(super) fn catch_up_lite(
        &self,
        topic: &Topic,
        group: &Group,
        start: StartPosition,
        store: &Store,
    ) -> Result<bool, StoreError> {
        let Some((queue, _)) = self.lite else { return Ok(false) };
        let mut state = self.lock();
        state.engine.set_policy(group.policy(topic));
        if state.engine.has_queue(queue) {
            return Ok(false);
        }
        add_queue(&mut state.engine, (topic.id, queue), group.id, start, store)
    }

    /// The newest lease that was issued.
    pub(super) fn last_lease(&self) -> LeaseId {
        self.with(|engine| engine.last_lease())
    }

    /// Messages became visible.
    pub(super) fn extend(&self, queue: u32, end: u64) {
        let mut state = self.lock();
        state.engine.extend(queue, QueueOffset::new(end));
        state.wake_all();
    }

    /// Redelivers a message that was done, from `at_ms` on. It is not ordered with others: its turn is long over.
    pub(super) fn reopen(&self, at_ms: i64, queue: u32, offset: QueueOffset) {
        self.change(now_ms(), |engine| engine.reopen(at_ms, queue, offset, OrderingKey::Alone(offset)));
    }

    /// Registers a consumer that receives with this filter.
    pub fn join(&self, now_ms: i64, client: &str, filter: &Filter) -> WaiterRegistration {
        let mut state = self.lock();
        let filter = state.engine.join(now_ms, client, filter);
        let wake = state.wakes.entry(filter).or_default().clone();
        WaiterRegistration { filter, wake }
    }

    /// Hands out visible messages; see [`DeliveryEngine::receive`]. The flag tells whether progress has to be logged.
    pub fn receive(
        &self,
        now_ms: i64,
        request: &ReceiveRequest<'_>,
        alive: impl Fn(&str) -> bool,
    ) -> (Vec<DeliveredMessage>, bool) {
        let mut state = self.lock();
        let picked = state.engine.receive(now_ms, request, alive);
        if picked.len() == request.max {
            state.wake(request.filter);
        }
        let to_log = state.engine.has_to_log();
        self.set_alarm(&mut state, now_ms);
        (picked, to_log)
    }

    /// Keeps the messages that the receiver wants; see [`DeliveryEngine::apply_filter_results`].
    pub fn apply_filter_results(
        &self,
        now_ms: i64,
        picked: Vec<DeliveredMessage>,
        results: &[FilterResult],
    ) -> Vec<DeliveredMessage> {
        if self.is_lite() && results.iter().all(|result| *result == FilterResult::Wanted) {
            // No messages are left for other waiters.
            return picked;
        }
        self.change(now_ms, |engine| engine.apply_filter_results(now_ms, picked, results))
    }

    /// Acknowledges a delivery; see [`DeliveryEngine::ack`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn ack(&self, now_ms: i64, handle: &DeliveryHandle) -> Result<(), HandleError> {
        let mut state = self.lock();
        let acked = state.engine.ack(now_ms, handle);
        if state.engine.is_ordered() {
            // Messages behind it may be ready now.
            state.wake_all();
        }
        drop(state);
        self.wake_lite_subscribers();
        acked
    }

    /// Does the due work; returns whether progress has to be logged.
    pub fn sweep(&self, now_ms: i64, alive: impl Fn(&str) -> bool) -> bool {
        self.lock().alarm_ms = None;
        self.change(now_ms, |engine| {
            engine.sweep(now_ms, alive);
            engine.has_to_log()
        })
    }

    /// Notifies the clients that subscribe to a lite topic that it may have messages.
    fn wake_lite_subscribers(&self) {
        if let Some((queue, directory)) = &self.lite {
            directory.ready(self.topic_id, *queue, Some(self.group_id));
        }
    }

    fn set_alarm(&self, state: &mut SubscriptionState, now_ms: i64) {
        let Some(next_ms) = state.engine.next_event_ms(now_ms) else { return };
        // An alarm that comes too early does no harm, and sets the next one.
        if state.alarm_ms.is_none_or(|alarm_ms| alarm_ms > next_ms) {
            let queue = self.lite.as_ref().map(|(queue, _)| *queue);
            self.alarm.set((self.topic_id, self.group_id, queue), state.alarm_ms, next_ms);
            state.alarm_ms = Some(next_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, SubscriptionState> {
        self.state.lock()
    }
}

impl SubscriptionState {
    fn wake(&mut self, filter: FilterId) {
        if let Some(wake) = self.wakes.get(&filter) {
            wake.notify_one();
        }
    }

    /// Wakes one waiter with each filter.
    fn wake_all(&mut self) {
        if self.wakes.len() > self.engine.filters_len() {
            // A waiter whose filter is forgotten keeps its registration until the poll ends.
            self.wakes.retain(|_, wake| Arc::strong_count(wake) > 1);
        }
        self.wakes.values().for_each(|wake| wake.notify_one());
    }
}

/// Adds the queues of the topic that the engine does not know yet, at the logged position of the group, or at its start.
/// Returns whether there is a start to be logged: a group that begins at the end of a queue must still get later messages
/// after a restart.
pub(super) fn add_queues(
    engine: &mut DeliveryEngine,
    topic: &Topic,
    group: &Group,
    store: &Store,
) -> Result<bool, StoreError> {
    let new = (0..topic.read_queues).filter(|queue| !engine.has_queue(*queue));
    let mut begins = false;
    for queue in new.collect::<Vec<_>>() {
        begins |= add_queue(engine, (topic.id, queue), group.id, group.start(), store)?;
    }
    Ok(begins)
}

/// [`add_queues`] for one queue.
pub(super) fn add_queue(
    engine: &mut DeliveryEngine,
    (topic_id, queue): (u32, u32),
    group_id: u32,
    start: StartPosition,
    store: &Store,
) -> Result<bool, StoreError> {
    let index = store.state();
    let bounds = index.queues.bounds(topic_id, queue);
    let start = match (index.acks(group_id, topic_id, queue)?, start) {
        (Some(acks), _) => {
            engine.add_queue(queue, acks, QueueOffset::new(bounds.next));
            return Ok(false);
        }
        (None, StartPosition::Earliest) => {
            engine.add_queue(
                queue,
                QueueAcks::starting_at(QueueOffset::new(bounds.min)),
                QueueOffset::new(bounds.next),
            );
            return Ok(false);
        }
        (None, StartPosition::Latest) => bounds.next,
        (None, StartPosition::At(time_ms)) => index.offset_at(topic_id, queue, time_ms)?,
    };
    engine.begin_queue(queue, QueueOffset::new(start), QueueOffset::new(bounds.next));
    Ok(true)
}
