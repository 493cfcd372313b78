//! Half messages, and which of them are decided together.

use kerolox_core::record::MessageRecord;
use kerolox_core::transaction::Half;
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::apply::malformed;
use crate::state::{Event, Outcome, StateMachine};

impl StateMachine {
    /// The half message at a position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or the value is malformed.
    pub fn half(&self, position: u64) -> Result<Option<Half>, StoreError> {
        self.held(position)
    }

    /// Up to `limit` half messages whose check is due at or before `now_ms`, longest due first, beginning after the
    /// `(due time, position)` given.
    ///
    /// # Errors
    /// See [`Self::half`].
    pub fn due_halves(
        &self,
        now_ms: i64,
        after: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, Half)>, StoreError> {
        self.due(now_ms, after, limit)
    }

    /// When the next check is due, if any half message waits for one.
    ///
    /// # Errors
    /// See [`Self::half`].
    pub fn next_half_due_ms(&self) -> Result<Option<i64>, StoreError> {
        self.next_due_ms::<Half>()
    }

    /// A half message waits for its decision, or for the message whose transaction it belongs to.
    pub(super) fn hold_half(
        &mut self,
        frame: &Frame,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        let header = MessageRecord::decode(frame.body.clone()).map_err(malformed(frame))?.header;
        let half = Half {
            topic_id: header.topic_id,
            queue: header.queue,
            frame_len: frame.len,
            tag_hash: header.tag_hash,
            message_id_crc: crc32c::crc32c(header.message_id.as_bytes()),
            stored_ms: frame.store_ms,
            next_check_ms: frame.store_ms.saturating_add(header.hold_ms),
            deliver_at_ms: header.deliver_at_ms,
            slot: header.slot,
            joins: header.joins,
            ..Half::default()
        };
        if half.joins {
            self.put_held(frame.position, None, &half);
            self.joining.push(frame.position);
            return Ok(Outcome::Held);
        }
        let half = Half { members: std::mem::take(&mut self.joining), ..half };
        for position in &half.members {
            let Some(member) = self.half(*position)? else { continue };
            self.put_held(*position, Some(&member), &Half { leader: frame.position, ..member.clone() });
        }
        self.put_held(frame.position, None, &half);
        events.push(Event::HalfDue { due_ms: half.next_check_ms });
        Ok(Outcome::Held)
    }

    /// The message never came whose transaction these belong to: a crash took it, and nobody was told that they are stored.
    pub(super) fn drop_joining(&mut self) -> Result<(), StoreError> {
        for position in std::mem::take(&mut self.joining) {
            if let Some(half) = self.half(position)? {
                self.drop_held(position, &half);
            }
        }
        Ok(())
    }

    /// Transactions of a topic that nobody decided.
    pub fn undecided(&self, topic_id: u32) -> u64 {
        self.undecided.get(&topic_id).copied().unwrap_or(0)
    }

    /// Transactions of all topics that nobody decided.
    pub fn undecided_total(&self) -> u64 {
        self.undecided.values().sum()
    }
}
