//! The effect of one record of the log. Deterministic, so every member of a group reaches the same state.

mod meta;
mod progress;

use kerolox_core::record::{
    MessageHold, MessageRecord, MessageRouting, MetaRecord, QueueState, Record, RecordError, RecordKind,
    TrimRecord,
};
use kerolox_core::timer::{ScheduledMessage, TimerPhase};
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::queues::QueueEntry;
use crate::state::snapshot::Loading;
use crate::state::transactions::{Settling, held_message};
use crate::state::{ApplyOutcome, FirstMessage, StateEvent, StateMachine};

pub(super) fn malformed(frame: &Frame) -> impl Fn(RecordError) -> StoreError {
    let position = frame.position;
    move |source| StoreError::Record { position, source }
}

impl StateMachine {
    /// Applies the next record of the log. `events` collects notifications for other parts of the broker.
    ///
    /// # Errors
    /// [`StoreError`] when the record cannot be decoded or the store fails; the state is unusable then, because a record
    /// is missing in it.
    pub fn apply(&mut self, frame: &Frame, events: &mut Vec<StateEvent>) -> Result<ApplyOutcome, StoreError> {
        let joining = self.transactions.joining_len();
        let outcome = if frame.kind == RecordKind::Message as u8 {
            self.apply_message(frame, events)?
        } else {
            self.apply_other(frame, events)?
        };
        if joining > 0 && self.transactions.joining_len() == joining {
            self.transactions.drop_joining()?;
        }
        if frame.kind != RecordKind::Snapshot as u8 {
            self.loading = Loading::Never;
            self.uncertainty.forget_parts();
        }
        self.head.advance(frame);
        Ok(outcome)
    }

    fn apply_other(
        &mut self,
        frame: &Frame,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        match Record::decode(frame.kind, frame.body.clone()).map_err(malformed(frame))? {
            Record::Message(_) => self.apply_message(frame, events),
            Record::Release(record) => self.settle(frame, &Settling::from(record), events),
            Record::Discard(record) => self.settle(frame, &Settling::from(record), events),
            Record::Meta(MetaRecord { change }) => self.apply_meta(change, events),
            Record::Progress(progress) => self.apply_progress(frame, progress, events),
            Record::Trim(trim) => self.apply_trim(&trim, events),
            Record::Epoch(epoch) => {
                self.head.broker = epoch.broker;
                Ok(ApplyOutcome::Done)
            }
            Record::Snapshot(part) => {
                self.apply_snapshot(*part)?;
                Ok(ApplyOutcome::Done)
            }
        }
    }

    fn apply_message(
        &mut self,
        frame: &Frame,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let routing = MessageRouting::decode_from(frame.body.clone()).map_err(malformed(frame))?;
        if self.is_topic_gone(routing.topic_id) || self.is_lite_gone(routing.topic_id, routing.queue) {
            return Ok(ApplyOutcome::TopicGone);
        }
        self.note_topic(routing.topic_id);
        let known_by = routing.dedup().filter(|_| routing.carried.is_none());
        let known_by = known_by.and_then(|hash| Some((self.topics.by_id(routing.topic_id)?, hash)));
        if let Some((topic, hash)) = &known_by
            && let Some(first) = self.first_of(topic, *hash, frame.store_ms)?
        {
            self.dedup.hang(frame.position, first.position);
            return Ok(ApplyOutcome::Duplicate(first));
        }
        let outcome = self.take_message(frame, &routing, events)?;
        if let Some((topic, hash)) = &known_by {
            let place = match outcome {
                ApplyOutcome::Visible { queue, offset } => Some((queue, offset)),
                _ => None,
            };
            let first = FirstMessage { position: frame.position, store_ms: frame.store_ms, place };
            self.dedup.remember(topic, *hash, first);
        }
        Ok(outcome)
    }

