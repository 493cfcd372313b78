//! One consumer group on one topic: the engine's state behind a lock, and those who wait for messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kerolox_core::acks::Acks;
use kerolox_core::delivery::{
    self, Ask, Blocked, Counts, Dead, Fate, FilterId, HandleError, Lane, LanesWanted, Lease, Picked, Policy,
    Retrying, Standing, Verdict,
};
use kerolox_core::filter::Filter;
use kerolox_core::group::{Group, Start};
use kerolox_core::record::QueueProgress;
use kerolox_core::topic::Topic;
use kerolox_kit::process::now_ms;
use kerolox_store::{Store, StoreError};
use tokio::sync::Notify;

use super::alarm::Alarm;
use super::followers::Followers;

/// The owner of one subscription's state. The lock is a leaf: it is held for one decision, never across an await.
pub struct Subscription {
    group_id: u32,
    topic_id: u32,
    state: Mutex<State>,
    alarm: Alarm,
    /// See [`Self::heed_announced`].
    announced_version: AtomicU64,
    /// The queue of a subscription to a lite topic, and who may be waiting for something in it.
    lite: Option<(u32, Arc<Followers>)>,
}

struct State {
    engine: delivery::Subscription,
    /// By filter: one permit wakes one waiter. Whoever leaves something for others passes it on.
    wakes: HashMap<FilterId, Arc<Notify>>,
    /// When the alarm comes.
    alarm_ms: Option<i64>,
}

/// A consumer's place among those who receive with the same filter.
#[derive(Clone)]
pub struct Seat {
    /// Goes into [`Ask`].
    pub filter: FilterId,
    wake: Arc<Notify>,
}

impl Seat {
    /// Completes when there may be something to receive.
    pub async fn arrival(&self) {
        self.wake.notified().await;
    }

    /// Lets somebody else look: for waiters that give up.
    pub fn pass_on(&self) {
        self.wake.notify_one();
    }
}

impl Subscription {
    pub(super) fn new(group_id: u32, topic_id: u32, lease_base: u64, policy: Policy, alarm: Alarm) -> Self {
        let engine = delivery::Subscription::new(group_id, topic_id, lease_base, policy);
        let state = State { engine, wakes: HashMap::new(), alarm_ms: None };
        let announced_version = AtomicU64::default();
        Self { group_id, topic_id, state: Mutex::new(state), alarm, announced_version, lite: None }
    }

    /// See [`delivery::Subscription::hold_back`].
    pub(super) fn holding_back(self) -> Self {
        self.lock().engine.hold_back();
        self
    }

    /// See [`delivery::Subscription::settle`].
    pub(super) fn settle(&self, now_ms: i64) {
        self.change(now_ms, |engine| engine.settle(now_ms));
    }

    /// Takes up what members have announced if its `version` is a later one than last time.
    pub fn heed_announced(&self, version: u64, filters: impl FnOnce() -> Vec<Filter>) {
        if self.announced_version.load(Ordering::Acquire) >= version {
            return;
        }
        let filters = filters();
        let mut state = self.lock();
        // Another poll may know more by now.
        if self.announced_version.fetch_max(version, Ordering::AcqRel) < version {
            state.engine.announce(&filters);
        }
    }

    /// The same for the one queue of a lite topic.
    pub(super) fn of_lite(self, queue: u32, followers: Arc<Followers>) -> Self {
        Self { lite: Some((queue, followers)), ..self }
    }

    /// Number of the consumer group.
    pub fn group_id(&self) -> u32 {
        self.group_id
    }

    /// Number of the topic.
    pub fn topic_id(&self) -> u32 {
        self.topic_id
    }

    /// Takes up the queues of the topic that are not known yet, and the rules of the group as they are now. The answer
    /// tells whether there is a start to be logged.
    pub(super) fn catch_up(&self, topic: &Topic, group: &Group, store: &Store) -> Result<bool, StoreError> {
        let mut state = self.lock();
        state.engine.set_policy(group.policy(topic));
        add_queues(&mut state.engine, topic, group, store)
    }

