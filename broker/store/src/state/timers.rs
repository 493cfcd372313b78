//! Scheduled messages: held until their delivery time.

use kerolox_core::record::{Fired, TimerDecision, TimerEnded};
use kerolox_core::timer::{Timer, TimerPhase};
use kerolox_core::transaction::Half;
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::held::Held as _;
use crate::state::{Event, Outcome, StateMachine};

impl StateMachine {
    /// The scheduled message at a position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or the value is malformed.
    pub fn timer(&self, position: u64) -> Result<Option<Timer>, StoreError> {
        self.held(position)
    }

    /// Up to `limit` pending messages whose delivery time is at or before `until_ms`, earliest first, beginning after the
    /// `(delivery time, position)` given.
    ///
    /// # Errors
    /// See [`Self::timer`].
    pub fn due_timers(
        &self,
        until_ms: i64,
        after: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, Timer)>, StoreError> {
        self.due(until_ms, after, limit)
    }

    /// The earliest delivery time that is waited for.
    ///
    /// # Errors
    /// See [`Self::timer`].
    pub fn next_timer_ms(&self) -> Result<Option<i64>, StoreError> {
        self.next_due_ms::<Timer>()
    }

    /// Messages of a topic that wait for their delivery time.
    pub fn scheduled(&self, topic_id: u32) -> u64 {
        self.scheduled.get(&topic_id).copied().unwrap_or(0)
    }

    /// Messages of all topics that wait for their delivery time.
    pub fn scheduled_total(&self) -> u64 {
        self.scheduled.values().sum()
    }

    /// A message waits from now on. Whether its time has come already is not for the fold to say: it has no clock.
    pub(super) fn schedule(&mut self, position: u64, timer: &Timer, events: &mut Vec<Event>) -> Outcome {
        self.put_held(position, None, timer);
        events.push(Event::TimerDue { due_ms: timer.due_ms });
        Outcome::Scheduled
    }

    /// A half message is committed before its delivery time.
    pub(super) fn schedule_half(&mut self, position: u64, half: &Half, events: &mut Vec<Event>) -> Outcome {
        let timer = Timer {
            topic_id: half.topic_id,
            queue: half.queue,
            frame_len: half.frame_len,
            tag_hash: half.tag_hash,
            message_id_crc: half.message_id_crc,
            stored_ms: half.stored_ms,
            due_ms: half.deliver_at_ms,
            carried_to: half.carried_to,
            slot: half.slot,
            ..Timer::default()
        };
        self.schedule(position, &timer, events)
    }

    /// Delivery times came, in this order. What was decided meanwhile stays decided.
    pub(super) fn apply_fired(
        &mut self,
        frame: &Frame,
        fired: &Fired,
        events: &mut Vec<Event>,
    ) -> Result<(), StoreError> {
        for position in &fired.held {
            match self.timer(*position)? {
                Some(timer) if timer.is_pending() => {
                    self.deliver(frame, *position, &timer, String::new(), events);
                }
                Some(_) => {}
                None => self.note_decision(*position, None),
            }
        }
        Ok(())
    }

    /// The first decision about a scheduled message wins.
    pub(super) fn apply_timer_ended(
        &mut self,
        frame: &Frame,
        ended: TimerEnded,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        let position = ended.held;
        let Some(timer) = self.timer(position)? else {
            self.note_decision(position, None);
            return Ok(Outcome::NoSuchTimer);
        };
        if !timer.is_pending() {
            return Ok(Outcome::TimerOver(timer.phase()));
        }
        Ok(match ended.decision() {
            TimerDecision::Deliver => self.deliver(frame, position, &timer, ended.by, events),
            TimerDecision::Recall => {
                let recalled = decided(frame, &timer, TimerPhase::Recalled, ended.by);
                self.put_held(position, Some(&timer), &recalled);
                Outcome::Discarded
            }
        })
    }

    fn deliver(
        &mut self,
        frame: &Frame,
        position: u64,
        timer: &Timer,
        by: String,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let entry = timer.entry(position, frame.store_ms);
        let mut delivered = decided(frame, timer, TimerPhase::Delivered, by);
        delivered.queue = self.place(timer.topic_id, timer.slot, timer.queue);
        let outcome = self.make_visible(timer.topic_id, delivered.queue, entry, events);
        delivered.offset = self.queue_bounds(timer.topic_id, delivered.queue).next - 1;
        self.put_held(position, Some(timer), &delivered);
        self.note_decision(position, Some(delivered.queue()));
        outcome
    }
}

fn decided(frame: &Frame, timer: &Timer, phase: TimerPhase, by: String) -> Timer {
    Timer {
        phase: phase.into(),
        decided_by: by,
        decided_ms: frame.store_ms,
        decided_at: frame.position,
        ..timer.clone()
    }
}
