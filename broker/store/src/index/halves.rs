//! Half messages.

use kerolox_core::transaction::Half;

use crate::error::StoreError;
use crate::index::Index;

impl Index {
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

    /// Undecided half messages of a topic.
    pub fn undecided(&self, topic_id: u32) -> u64 {
        self.undecided.get(&topic_id).copied().unwrap_or(0)
    }

    /// Undecided half messages of all topics.
    pub fn undecided_total(&self) -> u64 {
        self.undecided.values().sum()
    }
}
