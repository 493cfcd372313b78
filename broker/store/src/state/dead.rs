//! Dead letters: where they come from, and how they go back.
//!
//! A dead letter is a message of its own in the dead-letter topic of its group: it is found, received, kept and given up
//! like any other. Its record ends the delivery of the original. One that went back to its group is marked as done for
//! [`REDRIVEN`], a group that nobody can be a member of.

use kerolox_core::record::{AckRange, DeadOrigin, KeptMessage, QueueProgress, Redriven};

use super::{Event, Outcome, StateMachine};
use crate::error::StoreError;
use crate::state::Progress;

/// Number of no group (theirs begin with 1): its progress in a dead-letter topic tells which dead letters went back.
pub(super) const REDRIVEN: u32 = 0;

impl StateMachine {
    /// Whether a dead letter went back to its group.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn is_redriven(&self, topic_id: u32, queue: u32, offset: u64) -> Result<bool, StoreError> {
        Ok(self.logged_acks(REDRIVEN, topic_id, queue)?.is_some_and(|acks| acks.is_done(offset)))
    }

    /// The delivery of the original ends with the dead letter.
    pub(super) fn bury(&mut self, origin: &DeadOrigin) -> Result<(), StoreError> {
        self.apply_progress(&QueueProgress {
            group_id: origin.group_id,
            topic_id: origin.topic_id,
            queue: origin.queue,
            acked: vec![AckRange { start: origin.offset, end: origin.offset + 1 }],
            ..QueueProgress::default()
        })
    }

    /// A dead letter goes back: its original is open once more, without attempts. If the original has expired, the record
    /// of the dead letter stands for it.
    pub(super) fn apply_redriven(
        &mut self,
        redriven: &Redriven,
        now_ms: i64,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        let Redriven { dead_topic_id, dead_queue, dead_offset, group_id, topic_id, queue, offset } =
            *redriven;
        let is_gone = self.topic_by_id(topic_id).is_none()
            || !self.meta.group_ids.contains(&group_id)
            || offset >= self.certain_end(topic_id, queue).min(self.queue_bounds(topic_id, queue).next);
        let dead = self.entry(dead_topic_id, dead_queue, dead_offset)?;
        let Some(dead) = dead.filter(|_| !is_gone) else { return Ok(Outcome::Deleted(false)) };
        if self.is_redriven(dead_topic_id, dead_queue, dead_offset)? {
            return Ok(Outcome::Repeated);
        }
        if self.entry(topic_id, queue, offset)?.is_none() {
            self.put_kept(&KeptMessage {
                topic_id,
                queue,
                offset,
                position: dead.position,
                len: dead.len,
                tag_hash: dead.tag_hash,
                visible_ms: dead.visible_ms,
            });
        }
        self.change_acks(REDRIVEN, dead_topic_id, dead_queue, |acks| acks.ack(dead_offset, dead_offset + 1))?;
        self.change_acks(group_id, topic_id, queue, |acks| {
            acks.reopen(offset, offset + 1);
            acks.attempt(offset, 0, now_ms);
        })?;
        events.push(Event::Reopened { group_id, topic_id, queue, offset });
        Ok(Outcome::Done)
    }

    fn change_acks(
        &mut self,
        group_id: u32,
        topic_id: u32,
        queue: u32,
        change: impl FnOnce(&mut kerolox_core::acks::Acks),
    ) -> Result<(), StoreError> {
        let mut acks = self.logged_acks(group_id, topic_id, queue)?.unwrap_or_default();
        change(&mut acks);
        self.progress.insert((group_id, topic_id, queue), Progress { acks, dirty: true });
        Ok(())
    }
}
