//! Receives that clients may repeat: a receive with the attempt id of an earlier one gets the same messages.

use std::collections::{BTreeSet, HashMap};

use super::flight::LeaseId;
use crate::queue_offset::QueueOffset;

/// A message that a receive got: queue, offset, lease.
pub(super) type HandedOut = (u32, QueueOffset, LeaseId);

#[derive(Debug, Clone)]
struct RepeatableReceive {
    messages: Vec<HandedOut>,
    until_ms: i64,
}

/// Messages that were handed out, by attempt id. A receive is remembered as long as its messages are invisible.
#[derive(Debug, Clone, Default)]
pub(super) struct RepeatableReceives {
    receives: HashMap<String, RepeatableReceive>,
    ends: BTreeSet<(i64, String)>,
}

impl RepeatableReceives {
    /// Remembers what a receive got until `until_ms`.
    pub(super) fn put(&mut self, attempt_id: &str, messages: Vec<HandedOut>, until_ms: i64) {
        drop(self.take(attempt_id));
        self.ends.insert((until_ms, attempt_id.to_owned()));
        self.receives.insert(attempt_id.to_owned(), RepeatableReceive { messages, until_ms });
    }

    /// Takes the messages that a receive got; the receive is then forgotten.
    pub(super) fn take(&mut self, attempt_id: &str) -> Vec<HandedOut> {
        let Some(receive) = self.receives.remove(attempt_id) else { return Vec::new() };
        self.ends.remove(&(receive.until_ms, attempt_id.to_owned()));
        receive.messages
    }

    /// Forgets receives whose messages became visible again.
    pub(super) fn prune(&mut self, now_ms: i64) {
        while let Some((until_ms, _)) = self.ends.first()
            && *until_ms <= now_ms
            && let Some((_, attempt_id)) = self.ends.pop_first()
        {
            self.receives.remove(&attempt_id);
        }
    }
}
