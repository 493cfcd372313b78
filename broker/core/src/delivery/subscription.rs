//! A consumer group on one topic of this broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batches::Batches;
use super::cursor::{Counts, Cursor, InFlight};
use super::handle::{HandleError, Lease};
use super::lanes::Lane;
use super::members::{FilterId, Members};
use super::policy::Policy;
use crate::acks::Acks;
use crate::filter::Filter;
use crate::record::{DeadReason, QueueProgress};

/// How long a message stays with a client that renews automatically before it must be acknowledged again; the client
/// only has to live. RocketMQ's default invisible time of push consumers.
const AUTO_RENEW_MS: u64 = 60_000;
/// After this long even a living client loses a message that it never acknowledged (RocketMQ's `renewMaxTimeMillis`).
const AUTO_RENEW_MS_MAX: i64 = 3 * 3_600_000;
/// How often members that are gone are looked for.
const PRUNE_EVERY_MS: i64 = 5_000;

/// How a receiver wants to hold messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Invisible to others for this many milliseconds.
    For(u64),
    /// Invisible to others while the client lives.
    WhileAlive,
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Most messages that it takes.
    pub max: usize,
    /// How it wants to hold them.
    pub held: Held,
    /// Its client id.
    pub client: &'a str,
    /// Its filter, as [`Subscription::join`] numbered it.
    pub filter: FilterId,
    /// When present: a receive that repeats this id gets the same messages.
    pub attempt_id: Option<&'a str>,
}

/// A message handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// Goes into the receipt handle.
    pub lease: u64,
    /// When it becomes visible again unless it is acknowledged, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// What reading a picked message showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its receiver gets it.
    Wanted,
    /// No member of the group wants it, or it is not there any more: it is done.
    Unwanted,
    /// The receiver does not want it, but members with this filter do.
    WantedBy(FilterId),
    /// It cannot be read; to be tried again at this time, milliseconds since the Unix epoch.
    Unreadable(i64),
}

/// From where on the engine has to be told the lanes of messages, see [`Subscription::tell_lanes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanesWanted {
    /// Queue of the topic.
    pub queue: u32,
    /// First offset.
    pub from: u64,
    /// One past the newest offset.
    pub end: u64,
}

/// A message that used up its attempts and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Messages that wait because of it, itself included, as far as the engine has looked.
    pub waiting: usize,
}

/// A message that the group gave up. It counts as done for the engine; that, and the dead letter, have to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Deliveries that it had.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: DeadReason,
}

/// Where a group stands in one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Everything below this offset is done.
    pub committed: u64,
    /// One past the newest visible offset.
    pub end: u64,
    /// What keeps the messages that are not done.
    pub counts: Counts,
}

/// State of one consumer group on one topic.
#[derive(Debug, Clone)]
pub struct Subscription {
    group_id: u32,
    topic_id: u32,
    policy: Policy,
    queues: BTreeMap<u32, Cursor>,
    members: Members,
    batches: Batches,
    pruned_ms: i64,
    /// Queue that the next receive looks at first.
    turn: u32,
    next_lease: u64,
}

impl Subscription {
    /// A subscription without queues. `lease_base` must grow from one life of the process to the next, so that lease
    /// numbers never repeat: use the start time in microseconds.
    pub fn new(group_id: u32, topic_id: u32, lease_base: u64, policy: Policy) -> Self {
        Self {
            group_id,
            topic_id,
            policy,
            queues: BTreeMap::new(),
            members: Members::default(),
            batches: Batches::default(),
            pruned_ms: 0,
            turn: 0,
            next_lease: lease_base.max(1),
        }
    }

    /// Adds a queue with the progress that the log knows, unless it is known already. `end` is one past its newest
    /// visible offset.
    pub fn add_queue(&mut self, queue: u32, acks: Acks, end: u64) {
        // Also after the clock was set back, nothing that is handed out may be void.
        self.next_lease = self.next_lease.max(acks.void_leases());
        let policy = &self.policy;
        self.queues.entry(queue).or_insert_with(|| Cursor::new(acks, end, policy));
    }

    /// Adds a queue in which the group starts at `start`, unless it is known already; the start is logged with the next
    /// progress. `end` is one past its newest visible offset.
    pub fn begin_queue(&mut self, queue: u32, start: u64, end: u64) {
        let policy = &self.policy;
        self.queues.entry(queue).or_insert_with(|| Cursor::starting_at(start, end, policy));
    }

