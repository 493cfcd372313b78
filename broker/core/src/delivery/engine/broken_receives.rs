//! Broken receives: how messages return that were on their way to the client.

use super::DeliveryEngine;
use crate::delivery::flight::{ActiveLease, Flight};
use crate::delivery::types::DeliveredMessage;

/// How long a message stays invisible after a call that may have brought it to its client. A client that crashes on one
/// message then does not take the next one with it at once.
const BROKEN_PAUSE_MS: i64 = 1_000;

impl DeliveryEngine {
    /// Whether the client has acted on one of these messages of one receive, and so has them all. Clients act only on a
    /// complete answer, and drop a partial one.
    pub fn is_known_to_have(&self, picked: &[DeliveredMessage]) -> bool {
        picked.iter().any(|message| self.flight_of(message).is_none_or(|f| f.lease() != Some(message.lease)))
    }

    /// The receive of these messages broke before all of them were sent: the messages that it still holds are visible again
    /// at once, and the attempt does not count.
    pub fn never_came(&mut self, now_ms: i64, picked: &[DeliveredMessage]) {
        for message in picked {
            if self.is_held_by_receive(message) {
                self.take_back(now_ms, message);
            }
        }
    }

    /// The receive of these messages broke after all of them were sent: the messages that it still holds are visible again
    /// after a short pause. The attempt counts, because the client may have crashed on the message; a handle that arrived
    /// nevertheless stays valid until the message is handed out again.
    pub fn may_not_have_come(&mut self, now_ms: i64, picked: &[DeliveredMessage]) {
        for message in picked {
            if self.is_held_by_receive(message) {
                let visible_ms = now_ms.saturating_add(BROKEN_PAUSE_MS);
                let flight = Flight { is_logged: false, ..Flight::delayed(message.attempt, visible_ms) };
                self.queue_mut(message.queue).put(message.offset, flight);
            }
        }
    }

    fn is_held_by_receive(&self, message: &DeliveredMessage) -> bool {
        let lease = self.flight_of(message).and_then(Flight::active_lease);
        let is_it = |lease: &ActiveLease| (lease.id, lease.receive) == (message.lease, message.receive);
        lease.is_some_and(is_it)
    }

    fn flight_of(&self, message: &DeliveredMessage) -> Option<&Flight> {
        self.queues.get(&message.queue).and_then(|queue| queue.ledger.flight(message.offset))
    }
}
