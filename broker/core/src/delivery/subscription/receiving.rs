//! Receiving: who gets which messages.

use std::sync::Arc;

use super::Subscription;
use crate::delivery::cursor::{Cursor, InFlight};
use crate::delivery::lanes::Lane;
use crate::delivery::members::FilterId;
use crate::delivery::priorities::PriorityFactor;
use crate::delivery::requests::{Ask, Held, LanesWanted, Picked, Verdict};
use crate::filter::Filter;

/// After this long even a living client loses a message that it never acknowledged (RocketMQ's `renewMaxTimeMillis`).
const AUTO_RENEW_MS_MAX: i64 = 3 * 3_600_000;

impl Subscription {
    /// A member receives with this filter; the number goes into [`Ask`].
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

    /// Hands out up to `ask.max` visible messages of all queues in turn, or as the priorities of the queues say: first those
    /// whose time has come again, then new ones. `alive` tells which clients live, for messages held [`Held::WhileAlive`].
    pub fn receive(&mut self, now_ms: i64, ask: &Ask<'_>, alive: impl Fn(&str) -> bool) -> Vec<Picked> {
        self.sweep(now_ms, alive);
        self.last_call += 1;
        let mut picked = self.repeat(now_ms, ask);
        if picked.is_empty() {
            picked = match self.policy.priorities {
                Some(factor) => self.pick_by_priority(now_ms, factor, ask),
                None if self.policy.ordered => self.pick_in_order(now_ms, ask),
                None => self.pick(now_ms, ask),
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
                Verdict::Unwanted if !self.holds_back => {
                    self.cursor(message.queue).finish(message.offset);
                    continue;
                }
                Verdict::Unwanted => {
                    self.take_back(now_ms, &message);
                    self.cursor(message.queue).keep_for(message.offset, &[FilterId::UNKNOWN]);
                    lane
                }
                Verdict::WantedBy(filters) => {
                    self.take_back(now_ms, &message);
                    self.cursor(message.queue).keep_for(message.offset, filters);
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

    /// What a receive with the same attempt id got before, as far as it is not done and still held.
    fn repeat(&mut self, now_ms: i64, ask: &Ask<'_>) -> Vec<Picked> {
        let Some(attempt_id) = ask.attempt_id else { return Vec::new() };
        let (mut picked, call) = (Vec::new(), self.last_call);
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
            let (visible_ms, renew_until_ms, renew_ms) = hold(now_ms, ask.held);
            let attempt = flight.attempts;
            let flight = InFlight { visible_ms, renew_until_ms, renew_ms, call, ..flight.clone() };
            cursor.put(offset, flight);
            picked.push(Picked { queue, offset, attempt, lease, visible_ms, call });
        }
        picked
    }

    fn pick(&mut self, now_ms: i64, ask: &Ask<'_>) -> Vec<Picked> {
        let queues = &self.queues_in_turn();
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

    fn pick_in_order(&mut self, now_ms: i64, ask: &Ask<'_>) -> Vec<Picked> {
        let queues = &self.queues_in_turn();
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

    fn pick_by_priority(&mut self, now_ms: i64, factor: PriorityFactor, ask: &Ask<'_>) -> Vec<Picked> {
        let mut open: Vec<u32> = self.queues.keys().copied().collect();
        let mut picked = Vec::new();
        while picked.len() < ask.max && !open.is_empty() {
            let place = self.turns.choose(factor, &open);
            let queue = open[place];
            match self.next_of(now_ms, queue, ask.filter) {
                Some(offset) => {
                    self.turns.took(factor, queue);
                    picked.push(self.hand_out(now_ms, queue, offset, ask));
                }
                None => drop(open.remove(place)),
            }
        }
        picked
    }

    /// The next message of a queue, to be handed out at once.
    fn next_of(&mut self, now_ms: i64, queue: u32, filter: FilterId) -> Option<u64> {
        let ordered = self.policy.ordered;
        let cursor = self.cursor(queue);
        if ordered {
            return cursor.next_of_a_lane(now_ms, filter, 1)?.pop();
        }
        cursor.due_offset(now_ms).or_else(|| cursor.fresh_offset(filter))
    }

    fn hand_out(&mut self, now_ms: i64, queue: u32, offset: u64, ask: &Ask<'_>) -> Picked {
        let (lease, call) = (self.new_lease(), self.last_call);
        let (visible_ms, renew_until_ms, renew_ms) = hold(now_ms, ask.held);
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
            call,
            renew_until_ms,
            renew_ms,
            logged: false,
            put_off: false,
            spent: false,
        };
        cursor.put(offset, flight);
        Picked { queue, offset, attempt, lease, visible_ms, call }
    }

    /// Visible again at `visible_ms`, as if this delivery had not been.
    pub(super) fn take_back(&mut self, visible_ms: i64, message: &Picked) {
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
}

/// Until when a message handed out now is invisible, until when that may be prolonged, and by how much each time.
fn hold(now_ms: i64, held: Held) -> (i64, Option<i64>, u64) {
    match held {
        Held::For(ms) => (now_ms.saturating_add_unsigned(ms), None, 0),
        Held::WhileAlive(ms) => {
            (now_ms.saturating_add_unsigned(ms), Some(now_ms.saturating_add(AUTO_RENEW_MS_MAX)), ms)
        }
    }
}
