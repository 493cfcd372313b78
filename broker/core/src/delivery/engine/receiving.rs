//! Receiving: who gets which messages.

use std::sync::Arc;

use super::DeliveryEngine;
use crate::delivery::flight::{ActiveLease, Flight, FlightState, LeaseRenewal};
use crate::delivery::members::FilterId;
use crate::delivery::message_groups::OrderingKey;
use crate::delivery::priorities::PriorityFactor;
use crate::delivery::queue::QueueDelivery;
use crate::delivery::types::{DeliveredMessage, FilterResult, LeaseTerm, OrderingKeysWanted, ReceiveRequest};
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;

/// After this long even a living client loses a message that it never acknowledged (RocketMQ's `renewMaxTimeMillis`).
const AUTO_RENEW_MS_MAX: i64 = 3 * 3_600_000;

impl DeliveryEngine {
    /// Registers a member that receives with this filter; the returned number goes into [`ReceiveRequest`].
    pub fn join(&mut self, now_ms: i64, client: &str, filter: &Filter) -> FilterId {
        self.members.join(now_ms, client, filter)
    }

    /// Filters that other members receive with or have announced.
    pub fn other_filters(&self, filter: FilterId) -> Vec<(FilterId, Arc<Filter>)> {
        self.members.others(filter).collect()
    }

    /// Number of different filters that members receive with or have announced.
    pub fn filters_len(&self) -> usize {
        self.members.filters_len()
    }

    /// In ordered delivery: the messages whose ordering keys have to be loaded so that `request` can be served well.
    pub fn ordering_keys_wanted(
        &self,
        now_ms: i64,
        request: &ReceiveRequest<'_>,
    ) -> Option<OrderingKeysWanted> {
        let wanted = |(number, queue): (&u32, &QueueDelivery)| {
            let from = queue.keys_wanted(now_ms, request.filter, request.max)?;
            Some(OrderingKeysWanted { queue: *number, from, end: queue.ledger.end() })
        };
        self.queues.iter().find_map(wanted)
    }

