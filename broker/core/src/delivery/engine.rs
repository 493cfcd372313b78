//! A consumer group on one topic of this broker.

mod broken_receives;
mod receiving;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fate::MessageFate;
use super::flight::{Flight, FlightState, LeaseId, ReceiveId};
use super::handle::{DeliveryHandle, HandleError};
use super::members::{FilterId, GroupMembers};
use super::message_groups::OrderingKey;
use super::policy::DeliveryPolicy;
use super::priorities::Turns;
use super::queue::QueueDelivery;
use super::repeatable::RepeatableReceives;
use super::types::{BacklogCounts, BlockedMessage, ExhaustedMessage, QueuePosition, RetryingMessage};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;
use crate::record::{DeadReason, QueueProgress};

/// How often members that are gone are pruned.
const PRUNE_EVERY_MS: i64 = 5_000;

/// State of one consumer group on one topic.
#[derive(Debug, Clone)]
pub struct DeliveryEngine {
    group_id: u32,
    topic_id: u32,
    policy: DeliveryPolicy,
    queues: BTreeMap<u32, QueueDelivery>,
    members: GroupMembers,
    repeatable: RepeatableReceives,
    pruned_ms: i64,
    /// Queue that the next receive serves first.
    turn: u32,
    /// Turns of the queues on a topic with priorities.
    turns: Turns,
    last_lease: LeaseId,
    last_receive: ReceiveId,
    /// Set while members may exist that this engine does not know yet.
    holds_back: bool,
}

impl DeliveryEngine {
    /// A subscription without queues. `lease_base` must grow from one run of the process to the next, so that lease
    /// numbers never repeat: use the start time in microseconds.
    pub fn new(group_id: u32, topic_id: u32, lease_base: u64, policy: DeliveryPolicy) -> Self {
        Self {
            group_id,
            topic_id,
            policy,
            queues: BTreeMap::new(),
            members: GroupMembers::default(),
            repeatable: RepeatableReceives::default(),
            pruned_ms: 0,
            turn: 0,
            turns: Turns::default(),
            last_lease: LeaseId::new(lease_base.max(1)),
            last_receive: ReceiveId::default(),
            holds_back: false,
        }
    }