    /// Whether the queue was added.
    pub fn has_queue(&self, queue: u32) -> bool {
        self.queues.contains_key(&queue)
    }

    /// From now on these rules hold.
    pub fn set_policy(&mut self, policy: Policy) {
        if self.policy != policy {
            self.policy = policy;
            self.queues.values_mut().for_each(|cursor| cursor.set_policy(&policy));
        }
    }

    /// New messages became visible in a queue: `end` is one past the newest.
    pub fn extend(&mut self, queue: u32, end: u64) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.extend_to(end);
        }
    }

    /// Messages of a queue before the offset `min` expired. What failed before and waits for its next attempt stays.
    pub fn expire_below(&mut self, queue: u32, min: u64) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.expire_below(min);
        }
    }

    /// The group goes on at `offset` of a queue, whatever it had finished; handles from before have no effect any more.
    pub fn reset(&mut self, queue: u32, offset: u64) {
        let last_lease = self.next_lease;
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.reset(offset, last_lease);
        }
    }

    /// The log says that a message which was done is to be delivered once more. `lane` counts where order is kept.
    pub fn reopen(&mut self, now_ms: i64, queue: u32, offset: u64, lane: Lane) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.reopen(now_ms, offset, lane);
        }
    }

    /// A member receives with this filter; the number goes into [`Ask`].
    pub fn join(&mut self, now_ms: i64, client: &str, filter: &Filter) -> FilterId {
        self.members.join(now_ms, client, filter)
    }

    /// Filters that other members receive with.
    pub fn other_filters(&self, filter: FilterId) -> Vec<(FilterId, Arc<Filter>)> {
        self.members.others(filter).collect()
    }

    /// Number of different filters that members receive with.
    pub fn filters_len(&self) -> usize {
        self.members.filters_len()
    }

    /// Where order is kept: which lanes have to be told so that `ask` can be served well.
    pub fn lanes_wanted(&self, now_ms: i64, ask: &Ask<'_>) -> Option<LanesWanted> {
        let wanted = |(queue, cursor): (&u32, &Cursor)| {
            let from = cursor.wants_lanes(now_ms, ask.filter, ask.max)?;
            Some(LanesWanted { queue: *queue, from, end: cursor.end() })
        };
        self.queues.iter().find_map(wanted)
    }

    /// The lanes of the messages of a queue from `from` on, one by one.
    pub fn tell_lanes(&mut self, queue: u32, from: u64, lanes: impl IntoIterator<Item = Lane>) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.tell_lanes(from, lanes);
        }
    }

    /// Hands out up to `ask.max` visible messages of all queues in turn: first those whose time has come again, then new
    /// ones. `alive` tells which clients live, for messages held [`Held::WhileAlive`].
    pub fn receive(&mut self, now_ms: i64, ask: &Ask<'_>, alive: impl Fn(&str) -> bool) -> Vec<Picked> {
        self.sweep(now_ms, alive);
        let mut picked = self.repeat(now_ms, ask);
        if picked.is_empty() {
            let queues = self.queues_in_turn();
            picked = if self.policy.ordered {
                self.pick_in_order(now_ms, &queues, ask)
            } else {
                self.pick(now_ms, &queues, ask)
            };
        }
        if let Some(attempt_id) = ask.attempt_id
            && let Some(until_ms) = picked.iter().map(|message| message.visible_ms).max()
        {
            let messages = picked.iter().map(|m| (m.queue, m.offset, m.lease)).collect();
            self.batches.put(attempt_id, messages, until_ms);
        }
        picked
    }

    /// Does what the time demands: extends what living clients hold while alive, and ends what failed for the last time.
    pub fn sweep(&mut self, now_ms: i64, alive: impl Fn(&str) -> bool) {
        for cursor in self.queues.values_mut() {
            cursor.sweep(now_ms, AUTO_RENEW_MS, &alive);
        }
        self.batches.prune(now_ms);
        if now_ms.saturating_sub(self.pruned_ms) >= PRUNE_EVERY_MS {
            self.pruned_ms = now_ms;
            for filter in self.members.prune(now_ms, &alive) {
                self.queues.values_mut().for_each(|cursor| cursor.forget_filter(now_ms, filter));
            }
        }
    }

    /// Keeps of a batch what its receiver wants; `verdicts` say what becomes of each message, in the order of the batch.
    /// What stands behind a message of the same lane that stays is taken back with it.
    pub fn sort_out(&mut self, now_ms: i64, picked: Vec<Picked>, verdicts: &[Verdict]) -> Vec<Picked> {
        let mut wanted = Vec::with_capacity(picked.len());
        let mut closed: Vec<(u32, Lane)> = Vec::new();
        for (message, verdict) in picked.into_iter().zip(verdicts) {
            let lane = self.cursor(message.queue).lane_of(message.offset);
            if lane.is_some_and(|lane| closed.contains(&(message.queue, lane))) {
                self.take_back(now_ms, &message);
                continue;
            }
            let stays = match verdict {
                Verdict::Wanted => {
                    wanted.push(message);
                    continue;
                }
                Verdict::Unwanted => {
                    self.cursor(message.queue).finish(message.offset);
                    continue;
                }
                Verdict::WantedBy(filter) => {
                    self.take_back(now_ms, &message);
                    self.cursor(message.queue).keep_for(message.offset, *filter);
                    lane
                }
                Verdict::Unreadable(again_ms) => {
                    self.take_back(*again_ms, &message);
                    lane
                }
            };
            closed.extend(stays.map(|lane| (message.queue, lane)));
        }
        wanted
    }

    /// Takes back messages that never reached their receiver: visible again at `now_ms`, and the attempt does not count.
    pub fn give_back(&mut self, now_ms: i64, picked: &[Picked]) {
        picked.iter().for_each(|message| self.take_back(now_ms, message));
    }

    /// Acknowledges a delivery. Doing so again is harmless.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn ack(&mut self, now_ms: i64, lease: &Lease) -> Result<(), HandleError> {
        if self.check(now_ms, lease)? {
            self.cursor(lease.queue).finish(lease.offset);
        }
        Ok(())
    }

    /// Makes a delivered message visible again after `duration_ms` from now, counting from this moment. With `suspend` the
    /// delivery does not count as an attempt. Returns the new lease, which replaces the old one; `None` when the message is
    /// acknowledged already.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn change_invisible(
        &mut self,
        now_ms: i64,
        lease: &Lease,
        duration_ms: u64,
        suspend: bool,
    ) -> Result<Option<Lease>, HandleError> {
        if !self.check(now_ms, lease)? {
            return Ok(None);
        }
        let number = self.new_lease();
        let visible_ms = now_ms.saturating_add_unsigned(duration_ms);
        let attempts = lease.attempt - u32::from(suspend);
        let cursor = self.cursor(lease.queue);
        let client = cursor.get(lease.offset).map_or_else(String::new, |flight| flight.client.clone());
        let flight = InFlight {
            attempts,
            visible_ms,
            lease: number,
            client,
            renew_until_ms: None,
            logged: true,
            put_off: true,
            spent: false,
        };
        cursor.put(lease.offset, flight);
        cursor.note_attempts(lease.offset, attempts, visible_ms);
        Ok(Some(Lease { lease: number, visible_ms, ..*lease }))
    }

    /// Its consumer gives a delivered message up for good. It becomes a dead letter, or stays with its message group,
    /// as the group's policy says. `false` when it was done already.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn give_up(&mut self, now_ms: i64, lease: &Lease) -> Result<bool, HandleError> {
        let open = self.check(now_ms, lease)?;
        if open {
            self.cursor(lease.queue).exhaust(lease.offset, DeadReason::Forwarded);
        }
        Ok(open)
    }

    /// Messages that used up their attempts and stay ([`super::Exhausted::Block`]).
    pub fn blocked(&self) -> Vec<Blocked> {
        let of = |(queue, cursor): (&u32, &Cursor)| {
            let queue = *queue;
            cursor.blocked().into_iter().map(move |(offset, waiting)| Blocked { queue, offset, waiting })
        };
        self.queues.iter().flat_map(of).collect()
    }

    /// Lets a blocked message try again from its first attempt on; `false` if it is not blocked.
    pub fn unblock(&mut self, now_ms: i64, queue: u32, offset: u64) -> bool {
        self.queues.get_mut(&queue).is_some_and(|cursor| cursor.unblock(now_ms, offset))
    }

    /// Makes a blocked message a dead letter; `false` if it is not blocked.
    pub fn bury_blocked(&mut self, queue: u32, offset: u64) -> bool {
        let is_it = |blocked: &Blocked| (blocked.queue, blocked.offset) == (queue, offset);
        let blocked = self.blocked().iter().any(is_it);
        if blocked {
            let cursor = self.cursor(queue);
            let attempts = cursor.attempts_of(offset);
            cursor.bury(offset, attempts, DeadReason::Operator);
        }
        blocked
    }

    /// A client left: what it held while alive is visible again at once.
    pub fn client_left(&mut self, now_ms: i64, client: &str) {
        self.members.leave(client);
        for cursor in self.queues.values_mut() {
            for offset in cursor.held_by(client) {
                let flight = cursor.get(offset).expect("held_by returns offsets in flight").clone();
                if flight.renew_until_ms.is_some() {
                    cursor.put(offset, InFlight { visible_ms: now_ms, renew_until_ms: None, ..flight });
                }
            }
        }
    }

    /// The next moment after `now_ms` at which something can be handed out, or at which [`Self::sweep`] has something to do;
    /// that may lie before `now_ms`.
    pub fn next_event_ms(&self, now_ms: i64) -> Option<i64> {
        self.queues.values().filter_map(|cursor| cursor.next_event_ms(now_ms)).min()
    }

    /// What keeps the messages of each queue that are not done.
    pub fn counts(&self, now_ms: i64) -> BTreeMap<u32, Counts> {
        self.queues.iter().map(|(queue, cursor)| (*queue, cursor.counts(now_ms))).collect()
    }

    /// Where the group stands in each queue.
    pub fn standings(&self, now_ms: i64) -> BTreeMap<u32, Standing> {
        let standing = |cursor: &Cursor| Standing {
            committed: cursor.acks.committed(),
            end: cursor.end(),
            counts: cursor.counts(now_ms),
        };
        self.queues.iter().map(|(queue, cursor)| (*queue, standing(cursor))).collect()
    }

    /// Whether there is progress or a dead letter that has to be logged.
    pub fn has_to_log(&self) -> bool {
        self.queues.values().any(Cursor::has_to_log)
    }

    /// Whether messages of one message group are delivered in order.
    pub fn is_ordered(&self) -> bool {
        self.policy.ordered
    }

    /// Takes the progress that has to be logged since the last call.
    pub fn take_progress(&mut self) -> Vec<QueueProgress> {
        let (group_id, topic_id) = (self.group_id, self.topic_id);
        self.queues
            .iter_mut()
            .filter_map(|(queue, cursor)| cursor.take_progress(group_id, topic_id, *queue))
            .collect()
    }

    /// Takes the messages that were given up since the last call.
    pub fn take_dead(&mut self) -> Vec<Dead> {
        let taken = |(queue, cursor): (&u32, &mut Cursor)| {
            let queue = *queue;
            let dead = cursor.take_dead().into_iter();
            dead.map(move |(offset, attempts, reason)| Dead { queue, offset, attempts, reason })
        };
        self.queues.iter_mut().flat_map(taken).collect()
    }

    /// Whether a handle may act now; `false` when its message is done already.
    fn check(&mut self, now_ms: i64, lease: &Lease) -> Result<bool, HandleError> {
        let cursor = self.queues.get(&lease.queue).ok_or(HandleError::Unknown)?;
        if lease.offset >= cursor.end() || lease.attempt == 0 {
            return Err(HandleError::Unknown);
        }
        if cursor.is_void(lease.lease) {
            return Err(HandleError::Superseded);
        }
        if cursor.acks.is_done(lease.offset) {
            return Ok(false);
        }
        if let Some(flight) = cursor.get(lease.offset) {
            if flight.lease == lease.lease {
                let held = flight.visible_ms > now_ms || flight.renew_until_ms.is_some();
                return if held { Ok(true) } else { Err(HandleError::Expired) };
            }
            if flight.lease != 0 || flight.spent {
                return Err(HandleError::Superseded);
            }
        }
        // Nobody is known to hold it, as after a restart: a handle from before counts until it expires, as long as the
        // attempt that it stands for is the last one that began.
        if lease.attempt < cursor.attempts_of(lease.offset) {
            return Err(HandleError::Superseded);
        }
        if lease.visible_ms <= now_ms {
            return Err(HandleError::Expired);
        }
        if lease.lease > self.next_lease {
            return Err(HandleError::Unknown);
        }
        Ok(true)
    }

    /// What a receive with the same attempt id got before, as far as it is not done and still held.
    fn repeat(&mut self, now_ms: i64, ask: &Ask<'_>) -> Vec<Picked> {
        let Some(attempt_id) = ask.attempt_id else { return Vec::new() };
        let mut picked = Vec::new();
        for (queue, offset, lease) in self.batches.take(attempt_id).into_iter().take(ask.max) {
            let cursor = self.cursor(queue);
            let Some(flight) = cursor.get(offset).filter(|flight| {
                flight.lease == lease
                    && flight.client == ask.client
                    && flight.visible_ms > now_ms
                    && !flight.put_off
            }) else {
                continue;
            };
            let (visible_ms, renew_until_ms) = hold(now_ms, ask.held);
            let attempt = flight.attempts;
            let flight = InFlight { visible_ms, renew_until_ms, ..flight.clone() };
            cursor.put(offset, flight);
            picked.push(Picked { queue, offset, attempt, lease, visible_ms });
        }
        picked
    }

    fn pick(&mut self, now_ms: i64, queues: &[u32], ask: &Ask<'_>) -> Vec<Picked> {
        let mut picked = Vec::new();
        for queue in queues {
            while picked.len() < ask.max
                && let Some(offset) = self.queues[queue].due_offset(now_ms)
            {
                picked.push(self.hand_out(now_ms, *queue, offset, ask));
            }
        }
        for queue in queues {
            while picked.len() < ask.max
                && let Some(offset) = self.cursor(*queue).fresh_offset(ask.filter)
            {
                picked.push(self.hand_out(now_ms, *queue, offset, ask));
            }
        }
        picked
    }

    fn pick_in_order(&mut self, now_ms: i64, queues: &[u32], ask: &Ask<'_>) -> Vec<Picked> {
        let mut picked = Vec::new();
        for queue in queues {
            while picked.len() < ask.max
                && let Some(offsets) =
                    self.cursor(*queue).next_of_a_lane(now_ms, ask.filter, ask.max - picked.len())
            {
                for offset in offsets {
                    picked.push(self.hand_out(now_ms, *queue, offset, ask));
                }
            }
        }
        picked
    }

    fn hand_out(&mut self, now_ms: i64, queue: u32, offset: u64, ask: &Ask<'_>) -> Picked {
        let lease = self.new_lease();
        let (visible_ms, renew_until_ms) = hold(now_ms, ask.held);
        let cursor = self.cursor(queue);
        let attempts = cursor.attempts_of(offset);
        if let Some(failed) = cursor.get(offset).filter(|flight| !flight.logged)
            && attempts > 0
        {
            let visible_ms = failed.visible_ms;
            cursor.note_attempts(offset, attempts, visible_ms);
        }
        let attempt = attempts.saturating_add(1);
        let flight = InFlight {
            attempts: attempt,
            visible_ms,
            lease,
            client: ask.client.to_owned(),
            renew_until_ms,
            logged: false,
            put_off: false,
            spent: false,
        };
        cursor.put(offset, flight);
        Picked { queue, offset, attempt, lease, visible_ms }
    }

    /// Visible again at `visible_ms`, as if this delivery had not been.
    fn take_back(&mut self, visible_ms: i64, message: &Picked) {
        let cursor = self.cursor(message.queue);
        if cursor.get(message.offset).is_none_or(|flight| flight.lease != message.lease) {
            return;
        }
        let flight = InFlight {
            attempts: message.attempt - 1,
            visible_ms,
            logged: true,
            put_off: true,
            ..InFlight::default()
        };
        cursor.put(message.offset, flight);
    }

    fn queues_in_turn(&mut self) -> Vec<u32> {
        let first = self.turn;
        let later = self.queues.range(first..).map(|(queue, _)| *queue);
        let order: Vec<u32> = later.chain(self.queues.range(..first).map(|(queue, _)| *queue)).collect();
        self.turn = order.first().map_or(0, |queue| queue + 1);
        order
    }

    fn cursor(&mut self, queue: u32) -> &mut Cursor {
        self.queues.get_mut(&queue).expect("callers name queues that were added")
    }

    fn new_lease(&mut self) -> u64 {
        self.next_lease += 1;
        self.next_lease
    }
}

/// Until when a message handed out now is invisible, and until when that may be prolonged.
fn hold(now_ms: i64, held: Held) -> (i64, Option<i64>) {
    match held {
        Held::For(ms) => (now_ms.saturating_add_unsigned(ms), None),
        Held::WhileAlive => {
            (now_ms.saturating_add_unsigned(AUTO_RENEW_MS), Some(now_ms.saturating_add(AUTO_RENEW_MS_MAX)))
        }
    }
}