    /// The same for a subscription to a lite topic, in which a group to which it is new begins at `start`.
    pub(super) fn catch_up_lite(
        &self,
        topic: &Topic,
        group: &Group,
        start: Start,
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

    /// Whether it is one message group as a whole.
    pub fn is_lite(&self) -> bool {
        self.lite.is_some()
    }

    /// See [`delivery::Subscription::last_lease`].
    pub(super) fn last_lease(&self) -> u64 {
        self.lock().engine.last_lease()
    }

    /// Whether nothing is lost when it is forgotten; see [`delivery::Subscription::is_idle`].
    pub(super) fn is_idle(&self) -> bool {
        self.lock().engine.is_idle()
    }

    /// Messages became visible.
    pub(super) fn extend(&self, queue: u32, end: u64) {
        let mut state = self.lock();
        state.engine.extend(queue, end);
        state.wake_all();
    }

    /// Messages expired.
    pub(super) fn expire_below(&self, queue: u32, min: u64) {
        self.lock().engine.expire_below(queue, min);
    }

    /// A message that was done is to be delivered once more, from `at_ms` on. It keeps no order with others: its turn is
    /// long over.
    pub(super) fn reopen(&self, at_ms: i64, queue: u32, offset: u64) {
        self.change(now_ms(), |engine| engine.reopen(at_ms, queue, offset, Lane::Alone(offset)));
    }

    /// The group goes on at these offsets of queues; see [`delivery::Subscription::reset`].
    pub fn reset(&self, now_ms: i64, offsets: &[(u32, u64)]) {
        self.change(now_ms, |engine| {
            offsets.iter().for_each(|(queue, offset)| engine.reset(*queue, *offset))
        });
    }

    /// A consumer receives with this filter.
    pub fn join(&self, now_ms: i64, client: &str, filter: &Filter) -> Seat {
        let mut state = self.lock();
        let filter = state.engine.join(now_ms, client, filter);
        let wake = state.wakes.entry(filter).or_default().clone();
        Seat { filter, wake }
    }

    /// See [`delivery::Subscription::lanes_wanted`].
    pub fn lanes_wanted(&self, now_ms: i64, ask: &Ask<'_>) -> Option<LanesWanted> {
        self.lock().engine.lanes_wanted(now_ms, ask)
    }

    /// See [`delivery::Subscription::tell_lanes`].
    pub fn tell_lanes(&self, queue: u32, from: u64, lanes: impl IntoIterator<Item = Lane>) {
        self.lock().engine.tell_lanes(queue, from, lanes);
    }

    /// Hands out visible messages; see [`delivery::Subscription::receive`]. The flag tells whether something has to be
    /// logged.
    pub fn receive(&self, now_ms: i64, ask: &Ask<'_>, alive: impl Fn(&str) -> bool) -> (Vec<Picked>, bool) {
        let mut state = self.lock();
        let picked = state.engine.receive(now_ms, ask, alive);
        if picked.len() == ask.max {
            state.wake(ask.filter);
        }
        let to_log = state.engine.has_to_log();
        self.set_alarm(&mut state, now_ms);
        (picked, to_log)
    }

    /// Filters of other members, which have received or announced themselves; none unless there are different ones.
    pub fn other_filters(&self, filter: FilterId) -> Vec<(FilterId, Arc<Filter>)> {
        self.lock().engine.other_filters(filter)
    }

    /// See [`delivery::Subscription::sort_out`].
    pub fn sort_out(&self, now_ms: i64, picked: Vec<Picked>, verdicts: &[Verdict]) -> Vec<Picked> {
        if self.is_lite() && verdicts.iter().all(|verdict| *verdict == Verdict::Wanted) {
            // Nothing is left for others, who would look in vain.
            return picked;
        }
        self.change(now_ms, |engine| engine.sort_out(now_ms, picked, verdicts))
    }

    /// See [`delivery::Subscription::give_back`].
    pub fn give_back(&self, now_ms: i64, picked: &[Picked]) {
        self.change(now_ms, |engine| engine.give_back(now_ms, picked));
    }

    /// See [`delivery::Subscription::is_known_to_have`].
    pub fn is_known_to_have(&self, picked: &[Picked]) -> bool {
        self.lock().engine.is_known_to_have(picked)
    }

    /// See [`delivery::Subscription::never_came`].
    pub fn never_came(&self, now_ms: i64, picked: &[Picked]) {
        self.change(now_ms, |engine| engine.never_came(now_ms, picked));
    }

    /// See [`delivery::Subscription::may_not_have_come`].
    pub fn may_not_have_come(&self, now_ms: i64, picked: &[Picked]) {
        self.change(now_ms, |engine| engine.may_not_have_come(now_ms, picked));
    }

    /// See [`delivery::Subscription::ack`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn ack(&self, now_ms: i64, lease: &Lease) -> Result<(), HandleError> {
        let mut state = self.lock();
        let acked = state.engine.ack(now_ms, lease);
        if state.engine.is_ordered() {
            // What stands behind it may have its turn.
            state.wake_all();
        }
        drop(state);
        self.call_followers();
        acked
    }