    /// Members may exist of which this broker has not heard yet, as after a start: until [`Self::settle`], messages that no
    /// known member wants are held back instead of counting as done.
    pub fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// All members are known from now on.
    pub fn settle(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.holds_back) {
            self.queues.values_mut().for_each(|queue| queue.forget_filter(now_ms, FilterId::UNKNOWN));
        }
    }

    /// Replaces the filters that connected members have announced, whether or not they have received yet. Messages that only
    /// these filters match are kept for them.
    pub fn announce(&mut self, filters: &[Filter]) {
        self.members.announce(filters);
    }

    /// Adds a queue with the progress from the log, unless it was added before. `end` is one past its newest visible
    /// offset.
    pub fn add_queue(&mut self, queue: u32, acks: QueueAcks, end: QueueOffset) {
        // Even after the clock was set back, no new lease may be void.
        self.last_lease = self.last_lease.max(LeaseId::new(acks.void_leases()));
        let policy = &self.policy;
        self.queues.entry(queue).or_insert_with(|| QueueDelivery::new(acks, end, policy));
    }

    /// Adds a queue in which the group starts at `start`, unless it was added before; the start is logged with the next
    /// progress record. `end` is one past its newest visible offset.
    pub fn begin_queue(&mut self, queue: u32, start: QueueOffset, end: QueueOffset) {
        let policy = &self.policy;
        self.queues.entry(queue).or_insert_with(|| QueueDelivery::starting_at(start, end, policy));
    }

    /// Whether the queue was added.
    pub fn has_queue(&self, queue: u32) -> bool {
        self.queues.contains_key(&queue)
    }

    /// Applies these rules from now on.
    pub fn set_policy(&mut self, policy: DeliveryPolicy) {
        if self.policy != policy {
            self.policy = policy;
            self.queues.values_mut().for_each(|queue| queue.set_policy(&policy));
        }
    }

    /// New messages became visible in a queue: `end` is one past the newest.
    pub fn extend(&mut self, queue: u32, end: QueueOffset) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.ledger.extend_to(end);
        }
    }

    /// Messages of a queue before the offset `min` expired. Failed messages that wait for their next attempt stay.
    pub fn expire_below(&mut self, queue: u32, min: QueueOffset) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.expire_below(min);
        }
    }

    /// Moves the group to `offset` of a queue, whatever it had finished; earlier receipt handles become void.
    pub fn reset(&mut self, queue: u32, offset: QueueOffset) {
        let last_lease = self.last_lease;
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.reset(offset, last_lease);
        }
    }

    /// Redelivers a message that was done, as the log says. `key` matters only in ordered delivery.
    pub fn reopen(&mut self, now_ms: i64, queue: u32, offset: QueueOffset, key: OrderingKey) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.reopen(now_ms, offset, key);
        }
    }

    /// Does the due work: renews leases of living clients, and ends messages whose last attempt failed.
    pub fn sweep(&mut self, now_ms: i64, alive: impl Fn(&str) -> bool) {
        self.queues.values_mut().for_each(|queue| queue.sweep(now_ms, &alive));
        self.repeatable.prune(now_ms);
        if now_ms.saturating_sub(self.pruned_ms) >= PRUNE_EVERY_MS {
            self.pruned_ms = now_ms;
            for filter in self.members.prune(now_ms, &alive) {
                self.queues.values_mut().for_each(|queue| queue.forget_filter(now_ms, filter));
            }
        }
    }

    /// Acknowledges a delivery. Doing so again is harmless.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn ack(&mut self, now_ms: i64, handle: &DeliveryHandle) -> Result<(), HandleError> {
        if self.check(now_ms, handle)? {
            self.queue_mut(handle.queue).finish(handle.offset);
        }
        Ok(())
    }

    /// Makes a delivered message visible again after `duration_ms` from now, counting from this moment. With `suspend` the
    /// delivery does not count as an attempt. Returns the new handle, which replaces the old one; `None` when the message is
    /// acknowledged already.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn change_invisible(
        &mut self,
        now_ms: i64,
        handle: &DeliveryHandle,
        duration_ms: u64,
        suspend: bool,
    ) -> Result<Option<DeliveryHandle>, HandleError> {
        if !self.check(now_ms, handle)? {
            return Ok(None);
        }
        let id = self.new_lease();
        let visible_ms = now_ms.saturating_add_unsigned(duration_ms);
        let attempts = handle.attempt - u32::from(suspend);
        let queue = self.queue_mut(handle.queue);
        let client =
            queue.ledger.flight(handle.offset).map_or_else(String::new, |flight| flight.client().to_owned());
        let state = FlightState::Postponed { id, client };
        queue.put(handle.offset, Flight { attempts, visible_ms, is_logged: true, state });
        queue.ledger.note_attempts(handle.offset, attempts, visible_ms);
        Ok(Some(DeliveryHandle { lease: id, visible_ms, ..*handle }))
    }

    /// Gives a delivered message up for good on behalf of its consumer. The message becomes a dead letter or stays with
    /// its message group, as the group's policy says. `false` when it was done already.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn give_up(&mut self, now_ms: i64, handle: &DeliveryHandle) -> Result<bool, HandleError> {
        let is_open = self.check(now_ms, handle)?;
        if is_open {
            self.queue_mut(handle.queue).exhaust(handle.offset, DeadReason::Forwarded);
        }
        Ok(is_open)
    }

    /// Messages that used up their attempts and stay ([`super::ExhaustedAction::Block`]).
    pub fn blocked(&self) -> Vec<BlockedMessage> {
        let of = |(number, queue): (&u32, &QueueDelivery)| {
            let number = *number;
            let blocked = queue.blocked().into_iter();
            blocked.map(move |(offset, waiting)| BlockedMessage { queue: number, offset, waiting })
        };
        self.queues.iter().flat_map(of).collect()
    }

    /// Up to `max` failed messages that no consumer holds, lower queues and offsets first.
    pub fn retrying(&self, max: usize) -> Vec<RetryingMessage> {
        let of = |(number, queue): (&u32, &QueueDelivery)| {
            let number = *number;
            let retrying = |(offset, attempts, visible_ms)| RetryingMessage {
                queue: number,
                offset,
                attempts,
                visible_ms,
            };
            queue.ledger.retrying().take(max).map(retrying).collect::<Vec<_>>()
        };
        self.queues.iter().flat_map(of).take(max).collect()
    }

    /// Retries a blocked message from its first attempt on; `false` if it is not blocked.
    pub fn unblock(&mut self, now_ms: i64, queue: u32, offset: QueueOffset) -> bool {
        self.queues.get_mut(&queue).is_some_and(|queue| queue.unblock(now_ms, offset))
    }

    /// Makes a blocked message a dead letter; `false` if it is not blocked.
    pub fn bury_blocked(&mut self, queue: u32, offset: QueueOffset) -> bool {
        let is_it = |blocked: &BlockedMessage| (blocked.queue, blocked.offset) == (queue, offset);
        let is_blocked = self.blocked().iter().any(is_it);
        if is_blocked {
            let queue = self.queue_mut(queue);
            let attempts = queue.ledger.attempts_of(offset);
            queue.bury(offset, attempts, DeadReason::Operator);
        }
        is_blocked
    }

    /// Makes the messages that a departed client held while alive visible again at once.
    pub fn client_left(&mut self, now_ms: i64, client: &str) {
        self.members.leave(client);
        for queue in self.queues.values_mut() {
            for offset in queue.ledger.held_by(client) {
                let flight = queue.ledger.flight(offset).expect("the client holds it");
                if flight.renewal().is_some() {
                    let flight = flight.clone().without_renewal(now_ms);
                    queue.put(offset, flight);
                }
            }
        }
    }

    /// The next moment after `now_ms` at which a message can be handed out, or at which [`Self::sweep`] has work; the latter
    /// may lie before `now_ms`.
    pub fn next_event_ms(&self, now_ms: i64) -> Option<i64> {
        self.queues.values().filter_map(|queue| queue.next_event_ms(now_ms)).min()
    }

    /// The undone messages of each queue, counted by what holds them back.
    pub fn counts(&self, now_ms: i64) -> BTreeMap<u32, BacklogCounts> {
        self.queues.iter().map(|(number, queue)| (*number, queue.counts(now_ms))).collect()
    }

    /// The position of the group in each queue.
    pub fn positions(&self, now_ms: i64) -> BTreeMap<u32, QueuePosition> {
        let position = |queue: &QueueDelivery| QueuePosition {
            committed: queue.ledger.acks().committed(),
            end: queue.ledger.end(),
            counts: queue.counts(now_ms),
        };
        self.queues.iter().map(|(number, queue)| (*number, position(queue))).collect()
    }

    /// The state of the message at an offset, as the group's consumers see it; `None` for a queue that was not added.
    pub fn fate(&self, now_ms: i64, queue: u32, offset: QueueOffset) -> Option<MessageFate> {
        self.queues.get(&queue).map(|queue| queue.fate(now_ms, offset))
    }

    /// The filters of the members.
    pub fn filters(&self) -> Vec<Arc<Filter>> {
        self.members.filters()
    }

    /// Whether there is progress or a dead letter that has to be logged.
    pub fn has_to_log(&self) -> bool {
        self.queues.values().any(|queue| queue.ledger.has_to_log())
    }

    /// Whether messages of one message group are delivered in order.
    pub fn is_ordered(&self) -> bool {
        self.policy.ordered
    }

    /// The newest lease that was issued, or the base if there is none.
    pub fn last_lease(&self) -> LeaseId {
        self.last_lease
    }

    /// Whether nothing is in flight, waiting or unlogged: a new engine would have the same state.
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(|queue| queue.ledger.is_idle())
    }

    /// Takes the progress that was made since the last call and has to be logged.
    pub fn take_progress(&mut self) -> Vec<QueueProgress> {
        let (group_id, topic_id) = (self.group_id, self.topic_id);
        self.queues
            .iter_mut()
            .filter_map(|(number, queue)| queue.ledger.take_progress(group_id, topic_id, *number))
            .collect()
    }

    /// Takes the messages that were given up since the last call.
    pub fn take_exhausted(&mut self) -> Vec<ExhaustedMessage> {
        let taken = |(number, queue): (&u32, &mut QueueDelivery)| {
            let number = *number;
            let dead = queue.ledger.take_dead().into_iter();
            dead.map(move |(offset, attempts, reason)| ExhaustedMessage {
                queue: number,
                offset,
                attempts,
                reason,
            })
        };
        self.queues.iter_mut().flat_map(taken).collect()
    }

    /// Whether a handle may act now; `false` when its message is done already.
    fn check(&self, now_ms: i64, handle: &DeliveryHandle) -> Result<bool, HandleError> {
        let ledger = &self.queues.get(&handle.queue).ok_or(HandleError::Unknown)?.ledger;
        if handle.offset >= ledger.end() || handle.attempt == 0 {
            return Err(HandleError::Unknown);
        }
        if ledger.is_void(handle.lease) {
            return Err(HandleError::Superseded);
        }
        if ledger.acks().is_done(handle.offset) {
            return Ok(false);
        }
        if let Some(flight) = ledger.flight(handle.offset) {
            if flight.lease() == Some(handle.lease) {
                return if flight.is_invisible(now_ms) { Ok(true) } else { Err(HandleError::Expired) };
            }
            if flight.lease().is_some() || flight.is_blocked() {
                return Err(HandleError::Superseded);
            }
        }
        // No consumer is known to hold it, as after a restart: an earlier handle counts until it expires, as long as it
        // belongs to the newest attempt.
        if handle.attempt < ledger.attempts_of(handle.offset) {
            return Err(HandleError::Superseded);
        }
        if handle.visible_ms <= now_ms {
            return Err(HandleError::Expired);
        }
        if handle.lease > self.last_lease {
            return Err(HandleError::Unknown);
        }
        Ok(true)
    }

    fn queue_mut(&mut self, queue: u32) -> &mut QueueDelivery {
        self.queues.get_mut(&queue).expect("callers name queues that were added")
    }

    fn new_lease(&mut self) -> LeaseId {
        self.last_lease = self.last_lease.next();
        self.last_lease
    }
}
