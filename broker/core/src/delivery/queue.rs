//! One queue as a consumer group sees it.

use std::collections::BTreeSet;

use super::flight::{Flight, FlightState, LeaseId};
use super::ledger::QueueLedger;
use super::members::FilterId;
use super::message_groups::OrderingKey;
use super::ordered::OrderedQueue;
use super::policy::{DeliveryPolicy, ExhaustedAction};
use super::types::BacklogCounts;
use super::unordered::UnorderedQueue;
use crate::acks::QueueAcks;
use crate::queue_offset::QueueOffset;
use crate::record::DeadReason;

/// Which message is next.
#[derive(Debug, Clone)]
pub(super) enum DeliveryOrder {
    Unordered(UnorderedQueue),
    Ordered(OrderedQueue),
}

/// State of one queue for one group.
#[derive(Debug, Clone)]
pub(super) struct QueueDelivery {
    pub(super) ledger: QueueLedger,
    order: DeliveryOrder,
    policy: DeliveryPolicy,
}

impl QueueDelivery {
    /// Continues from the logged progress; failed messages wait for their time.
    pub(super) fn new(acks: QueueAcks, end: QueueOffset, policy: &DeliveryPolicy) -> Self {
        let failed: Vec<(QueueOffset, u32, i64)> = acks.attempted().collect();
        let mut queue = Self::with_ledger(QueueLedger::new(acks, end), policy);
        for (offset, attempts, visible_ms) in failed {
            queue.put(offset, Flight::delayed(attempts, visible_ms));
        }
        queue
    }

    /// Starts at an offset that the log does not know yet.
    pub(super) fn starting_at(offset: QueueOffset, end: QueueOffset, policy: &DeliveryPolicy) -> Self {
        Self::with_ledger(QueueLedger::starting_at(offset, end), policy)
    }

    fn with_ledger(ledger: QueueLedger, policy: &DeliveryPolicy) -> Self {
        Self { order: order_from(&ledger, policy), ledger, policy: *policy }
    }

    /// Puts every message in flight again, by the current order and policy.
    fn put_all_again(&mut self) {
        for (offset, mut flight) in self.ledger.take_flights() {
            // Other rules may give a blocked message another attempt, or end it.
            if flight.is_blocked() && !self.stays_blocked(&flight) {
                flight.state = FlightState::Delayed;
            }
            self.put(offset, flight);
        }
    }

    fn stays_blocked(&self, flight: &Flight) -> bool {
        self.policy.exhausted == ExhaustedAction::Block && flight.attempts >= self.policy.max_attempts
    }

    pub(super) fn set_policy(&mut self, policy: &DeliveryPolicy) {
        if self.policy != *policy {
            self.policy = *policy;
            self.order = order_from(&self.ledger, policy);
            self.put_all_again();
        }
    }

    /// The order of an ordered queue.
    pub(super) fn ordered(&self) -> Option<&OrderedQueue> {
        match &self.order {
            DeliveryOrder::Ordered(ordered) => Some(ordered),
            DeliveryOrder::Unordered(_) => None,
        }
    }

