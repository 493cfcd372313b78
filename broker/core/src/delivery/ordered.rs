//! Ordered delivery: within a message group, nothing is handed out before everything in front of it is done.
//!
//! # Order
//!
//! A group that is FIFO delivers message groups in order (`core/src/delivery/{ordered,message_groups}.rs`): each
//! message that the engine has looked at stands in the line of its message group. A line hands out nothing while a
//! consumer holds one of its messages, and nothing new while it repeats. The broker crate loads the ordering keys of
//! the next messages (`Receiver::load_ordering_keys`), because the keys are in the log. The state machine decides which
//! queue a message group belongs to (`store/src/state/ordering.rs`): when a topic gets another number of queues, a
//! group stays in place (`core/src/slots.rs`) until `broker/src/tasks/slot_migration.rs` finds that ordered consumers
//! have finished its messages there, and logs a record.

use std::collections::BTreeSet;

use super::flight::Flight;
use super::ledger::QueueLedger;
use super::members::FilterId;
use super::message_groups::{MessageGroupLines, OrderingKey, ReadyLine};
use super::policy::DeliveryPolicy;
use super::unordered::HELD_BACK_MAX;
use crate::queue_offset::QueueOffset;

/// The messages of an ordered queue that the engine has looked at, in the lines of their message groups.
#[derive(Debug, Clone, Default)]
pub(super) struct OrderedQueue {
    /// Next offset for the engine to look at.
    next: QueueOffset,
    /// Undone messages that the engine has looked at.
    lines: MessageGroupLines,
    /// Nothing is handed out before the engine has looked at everything in front of this offset, because a consumer
    /// holds a message there since before a restart or since before ordered delivery.
    look_before: QueueOffset,
    /// Messages that handles from before a restart finished before the engine looked at them. The messages in front of one
    /// in its message group were handed out as well.
    done_early: BTreeSet<QueueOffset>,
}

/// The state of the front of a line.
enum FrontOfLine {
    /// These may be handed out together.
    Ready(Vec<QueueOffset>),
    /// The front is out of attempts.
    Exhausted,
    /// Nothing may be handed out beside the messages in flight.
    Full,
}

impl OrderedQueue {
    /// Looks at a queue from an offset on.
    pub(super) fn from(next: QueueOffset) -> Self {
        Self { next, ..Self::default() }
    }

    pub(super) fn lines(&self) -> &MessageGroupLines {
        &self.lines
    }

    fn next_unseen(&self, ledger: &QueueLedger) -> QueueOffset {
        let open = ledger.acks().next_open(self.next);
        let early = self.done_early.range(self.next..).next();
        early.map_or(open, |early| open.min(*early))
    }

    /// Up to `max` offsets of the message group that has been ready for longest, in order, to be handed out at once. Repeated
    /// messages come without any new ones: their consumer may have finished them.
    pub(super) fn take_group(
        &mut self,
        ledger: &QueueLedger,
        policy: &DeliveryPolicy,
        now_ms: i64,
        filter: FilterId,
        max: usize,
    ) -> Option<Vec<QueueOffset>> {
        if self.next_unseen(ledger) < self.look_before {
            return None;
        }
        loop {
            let line = self.lines.first_ready(now_ms, filter)?;
            let key = line.key;
            match front_of_line(line, ledger, policy, max) {
                FrontOfLine::Ready(offsets) => return Some(offsets),
                FrontOfLine::Full => return None,
                FrontOfLine::Exhausted => self.lines.block(key),
            }
        }
    }

    /// From which offset on ordering keys have to be loaded before more can be handed out; `None` if enough are known.
    pub(super) fn keys_wanted(
        &self,
        ledger: &QueueLedger,
        policy: &DeliveryPolicy,
        now_ms: i64,
        filter: FilterId,
        enough: usize,
    ) -> Option<QueueOffset> {
        let offset = self.next_unseen(ledger);
        // Messages that wait for an absent member must not block the messages behind them.
        let looked = || self.lines.len() - self.lines.kept_len();
        let knows_few = || {
            looked() < policy.lookahead_max
                && self.lines.ready_len(now_ms, filter, enough) < enough
                && self.lines.kept_for_len(FilterId::UNKNOWN) < HELD_BACK_MAX
        };
        (offset < ledger.end() && (offset < self.look_before || knows_few())).then_some(offset)
    }

    /// The ordering keys of the messages from `from` on, one by one. Keys that another receive has loaded are ignored.
    pub(super) fn load_keys(
        &mut self,
        ledger: &QueueLedger,
        from: QueueOffset,
        keys: impl IntoIterator<Item = OrderingKey>,
    ) {
        if from != self.next_unseen(ledger) {
            return;
        }
        for key in keys {
            let offset = self.next.max(from);
            self.next = offset.next();
            if ledger.acks().is_done(offset) {
                if self.done_early.remove(&offset) {
                    self.lines.repeat_below(key, offset);
                }
            } else if offset < ledger.end() {
                self.lines.push(offset, key);
                if let Some(flight) = ledger.flight(offset) {
                    self.lines.set_visible(offset, visible_ms(flight));
                }
            }
        }
        self.next = self.next.min(ledger.end());
    }