    fn take_message(
        &mut self,
        frame: &Frame,
        routing: &MessageRouting,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        self.lookups.add(frame.position, &routing.lookups);
        let entry = |visible_ms: i64| QueueEntry {
            position: frame.position,
            len: frame.len,
            tag_hash: routing.tag_hash,
            visible_ms,
        };
        if let Some(carried) = &routing.carried {
            self.apply_carried(routing.topic_id, routing.queue, carried, entry(carried.visible_ms))?;
            return Ok(ApplyOutcome::Done);
        }
        match MessageHold::try_from(routing.hold) {
            Ok(MessageHold::None) => {
                if let Some(origin) = &routing.dead {
                    self.bury(origin)?;
                }
                let queue = self.place(routing.topic_id, routing.slot, routing.queue);
                let offset = self.make_visible(routing.topic_id, queue, entry(frame.store_ms), events);
                Ok(ApplyOutcome::Visible { queue, offset })
            }
            Ok(MessageHold::Half) => self.hold_half(frame, events),
            Ok(MessageHold::Until) => self.hold_until(frame, events),
            // Treating an unknown hold as none would show a message that no consumer may see.
            Err(_) => {
                let reason = format!("hold {}, which this version does not support", routing.hold);
                Err(malformed(frame)(RecordError::Malformed { kind: "message", reason }))
            }
        }
    }

    fn hold_until(
        &mut self,
        frame: &Frame,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let header = MessageRecord::decode(frame.body.clone()).map_err(malformed(frame))?.header;
        let timer = ScheduledMessage {
            due_ms: header.hold_ms,
            phase: TimerPhase::Pending,
            message: held_message(frame, header),
        };
        Ok(self.schedule(frame.position, &timer, events))
    }

    /// The queue for the next message of a slot; `expected` without a slot.
    pub(super) fn place(&mut self, topic_id: u32, slot: Option<u32>, expected: u32) -> u32 {
        // The record that made the topic may be missing in damage.
        match (slot, self.topics.look_up(topic_id)) {
            (Some(slot), Some(topic)) => self.ordering.place(topic, slot),
            _ => expected,
        }
    }

    /// Gives a message the next offset of a queue.
    pub(super) fn make_visible(
        &mut self,
        topic_id: u32,
        queue: u32,
        entry: QueueEntry,
        events: &mut Vec<StateEvent>,
    ) -> u64 {
        let offset = self.queues.push(topic_id, queue, entry);
        debug_assert_eq!(self.queues.bounds(topic_id, queue).next, offset + 1, "the next one follows");
        events.push(StateEvent::Arrived { topic_id, queue, end: offset + 1 });
        offset
    }

    /// Drops everything before the record's position, unless records behind it depend on that.
    fn apply_trim(
        &mut self,
        trim: &TrimRecord,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        if self.dedup.hangs_on(trim.before)? {
            return Ok(ApplyOutcome::Hangs);
        }
        let certain = |state: &QueueState| QueueState {
            next: self.uncertainty.certain_end(state.topic_id, state.queue).min(state.next),
            ..*state
        };
        let certain = TrimRecord { before: trim.before, queues: trim.queues.iter().map(certain).collect() };
        for table in self.tables_mut() {
            table.trim(&certain)?;
        }
        events.extend(trim.queues.iter().map(|state| StateEvent::Trimmed {
            topic_id: state.topic_id,
            queue: state.queue,
            min: state.next,
        }));
        Ok(ApplyOutcome::Done)
    }

    /// Forgets a topic in all tables.
    pub(super) fn drop_topic(&mut self, topic_id: u32) -> Result<(), StoreError> {
        let group_ids = self.groups.ids();
        self.tables_mut().into_iter().try_for_each(|table| table.drop_topic(topic_id, &group_ids))
    }

    /// Forgets queues of a topic in all tables.
    pub(super) fn drop_queues(&mut self, topic_id: u32, queues: &[u32]) -> Result<(), StoreError> {
        let group_ids = self.groups.ids();
        self.tables_mut().into_iter().try_for_each(|table| table.drop_queues(topic_id, queues, &group_ids))
    }

    /// Whether a topic was deleted, or never existed: nothing of it is to be kept.
    pub(super) fn is_topic_gone(&self, id: u32) -> bool {
        !self.topics.has(id) && !self.uncertainty.may_hide_topic(id)
    }

    /// Whether a queue is a lite topic that was removed, or never existed: nothing of it is to be kept.
    pub(super) fn is_lite_gone(&self, topic_id: u32, queue: u32) -> bool {
        kerolox_core::lite::is_lite(queue)
            && !self.queues.has(topic_id, queue)
            && !self.uncertainty.may_hide_lite(queue)
    }

    /// Registers the id of a topic that a record names: behind damage the topic may be unknown, but its id is taken.
    pub(super) fn note_topic(&mut self, id: u32) {
        if self.uncertainty.trusts_expected_ids() {
            self.topics.note_id(id);
        }
    }
}