    /// See [`delivery::Subscription::change_invisible`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn change_invisible(
        &self,
        now_ms: i64,
        lease: &Lease,
        duration_ms: u64,
        suspend: bool,
    ) -> Result<Option<Lease>, HandleError> {
        self.change(now_ms, |engine| engine.change_invisible(now_ms, lease, duration_ms, suspend))
    }

    /// See [`delivery::Subscription::give_up`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn give_up(&self, now_ms: i64, lease: &Lease) -> Result<bool, HandleError> {
        self.change(now_ms, |engine| engine.give_up(now_ms, lease))
    }

    /// See [`delivery::Subscription::blocked`].
    pub fn blocked(&self) -> Vec<Blocked> {
        self.lock().engine.blocked()
    }

    /// See [`delivery::Subscription::retrying`].
    pub fn retrying(&self, max: usize) -> Vec<Retrying> {
        self.lock().engine.retrying(max)
    }

    /// See [`delivery::Subscription::unblock`].
    pub fn unblock(&self, now_ms: i64, queue: u32, offset: u64) -> bool {
        self.change(now_ms, |engine| engine.unblock(now_ms, queue, offset))
    }

    /// See [`delivery::Subscription::bury_blocked`].
    pub fn bury_blocked(&self, now_ms: i64, queue: u32, offset: u64) -> bool {
        self.change(now_ms, |engine| engine.bury_blocked(queue, offset))
    }

    /// What keeps the messages of each queue that are not done.
    pub fn counts(&self, now_ms: i64) -> BTreeMap<u32, Counts> {
        self.lock().engine.counts(now_ms)
    }

    /// What keeps a message from the group's consumers, and their filters; see [`delivery::Subscription::fate`].
    pub fn fate(&self, now_ms: i64, queue: u32, offset: u64) -> Option<(Fate, Vec<Arc<Filter>>)> {
        let state = self.lock();
        Some((state.engine.fate(now_ms, queue, offset)?, state.engine.filters()))
    }

    /// Where the group stands in each queue.
    pub(super) fn standings(&self, now_ms: i64) -> BTreeMap<u32, Standing> {
        self.lock().engine.standings(now_ms)
    }

    /// A client left: what it held while alive is visible again.
    pub(super) fn client_left(&self, now_ms: i64, client: &str) {
        self.change(now_ms, |engine| engine.client_left(now_ms, client));
    }

    /// The moment has come that the alarm was set for; returns whether something has to be logged.
    pub fn alarm(&self, now_ms: i64, alive: impl Fn(&str) -> bool) -> bool {
        self.lock().alarm_ms = None;
        self.change(now_ms, |engine| {
            engine.sweep(now_ms, alive);
            engine.has_to_log()
        })
    }

    pub(super) fn take_progress(&self) -> Vec<QueueProgress> {
        self.lock().engine.take_progress()
    }

    pub(super) fn take_dead(&self) -> Vec<Dead> {
        self.lock().engine.take_dead()
    }

    /// Changes something that may leave messages for those who wait.
    fn change<T>(&self, now_ms: i64, act: impl FnOnce(&mut delivery::Subscription) -> T) -> T {
        let mut state = self.lock();
        let done = act(&mut state.engine);
        state.wake_all();
        self.set_alarm(&mut state, now_ms);
        drop(state);
        self.call_followers();
        done
    }

    /// Tells the clients that subscribe to a lite topic that there may be something in it.
    fn call_followers(&self) {
        if let Some((queue, followers)) = &self.lite {
            followers.ready_for(self.topic_id, self.group_id, *queue);
        }
    }

    fn set_alarm(&self, state: &mut State, now_ms: i64) {
        let Some(next_ms) = state.engine.next_event_ms(now_ms) else { return };
        // One that comes too early does no harm, and sets the next one.
        if state.alarm_ms.is_none_or(|alarm_ms| alarm_ms > next_ms) {
            let queue = self.lite.as_ref().map(|(queue, _)| *queue);
            self.alarm.set((self.topic_id, self.group_id, queue), state.alarm_ms, next_ms);
            state.alarm_ms = Some(next_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, filter: FilterId) {
        if let Some(wake) = self.wakes.get(&filter) {
            wake.notify_one();
        }
    }

    /// Wakes one waiter with each filter.
    fn wake_all(&mut self) {
        if self.wakes.len() > self.engine.filters_len() {
            // Whoever still waits with a filter that is forgotten keeps its place until the poll ends.
            self.wakes.retain(|_, wake| Arc::strong_count(wake) > 1);
        }
        self.wakes.values().for_each(|wake| wake.notify_one());
    }
}

/// Adds the queues of the topic that the engine does not know yet, going on where the log says the group stands, or where
/// it is to start. The answer tells whether there is a start to be logged: a group that begins with what comes must still
/// get it after a restart.
pub(super) fn add_queues(
    engine: &mut delivery::Subscription,
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

/// The same for one queue.
pub(super) fn add_queue(
    engine: &mut delivery::Subscription,
    (topic_id, queue): (u32, u32),
    group_id: u32,
    start: Start,
    store: &Store,
) -> Result<bool, StoreError> {
    let index = store.index();
    let bounds = index.queue_bounds(topic_id, queue);
    let start = match (index.acks(group_id, topic_id, queue)?, start) {
        (Some(acks), _) => {
            engine.add_queue(queue, acks, bounds.next);
            return Ok(false);
        }
        (None, Start::Earliest) => {
            engine.add_queue(queue, Acks::starting_at(bounds.min), bounds.next);
            return Ok(false);
        }
        (None, Start::Latest) => bounds.next,
        (None, Start::At(time_ms)) => index.offset_at(topic_id, queue, time_ms)?,
    };
    engine.begin_queue(queue, start, bounds.next);
    Ok(true)
}

/// A subscription as everybody holds it.
pub(crate) type Shared = Arc<Subscription>;