    /// Everything before `min` expired, except failed messages that wait for their next attempt.
    pub(super) fn expire_below(&mut self, min: QueueOffset) {
        self.ledger.expire_below(min);
        match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.expire_below(&self.ledger, min),
            DeliveryOrder::Ordered(ordered) => ordered.expire_below(&self.ledger, min),
        }
    }

    /// Marks everything before `offset` done, reopens everything behind it, and takes every message from its consumer,
    /// in the log as well. `last_lease` is the newest lease issued.
    pub(super) fn reset(&mut self, offset: QueueOffset, last_lease: LeaseId) {
        self.ledger.reset(offset, last_lease);
        self.order = order_from(&self.ledger, &self.policy);
    }

    /// Redelivers a message that was done. The log knows already.
    pub(super) fn reopen(&mut self, now_ms: i64, offset: QueueOffset, key: OrderingKey) {
        self.ledger.reopen(now_ms, offset);
        if let DeliveryOrder::Ordered(ordered) = &mut self.order {
            ordered.reopened(offset, key);
        }
        self.put(offset, Flight::delayed(0, now_ms));
    }

    /// The next moment after `now_ms` at which a message can be handed out, or at which, possibly earlier, one has to be
    /// renewed or given up.
    pub(super) fn next_event_ms(&self, now_ms: i64) -> Option<i64> {
        let due = match &self.order {
            // A due message may have to wait for others of its message group.
            DeliveryOrder::Ordered(ordered) => ordered.lines().next_ready_ms(now_ms),
            DeliveryOrder::Unordered(_) => self.ledger.times().next_due_ms(now_ms),
        };
        due.into_iter().chain(self.ledger.times().first_sweep_ms()).min()
    }

    /// Renews the leases of living clients, makes other messages visible, and ends those whose last attempt failed.
    pub(super) fn sweep(&mut self, now_ms: i64, alive: &impl Fn(&str) -> bool) {
        while let Some(offset) = self.ledger.times().first_to_renew(now_ms) {
            let flight = self.ledger.flight(offset).expect("times lists messages in flight").clone();
            self.put(offset, renewed_or_ended(flight, now_ms, alive));
        }
        while let Some(offset) = self.ledger.times().first_exhausted(now_ms) {
            self.exhaust(offset, DeadReason::Exhausted);
        }
    }

    /// Decides about a message that is out of attempts, or that its consumer gave up.
    pub(super) fn exhaust(&mut self, offset: QueueOffset, reason: DeadReason) {
        let flight = self
            .ledger
            .flight(offset)
            .cloned()
            .unwrap_or(Flight { is_logged: false, ..Flight::delayed(0, 0) });
        match self.policy.exhausted {
            ExhaustedAction::DeadLetter => self.bury(offset, flight.attempts, reason),
            ExhaustedAction::Block => {
                let attempts = flight.attempts.max(self.policy.max_attempts);
                if !flight.is_logged || attempts != flight.attempts {
                    self.ledger.note_attempts(offset, attempts, flight.visible_ms);
                }
                let state = FlightState::Blocked;
                self.put(offset, Flight { state, ..Flight::delayed(attempts, flight.visible_ms) });
            }
        }
    }

    /// Ends a message as a dead letter.
    pub(super) fn bury(&mut self, offset: QueueOffset, attempts: u32, reason: DeadReason) {
        self.before_done(offset);
        self.ledger.bury(offset, attempts, reason);
        self.forget(offset);
    }

    /// Marks a message done, and notes it for the log.
    pub(super) fn finish(&mut self, offset: QueueOffset) {
        self.before_done(offset);
        self.ledger.finish(offset);
        self.forget(offset);
    }

    fn before_done(&mut self, offset: QueueOffset) {
        if let DeliveryOrder::Ordered(ordered) = &mut self.order {
            ordered.note_overtaken(&mut self.ledger, offset);
        }
    }

    fn forget(&mut self, offset: QueueOffset) {
        match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.forget(offset),
            DeliveryOrder::Ordered(ordered) => ordered.forget(offset),
        }
    }

    /// Puts a message in flight, replacing its earlier state.
    pub(super) fn put(&mut self, offset: QueueOffset, flight: Flight) {
        match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.forget(offset),
            DeliveryOrder::Ordered(ordered) => ordered.put(offset, &flight),
        }
        self.ledger.put(offset, flight, self.policy.max_attempts);
    }

    /// The next retry for a consumer with this filter, to be handed out at once. Unordered delivery only.
    pub(super) fn next_due(&self, now_ms: i64) -> Option<QueueOffset> {
        match &self.order {
            DeliveryOrder::Unordered(_) => self.ledger.times().first_due(now_ms),
            DeliveryOrder::Ordered(_) => None,
        }
    }

    /// The next message that was never handed out, for a consumer with this filter, to be handed out at once. Unordered
    /// delivery only.
    pub(super) fn take_fresh(&mut self, filter: FilterId) -> Option<QueueOffset> {
        match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.take_fresh(&self.ledger, &self.policy, filter),
            DeliveryOrder::Ordered(_) => None,
        }
    }

    /// Up to `max` messages of one message group, in order, to be handed out at once. Ordered queues only.
    pub(super) fn take_group(
        &mut self,
        now_ms: i64,
        filter: FilterId,
        max: usize,
    ) -> Option<Vec<QueueOffset>> {
        match &mut self.order {
            DeliveryOrder::Unordered(_) => None,
            DeliveryOrder::Ordered(ordered) => {
                ordered.take_group(&self.ledger, &self.policy, now_ms, filter, max)
            }
        }
    }

    /// The next message for a consumer with this filter, whatever the order, to be handed out at once.
    pub(super) fn take_next(&mut self, now_ms: i64, filter: FilterId) -> Option<QueueOffset> {
        match &self.order {
            DeliveryOrder::Unordered(_) => self.next_due(now_ms).or_else(|| self.take_fresh(filter)),
            DeliveryOrder::Ordered(_) => self.take_group(now_ms, filter, 1)?.pop(),
        }
    }

    /// From which offset on ordering keys have to be loaded before more can be handed out.
    pub(super) fn keys_wanted(&self, now_ms: i64, filter: FilterId, enough: usize) -> Option<QueueOffset> {
        let ordered = self.ordered()?;
        ordered.keys_wanted(&self.ledger, &self.policy, now_ms, filter, enough)
    }

    /// The ordering keys of the messages from `from` on, one by one.
    pub(super) fn load_keys(&mut self, from: QueueOffset, keys: impl IntoIterator<Item = OrderingKey>) {
        if let DeliveryOrder::Ordered(ordered) = &mut self.order {
            ordered.load_keys(&self.ledger, from, keys);
        }
    }

    /// The ordering key of a message, if the engine has looked at it.
    pub(super) fn key_of(&self, offset: QueueOffset) -> Option<OrderingKey> {
        self.ordered().and_then(|ordered| ordered.lines().key_of(offset))
    }

    /// Keeps a message for consumers with one of these filters.
    pub(super) fn keep_for(&mut self, offset: QueueOffset, filters: &[FilterId]) {
        match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.keep_for(&mut self.ledger, offset, filters),
            DeliveryOrder::Ordered(ordered) => ordered.keep_for(offset, filters),
        }
    }

    /// No member has this filter any longer.
    pub(super) fn forget_filter(&mut self, now_ms: i64, filter: FilterId) {
        let freed = match &mut self.order {
            DeliveryOrder::Unordered(unordered) => unordered.forget_filter(filter),
            DeliveryOrder::Ordered(ordered) => {
                ordered.forget_filter(filter);
                Vec::new()
            }
        };
        for offset in freed {
            let attempts = self.ledger.acks().attempts_of(offset);
            self.put(offset, Flight::delayed(attempts, now_ms));
        }
    }

    /// Blocked messages, and how many wait because of each, itself included. Those that stand behind others of their message
    /// group are not among them yet.
    pub(super) fn blocked(&self) -> Vec<(QueueOffset, usize)> {
        let waiting = |offset| self.ordered().map_or(Some(1), |ordered| ordered.waiting_with(offset));
        let blocked = self.ledger.flights().filter(|(_, flight)| flight.is_blocked());
        blocked.filter_map(|(offset, _)| Some((offset, waiting(offset)?))).collect()
    }

    /// Lets a blocked message try again, from its first attempt on; `false` if it is not blocked.
    pub(super) fn unblock(&mut self, now_ms: i64, offset: QueueOffset) -> bool {
        if !self.blocked().iter().any(|(blocked, _)| *blocked == offset) {
            return false;
        }
        self.ledger.note_attempts(offset, 0, now_ms);
        if let DeliveryOrder::Ordered(ordered) = &mut self.order {
            ordered.unblock(offset);
        }
        self.put(offset, Flight::delayed(0, now_ms));
        true
    }

    /// The undone messages, counted by what holds them back.
    pub(super) fn counts(&self, now_ms: i64) -> BacklogCounts {
        let lag = self.ledger.acks().open_below(self.ledger.end());
        let blocked = self.blocked();
        let staying: BTreeSet<QueueOffset> = blocked.iter().map(|(offset, _)| *offset).collect();
        let is_invisible =
            |offset: &QueueOffset, flight: &Flight| !staying.contains(offset) && flight.is_invisible(now_ms);
        let (mut in_flight, mut waiting, mut counted_as_blocked) = (0, 0, 0);
        for (offset, flight) in self.ledger.flights().filter(|(offset, flight)| is_invisible(offset, flight))
        {
            match flight.active_lease() {
                Some(_) => in_flight += 1,
                None => waiting += 1,
            }
            let front = self.ordered().and_then(|ordered| ordered.lines().front_of(offset));
            counted_as_blocked += u64::from(front.is_some_and(|front| staying.contains(&front)));
        }
        let with_blocked = blocked.iter().map(|(_, waiting)| *waiting as u64).sum::<u64>();
        assert!(with_blocked >= counted_as_blocked, "a message counted as blocked waits with a blocked one");
        let blocked = with_blocked - counted_as_blocked;
        let ready = lag.saturating_sub(in_flight + waiting + blocked);
        BacklogCounts { lag, ready, in_flight, waiting, blocked }
    }
}

fn order_from(ledger: &QueueLedger, policy: &DeliveryPolicy) -> DeliveryOrder {
    let next = ledger.acks().committed();
    match policy.ordered {
        true => DeliveryOrder::Ordered(OrderedQueue::from(next)),
        false => DeliveryOrder::Unordered(UnorderedQueue::from(next)),
    }
}

/// A message whose renewable lease has ended: still held while its client lives, otherwise visible.
fn renewed_or_ended(mut flight: Flight, now_ms: i64, alive: &impl Fn(&str) -> bool) -> Flight {
    match flight.renewal() {
        Some(renewal) if renewal.until_ms > now_ms && alive(flight.client()) => {
            flight.visible_ms = now_ms.saturating_add_unsigned(renewal.every_ms.max(1));
            flight
        }
        _ => {
            let visible_ms = flight.visible_ms;
            flight.without_renewal(visible_ms)
        }
    }
}
