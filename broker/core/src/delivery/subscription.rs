//! A consumer group on one topic of this broker.

mod calls;
mod receiving;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batches::Batches;
use super::cursor::{Counts, Cursor, InFlight};
use super::fate::Fate;
use super::handle::{HandleError, Lease};
use super::lanes::Lane;
use super::members::{FilterId, Members};
use super::policy::Policy;
use super::priorities::Turns;
use super::requests::{Blocked, Dead, Retrying, Standing};
use crate::acks::Acks;
use crate::filter::Filter;
use crate::record::{DeadReason, QueueProgress};

/// How often members that are gone are looked for.
const PRUNE_EVERY_MS: i64 = 5_000;

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
    /// Turns of queues that are priorities.
    turns: Turns,
    next_lease: u64,
    /// Number of the last receive.
    last_call: u64,
    /// There may be members that are not known yet.
    holds_back: bool,
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
            turns: Turns::default(),
            next_lease: lease_base.max(1),
            last_call: 0,
            holds_back: false,
        }
    }

    /// There may be members of which this broker has not heard yet, as after a start: until [`Self::settle`], what no known
    /// member wants is not done, but waits.
    pub fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// All members are known by now.
    pub fn settle(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.holds_back) {
            self.queues.values_mut().for_each(|cursor| cursor.forget_filter(now_ms, FilterId::UNKNOWN));
        }
    }

    /// These are the filters that connected members have announced, whether or not they have received yet. What only they want
    /// waits for them.
    pub fn announce(&mut self, filters: &[Filter]) {
        self.members.announce(filters);
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

    /// Does what the time demands: extends what living clients hold while alive, and ends what failed for the last time.
    pub fn sweep(&mut self, now_ms: i64, alive: impl Fn(&str) -> bool) {
        for cursor in self.queues.values_mut() {
            cursor.sweep(now_ms, &alive);
        }
        self.batches.prune(now_ms);
        if now_ms.saturating_sub(self.pruned_ms) >= PRUNE_EVERY_MS {
            self.pruned_ms = now_ms;
            for filter in self.members.prune(now_ms, &alive) {
                self.queues.values_mut().for_each(|cursor| cursor.forget_filter(now_ms, filter));
            }
        }
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
            call: 0,
            renew_until_ms: None,
            renew_ms: 0,
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

    /// Messages that failed and are with nobody, `max` at the most, those of lower queues and offsets first.
    pub fn retrying(&self, max: usize) -> Vec<Retrying> {
        let of = |(queue, cursor): (&'_ u32, &'_ Cursor)| {
            let retrying =
                |(offset, attempts, visible_ms)| Retrying { queue: *queue, offset, attempts, visible_ms };
            cursor.retrying().take(max).map(retrying).collect::<Vec<_>>()
        };
        self.queues.iter().flat_map(of).take(max).collect()
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

    /// What keeps the message at an offset from the group's consumers; `None` for a queue that was not added.
    pub fn fate(&self, now_ms: i64, queue: u32, offset: u64) -> Option<Fate> {
        self.queues.get(&queue).map(|cursor| cursor.fate(now_ms, offset))
    }

    /// The filters of the members.
    pub fn filters(&self) -> Vec<Arc<Filter>> {
        self.members.filters()
    }

    /// Whether there is progress or a dead letter that has to be logged.
    pub fn has_to_log(&self) -> bool {
        self.queues.values().any(Cursor::has_to_log)
    }

    /// Whether messages of one message group are delivered in order.
    pub fn is_ordered(&self) -> bool {
        self.policy.ordered
    }

    /// The newest lease that was given out, or where they began.
    pub fn last_lease(&self) -> u64 {
        self.next_lease
    }

    /// Whether nothing is out, nothing waits and nothing is to be logged: an engine that starts anew would know as much.
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(Cursor::is_idle)
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

    fn cursor(&mut self, queue: u32) -> &mut Cursor {
        self.queues.get_mut(&queue).expect("callers name queues that were added")
    }

    fn new_lease(&mut self) -> u64 {
        self.next_lease += 1;
        self.next_lease
    }
}
