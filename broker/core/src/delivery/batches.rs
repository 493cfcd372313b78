//! Receives that clients may repeat: a receive with the attempt id of an earlier one gets the same messages.

use std::collections::{BTreeSet, HashMap};

/// A message of a batch: queue, offset, lease.
pub(super) type Handed = (u32, u64, u64);

#[derive(Debug, Clone)]
struct Batch {
    messages: Vec<Handed>,
    until_ms: i64,
}

/// What was handed out under which attempt id. A batch is remembered as long as its messages are invisible.
#[derive(Debug, Clone, Default)]
pub(super) struct Batches {
    batches: HashMap<String, Batch>,
    ends: BTreeSet<(i64, String)>,
}

impl Batches {
    /// Remembers what a receive got until `until_ms`.
    pub(super) fn put(&mut self, attempt_id: &str, messages: Vec<Handed>, until_ms: i64) {
        drop(self.take(attempt_id));
        self.ends.insert((until_ms, attempt_id.to_owned()));
        self.batches.insert(attempt_id.to_owned(), Batch { messages, until_ms });
    }

    /// What a receive got; it is forgotten by that.
    pub(super) fn take(&mut self, attempt_id: &str) -> Vec<Handed> {
        let Some(batch) = self.batches.remove(attempt_id) else { return Vec::new() };
        self.ends.remove(&(batch.until_ms, attempt_id.to_owned()));
        batch.messages
    }

    /// Forgets what became visible again.
    pub(super) fn prune(&mut self, now_ms: i64) {
        while let Some((until_ms, _)) = self.ends.first()
            && *until_ms <= now_ms
            && let Some((_, attempt_id)) = self.ends.pop_first()
        {
            self.batches.remove(&attempt_id);
        }
    }
}
