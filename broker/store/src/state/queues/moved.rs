//! Queues whose messages move up, because damage took others before them.

use kerolox_core::record::QueueState;

use super::{BLOCK, QueueEntry, QueueTable};
use crate::error::StoreError;
use crate::kv::{KeyFamily, WriteOp};
use crate::state::keys;

impl QueueTable {
    /// Moves the entries from offset `from` on up, so that the queue ends as in a snapshot, and fills the gap with `lost`.
    /// Returns how far they moved.
    pub(in crate::state) fn spread(
        &mut self,
        state: &QueueState,
        from: u64,
        lost: QueueEntry,
    ) -> Result<u64, StoreError> {
        let (topic_id, number) = (state.topic_id, state.queue);
        let Some(queue) = self.queues.get(&(topic_id, number)) else {
            self.restore(state);
            return Ok(0);
        };
        let missing = state.next.saturating_sub(queue.bounds.next);
        if missing > 0 {
            let from = from.clamp(queue.bounds.min, queue.bounds.next);
            let moved = self.entries(topic_id, number, from, usize::MAX)?;
            self.cut_back(topic_id, number, from)?;
            for entry in std::iter::repeat_n(lost, usize::try_from(missing).expect("fits the memory")) {
                self.push(topic_id, number, entry);
            }
            for (_, entry) in moved {
                self.push(topic_id, number, entry);
            }
        }
        Ok(missing)
    }

    /// Moves all entries of a queue up, so that it ends as in a snapshot and begins with the first of them. Returns how far
    /// they moved.
    pub(in crate::state) fn end_at(&mut self, state: &QueueState) -> Result<u64, StoreError> {
        let (topic_id, number) = (state.topic_id, state.queue);
        let bounds = self.bounds(topic_id, number);
        let by = state.next.saturating_sub(bounds.next);
        let moved = self.entries(topic_id, number, 0, usize::MAX)?;
        self.kv.write(vec![WriteOp::DeletePrefix(KeyFamily::Entries, keys::queue(topic_id, number))])?;
        self.restore(&QueueState { next: bounds.min + by, ..*state });
        for (_, entry) in moved {
            self.push(topic_id, number, entry);
        }
        Ok(by)
    }

    /// Forgets the entries of a queue from offset `next` on, in the store at once.
    fn cut_back(&mut self, topic_id: u32, number: u32, next: u64) -> Result<(), StoreError> {
        // Pieces do not span the beginning of a block.
        let first = (next - next % BLOCK).max(self.bounds(topic_id, number).min);
        let count = usize::try_from(next - first).expect("at most BLOCK");
        let kept = self.entries(topic_id, number, first, count)?;
        let key = |offset| keys::block(topic_id, number, offset);
        self.kv.write(vec![WriteOp::DeleteRange(
            KeyFamily::Entries,
            key(next - next % BLOCK),
            key(u64::MAX),
        )])?;
        let queue = self.queues.entry((topic_id, number)).or_default();
        self.new -= queue.new.len();
        let before = usize::try_from(first.saturating_sub(queue.first_new())).expect("at most the entries");
        queue.new.truncate(before);
        queue.new.extend(kept.into_iter().map(|(_, entry)| entry));
        queue.bounds.next = next;
        self.new += queue.new.len();
        if !std::mem::replace(&mut queue.dirty, true) {
            self.dirty.push((topic_id, number));
        }
        Ok(())
    }
}