    /// A message that was done is delivered once more.
    pub(super) fn reopened(&mut self, offset: QueueOffset, key: OrderingKey) {
        if offset < self.next {
            self.lines.push(offset, key);
        }
    }

    /// Puts a message in flight.
    pub(super) fn put(&mut self, offset: QueueOffset, flight: &Flight) {
        self.lines.set_visible(offset, visible_ms(flight));
        if flight.lease().is_some() && offset >= self.next {
            self.look_before = self.look_before.max(offset.next());
        }
        // Otherwise the line stops when the message reaches its front.
        if flight.is_blocked() && self.lines.is_front(offset) {
            self.change_line_of(offset, MessageGroupLines::block);
        }
    }

    /// Keeps a message for consumers with one of these filters. A message behind others is filtered again when it reaches the
    /// front.
    pub(super) fn keep_for(&mut self, offset: QueueOffset, filters: &[FilterId]) {
        if self.lines.is_front(offset) {
            self.change_line_of(offset, |lines, key| lines.keep_for(key, filters));
        }
    }

    /// No member has this filter any longer.
    pub(super) fn forget_filter(&mut self, filter: FilterId) {
        self.lines.forget_filter(filter);
    }

    /// A message is done.
    pub(super) fn forget(&mut self, offset: QueueOffset) {
        self.lines.remove(offset);
    }

    /// Forgets what expired.
    pub(super) fn expire_below(&mut self, ledger: &QueueLedger, min: QueueOffset) {
        let known = self.lines.offsets().take_while(|offset| *offset < min);
        let gone: Vec<QueueOffset> = known.filter(|offset| ledger.acks().is_done(*offset)).collect();
        gone.into_iter().for_each(|offset| self.lines.remove(offset));
    }

    /// Lets the message group of a blocked message go on.
    pub(super) fn unblock(&mut self, offset: QueueOffset) {
        self.change_line_of(offset, MessageGroupLines::unblock);
    }

    fn change_line_of(
        &mut self,
        offset: QueueOffset,
        change: impl FnOnce(&mut MessageGroupLines, OrderingKey),
    ) {
        if let Some(key) = self.lines.key_of(offset) {
            change(&mut self.lines, key);
        }
    }

    /// Messages that wait because of a blocked one, itself included; `None` while it stands behind others.
    pub(super) fn waiting_with(&self, offset: QueueOffset) -> Option<usize> {
        match self.lines.front_of(offset) {
            Some(front) => (front == offset).then(|| self.lines.line_len(offset)),
            None => Some(1),
        }
    }

    /// A message is about to be done before delivered ones in front of it in its message group. That is logged with it, so that
    /// no new message is handed out beside them after a restart either.
    pub(super) fn note_overtaken(&mut self, ledger: &mut QueueLedger, offset: QueueOffset) {
        let key = self.lines.key_of(offset);
        if key.is_none() && offset >= self.next {
            self.done_early.insert(offset);
        }
        let overtaken: Vec<QueueOffset> = match key {
            Some(key) => self.lines.in_front(key, offset).collect(),
            // Any of them may be of its message group.
            None => ledger.flights_below(offset).map(|(other, _)| other).collect(),
        };
        overtaken.into_iter().for_each(|other| ledger.note_delivered(other));
    }
}

/// A blocked message has no time: the block itself holds its line.
fn visible_ms(flight: &Flight) -> i64 {
    if flight.is_blocked() { i64::MIN } else { flight.visible_ms }
}

/// Which messages at the front of a line may be handed out together.
fn front_of_line(
    line: ReadyLine<impl Iterator<Item = QueueOffset>>,
    ledger: &QueueLedger,
    policy: &DeliveryPolicy,
    max: usize,
) -> FrontOfLine {
    let mut room = policy.in_flight_max.saturating_sub(ledger.flights_len());
    let mut taken = Vec::new();
    let mut repeats = false;
    for offset in line.offsets.take(max) {
        let flight = ledger.flight(offset);
        if flight.is_some_and(|flight| flight.attempts >= policy.max_attempts) {
            return if taken.is_empty() { FrontOfLine::Exhausted } else { FrontOfLine::Ready(taken) };
        }
        let is_repeat = ledger.acks().is_attempted(offset) || flight.is_some_and(Flight::reached_a_consumer);
        // It may have been handed out before a restart, so it comes alone.
        let is_doubtful = !is_repeat && offset < line.repeated_below;
        let is_held_up = repeats && !is_repeat || is_doubtful && !taken.is_empty();
        if is_held_up || flight.is_none() && room == 0 {
            break;
        }
        repeats |= is_repeat || is_doubtful;
        room -= usize::from(flight.is_none());
        taken.push(offset);
    }
    if taken.is_empty() { FrontOfLine::Full } else { FrontOfLine::Ready(taken) }
}