    /// The ordering keys of the messages of a queue from `from` on, one by one.
    pub fn load_ordering_keys(
        &mut self,
        queue: u32,
        from: QueueOffset,
        keys: impl IntoIterator<Item = OrderingKey>,
    ) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.load_keys(from, keys);
        }
    }

    /// Hands out up to `request.max` visible messages of all queues in turn, or as the priorities of the queues say: retries
    /// first, then new messages. `alive` tells which clients live, for messages held [`LeaseTerm::WhileAlive`].
    pub fn receive(
        &mut self,
        now_ms: i64,
        request: &ReceiveRequest<'_>,
        alive: impl Fn(&str) -> bool,
    ) -> Vec<DeliveredMessage> {
        self.sweep(now_ms, alive);
        self.last_receive = self.last_receive.next();
        let mut picked = self.repeat(now_ms, request);
        if picked.is_empty() {
            picked = match self.policy.priorities {
                Some(factor) => self.pick_by_priority(now_ms, factor, request),
                None if self.policy.ordered => self.pick_in_order(now_ms, request),
                None => self.pick(now_ms, request),
            };
        }
        if let Some(attempt_id) = request.attempt_id
            && let Some(until_ms) = picked.iter().map(|message| message.visible_ms).max()
        {
            let messages = picked.iter().map(|m| (m.queue, m.offset, m.lease)).collect();
            self.repeatable.put(attempt_id, messages, until_ms);
        }
        picked
    }

    /// Keeps the messages of a batch that its receiver wants, by the `results` of the filters in the order of the batch. A message
    /// behind an unwanted one of its message group is taken back with it.
    pub fn apply_filter_results(
        &mut self,
        now_ms: i64,
        picked: Vec<DeliveredMessage>,
        results: &[FilterResult],
    ) -> Vec<DeliveredMessage> {
        assert_eq!(picked.len(), results.len(), "one result for each message");
        let mut wanted = Vec::with_capacity(picked.len());
        let mut closed: Vec<(u32, OrderingKey)> = Vec::new();
        for (message, result) in picked.into_iter().zip(results) {
            let key = self.queue_mut(message.queue).key_of(message.offset);
            if key.is_some_and(|key| closed.contains(&(message.queue, key))) {
                self.take_back(now_ms, &message);
                continue;
            }
            let stays = match result {
                FilterResult::Wanted => {
                    wanted.push(message);
                    continue;
                }
                FilterResult::Unwanted if !self.holds_back => {
                    self.queue_mut(message.queue).finish(message.offset);
                    continue;
                }
                FilterResult::Unwanted => {
                    self.take_back(now_ms, &message);
                    self.queue_mut(message.queue).keep_for(message.offset, &[FilterId::UNKNOWN]);
                    key
                }
                FilterResult::WantedBy(filters) => {
                    self.take_back(now_ms, &message);
                    self.queue_mut(message.queue).keep_for(message.offset, filters);
                    key
                }
                FilterResult::Unreadable(again_ms) => {
                    self.take_back(*again_ms, &message);
                    key
                }
            };
            closed.extend(stays.map(|key| (message.queue, key)));
        }
        wanted
    }

    /// Takes back messages that never reached their receiver: they are visible again at `now_ms`, and the attempt does
    /// not count.
    pub fn give_back(&mut self, now_ms: i64, picked: &[DeliveredMessage]) {
        picked.iter().for_each(|message| self.take_back(now_ms, message));
    }

    /// Messages that an earlier receive with this attempt id got, as far as they are undone and still held.
    fn repeat(&mut self, now_ms: i64, request: &ReceiveRequest<'_>) -> Vec<DeliveredMessage> {
        let Some(attempt_id) = request.attempt_id else { return Vec::new() };
        let mut picked = Vec::new();
        for (number, offset, lease) in self.repeatable.take(attempt_id).into_iter().take(request.max) {
            let (receive, queue) = (self.last_receive, self.queue_mut(number));
            let Some(flight) = queue.ledger.flight(offset).filter(|flight| {
                let held = flight.active_lease();
                let is_it = held.is_some_and(|held| held.id == lease && held.client == request.client);
                is_it && flight.visible_ms > now_ms
            }) else {
                continue;
            };
            let (attempt, is_logged) = (flight.attempts, flight.is_logged);
            let (visible_ms, renewal) = lease_end(now_ms, request.term);
            let state = FlightState::Leased(ActiveLease {
                id: lease,
                client: request.client.to_owned(),
                receive,
                renewal,
            });
            queue.put(offset, Flight { attempts: attempt, visible_ms, is_logged, state });
            picked.push(DeliveredMessage { queue: number, offset, attempt, lease, visible_ms, receive });
        }
        picked
    }

    fn pick(&mut self, now_ms: i64, request: &ReceiveRequest<'_>) -> Vec<DeliveredMessage> {
        let queues = &self.queues_in_turn();
        let mut picked = Vec::new();
        for queue in queues {
            while picked.len() < request.max
                && let Some(offset) = self.queues[queue].next_due(now_ms)
            {
                picked.push(self.hand_out(now_ms, *queue, offset, request));
            }
        }
        for queue in queues {
            while picked.len() < request.max
                && let Some(offset) = self.queue_mut(*queue).take_fresh(request.filter)
            {
                picked.push(self.hand_out(now_ms, *queue, offset, request));
            }
        }
        picked
    }

    fn pick_in_order(&mut self, now_ms: i64, request: &ReceiveRequest<'_>) -> Vec<DeliveredMessage> {
        let queues = &self.queues_in_turn();
        let mut picked = Vec::new();
        for queue in queues {
            while picked.len() < request.max
                && let Some(offsets) =
                    self.queue_mut(*queue).take_group(now_ms, request.filter, request.max - picked.len())
            {
                for offset in offsets {
                    picked.push(self.hand_out(now_ms, *queue, offset, request));
                }
            }
        }
        picked
    }

    fn pick_by_priority(
        &mut self,
        now_ms: i64,
        factor: PriorityFactor,
        request: &ReceiveRequest<'_>,
    ) -> Vec<DeliveredMessage> {
        let mut open: Vec<u32> = self.queues.keys().copied().collect();
        let mut picked = Vec::new();
        while picked.len() < request.max && !open.is_empty() {
            let place = self.turns.choose(factor, &open);
            let queue = open[place];
            match self.queue_mut(queue).take_next(now_ms, request.filter) {
                Some(offset) => {
                    self.turns.took(factor, queue);
                    picked.push(self.hand_out(now_ms, queue, offset, request));
                }
                None => drop(open.remove(place)),
            }
        }
        picked
    }

    fn hand_out(
        &mut self,
        now_ms: i64,
        number: u32,
        offset: QueueOffset,
        request: &ReceiveRequest<'_>,
    ) -> DeliveredMessage {
        let (lease, receive) = (self.new_lease(), self.last_receive);
        let (visible_ms, renewal) = lease_end(now_ms, request.term);
        let queue = self.queue_mut(number);
        let attempts = queue.ledger.attempts_of(offset);
        let failed = queue.ledger.flight(offset).filter(|flight| !flight.is_logged && attempts > 0);
        if let Some(failed_ms) = failed.map(|flight| flight.visible_ms) {
            queue.ledger.note_attempts(offset, attempts, failed_ms);
        }
        let attempt = attempts.saturating_add(1);
        let client = request.client.to_owned();
        let state = FlightState::Leased(ActiveLease { id: lease, client, receive, renewal });
        queue.put(offset, Flight { attempts: attempt, visible_ms, is_logged: false, state });
        DeliveredMessage { queue: number, offset, attempt, lease, visible_ms, receive }
    }

    /// Makes a message visible again at `visible_ms`, as if it had not been delivered.
    pub(super) fn take_back(&mut self, visible_ms: i64, message: &DeliveredMessage) {
        let queue = self.queue_mut(message.queue);
        let flight = queue.ledger.flight(message.offset);
        if flight.is_some_and(|flight| flight.lease() == Some(message.lease)) {
            queue.put(message.offset, Flight::delayed(message.attempt - 1, visible_ms));
        }
    }

    fn queues_in_turn(&mut self) -> Vec<u32> {
        let first = self.turn;
        let later = self.queues.range(first..).map(|(queue, _)| *queue);
        let order: Vec<u32> = later.chain(self.queues.range(..first).map(|(queue, _)| *queue)).collect();
        self.turn = order.first().map_or(0, |queue| queue + 1);
        order
    }
}

/// When the lease of a message that is handed out now ends, and how it is renewed.
fn lease_end(now_ms: i64, term: LeaseTerm) -> (i64, Option<LeaseRenewal>) {
    match term {
        LeaseTerm::Fixed(ms) => (now_ms.saturating_add_unsigned(ms), None),
        LeaseTerm::WhileAlive(ms) => {
            let until_ms = now_ms.saturating_add(AUTO_RENEW_MS_MAX);
            (now_ms.saturating_add_unsigned(ms), Some(LeaseRenewal { until_ms, every_ms: ms }))
        }
    }
}
