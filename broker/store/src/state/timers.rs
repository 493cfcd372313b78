//! Scheduled messages: held until their delivery time.

use kerolox_core::record::TimerDecision;
use kerolox_core::record::{FiredRecord, TimerEnded};
use kerolox_core::timer::{ScheduledMessage, TimerPhase};
use kerolox_core::transaction::HalfMessage;
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::held::{HeldTable, entry_of};
use crate::state::{ApplyOutcome, StateEvent, StateMachine};

/// Scheduled messages by position, pending ones also by delivery time.
pub type TimerTable = HeldTable<ScheduledMessage>;

impl StateMachine {
    /// Schedules a message. Whether it is already due is not decided here: the state machine has no clock.
    pub(super) fn schedule(
        &mut self,
        position: u64,
        timer: &ScheduledMessage,
        events: &mut Vec<StateEvent>,
    ) -> ApplyOutcome {
        self.timers.put(position, None, timer);
        events.push(StateEvent::TimerDue { due_ms: timer.due_ms });
        ApplyOutcome::Scheduled
    }

    /// Schedules a half message that was committed before its delivery time.
    pub(super) fn schedule_half(
        &mut self,
        position: u64,
        half: &HalfMessage,
        events: &mut Vec<StateEvent>,
    ) -> ApplyOutcome {
        let timer = ScheduledMessage {
            message: half.message.clone(),
            due_ms: half.deliver_at_ms,
            phase: TimerPhase::Pending,
        };
        self.schedule(position, &timer, events)
    }

    /// Delivers messages that came due, in this order. Earlier decisions stand.
    pub(super) fn apply_fired(
        &mut self,
        frame: &Frame,
        fired: &FiredRecord,
        events: &mut Vec<StateEvent>,
    ) -> Result<(), StoreError> {
        for position in &fired.held {
            match self.timers.get(*position)? {
                Some(timer) if timer.is_pending() => {
                    self.deliver(frame, *position, &timer, String::new(), events);
                }
                Some(_) => {}
                None => self.uncertainty.note_decision(*position, None, &self.queues),
            }
        }
        Ok(())
    }

    /// The first decision about a scheduled message wins.
    pub(super) fn apply_timer_ended(
        &mut self,
        frame: &Frame,
        ended: TimerEnded,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let position = ended.held;
        let Some(timer) = self.timers.get(position)? else {
            self.uncertainty.note_decision(position, None, &self.queues);
            return Ok(ApplyOutcome::NoSuchTimer);
        };
        if !timer.is_pending() {
            return Ok(ApplyOutcome::TimerOver(timer.phase));
        }
        Ok(match ended.decision() {
            TimerDecision::Deliver => self.deliver(frame, position, &timer, ended.by, events),
            TimerDecision::Recall => {
                let recalled = decided(frame, &timer, TimerPhase::Recalled, ended.by);
                self.timers.put(position, Some(&timer), &recalled);
                ApplyOutcome::Discarded
            }
        })
    }

    fn deliver(
        &mut self,
        frame: &Frame,
        position: u64,
        timer: &ScheduledMessage,
        by: String,
        events: &mut Vec<StateEvent>,
    ) -> ApplyOutcome {
        let mut delivered = decided(frame, timer, TimerPhase::Delivered, by);
        let queue = self.place(timer.topic_id, timer.slot, timer.queue);
        let entry = entry_of(timer, position, frame.store_ms);
        let offset = self.make_visible(timer.topic_id, queue, entry, events);
        (delivered.message.queue, delivered.message.offset) = (queue, offset);
        self.timers.put(position, Some(timer), &delivered);
        self.uncertainty.note_decision(position, Some((timer.topic_id, queue)), &self.queues);
        ApplyOutcome::Visible { queue, offset }
    }
}

fn decided(frame: &Frame, timer: &ScheduledMessage, phase: TimerPhase, by: String) -> ScheduledMessage {
    assert!(timer.is_pending(), "the first decision about a scheduled message stays");
    let mut decided = ScheduledMessage { phase, ..timer.clone() };
    decided.message.decided_by = by;
    decided.message.decided_ms = frame.store_ms;
    decided.message.decided_at = frame.position;
    decided
}
