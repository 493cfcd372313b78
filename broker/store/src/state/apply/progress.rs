//! Finished and failed deliveries, and dead letters: their origin, and their way back.
//!
//! A dead letter is an ordinary message in the dead-letter topic of its group: it is found, received, kept and removed
//! like any other. Its record ends the delivery of the original. A dead letter that went back to its group is marked as
//! done for [`REDRIVEN`], a group that no client can be a member of.

use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{
    AckRange, DeadOrigin, FinishedRecord, ProgressItem, ProgressRecord, QueueProgress, RedrivenRecord,
};
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::progress::{ProgressId, REDRIVEN};
use crate::state::{ApplyOutcome, StateEvent, StateMachine};

impl StateMachine {
    pub(super) fn apply_progress(
        &mut self,
        frame: &Frame,
        progress: ProgressRecord,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let mut outcome = ApplyOutcome::Done;
        for item in progress.into_items() {
            match item {
                ProgressItem::Queue(progress) => self.apply_queue_progress(&progress)?,
                ProgressItem::Checked(checked) => self.apply_checked(frame, &checked, events)?,
                ProgressItem::Undecided(said) => self.apply_undecided(frame, &said)?,
                ProgressItem::Redriven(redriven) => {
                    outcome = self.apply_redriven(&redriven, frame.store_ms, events)?;
                }
                ProgressItem::Finished(finished) => self.apply_finished(&finished),
                ProgressItem::Fired(fired) => self.apply_fired(frame, &fired, events)?,
                ProgressItem::TimerEnded(ended) => outcome = self.apply_timer_ended(frame, ended, events)?,
            }
        }
        Ok(outcome)
    }

    fn apply_queue_progress(&mut self, change: &QueueProgress) -> Result<(), StoreError> {
        let (group_id, topic_id, queue) = (change.group_id, change.topic_id, change.queue);
        let is_gone = !self.topics.has(topic_id) || self.is_lite_gone(topic_id, queue);
        if is_gone || !self.groups.has(group_id) {
            return Ok(());
        }
        let uncertainty = &self.uncertainty;
        self.progress.change(ProgressId { group_id, topic_id, queue }, |acks| {
            if uncertainty.is_open() {
                acks.apply(&uncertainty.certain(change));
                uncertainty.reopen(topic_id, queue, acks);
            } else {
                acks.apply(change);
            }
        })
    }

    /// Consumers have finished everything before an offset of a queue.
    fn apply_finished(&mut self, finished: &FinishedRecord) {
        if let Some(topic) = self.topics.look_up(finished.topic_id) {
            self.ordering.finish(topic, finished, &self.queues);
        }
    }

    /// The delivery of the original ends with the dead letter.
    pub(super) fn bury(&mut self, origin: &DeadOrigin) -> Result<(), StoreError> {
        self.apply_queue_progress(&QueueProgress {
            group_id: origin.group_id,
            topic_id: origin.topic_id,
            queue: origin.queue,
            acked: vec![AckRange { start: origin.offset, end: origin.offset + 1 }],
            ..QueueProgress::default()
        })
    }

    /// A dead letter goes back: its original is open once more, without attempts. If the original has expired, the record
    /// of the dead letter replaces it.
    fn apply_redriven(
        &mut self,
        redriven: &RedrivenRecord,
        now_ms: i64,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let RedrivenRecord { dead_topic_id, dead_queue, dead_offset, group_id, topic_id, queue, offset } =
            *redriven;
        let end = self.uncertainty.certain_end(topic_id, queue).min(self.queues.bounds(topic_id, queue).next);
        let is_gone = !self.topics.has(topic_id) || !self.groups.has(group_id) || offset >= end;
        let dead = self.entry(dead_topic_id, dead_queue, dead_offset)?;
        let Some(dead) = dead.filter(|_| !is_gone) else { return Ok(ApplyOutcome::Deleted(false)) };
        if self.progress.is_redriven(dead_topic_id, dead_queue, dead_offset)? {
            return Ok(ApplyOutcome::Repeated);
        }
        if self.entry(topic_id, queue, offset)?.is_none() {
            self.carried.put(topic_id, queue, offset, &dead);
        }
        let dead_letter = ProgressId { group_id: REDRIVEN, topic_id: dead_topic_id, queue: dead_queue };
        self.progress.change(dead_letter, |acks| {
            let dead_offset = QueueOffset::new(dead_offset);
            acks.ack(dead_offset, dead_offset.next());
        })?;
        self.progress.change(ProgressId { group_id, topic_id, queue }, |acks| {
            let offset = QueueOffset::new(offset);
            acks.reopen(offset, offset.next());
            acks.attempt(offset, 0, now_ms);
        })?;
        events.push(StateEvent::Reopened { group_id, topic_id, queue, offset });
        Ok(ApplyOutcome::Done)
    }
}
