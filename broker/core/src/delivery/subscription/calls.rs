//! Receives that broke: what becomes of the messages that were on their way to the client.

use super::Subscription;
use crate::delivery::cursor::InFlight;
use crate::delivery::requests::Picked;

/// How long a message stays invisible after a call that may have brought it to its client. A client that goes down with a
/// message does not take the next one with it at once.
const BROKEN_PAUSE_MS: i64 = 1_000;

impl Subscription {
    /// The client of these messages, which came of one receive, did something with one of them since: it has them. Clients act
    /// when they have the whole answer, and forget what they have of one that breaks.
    pub fn is_known_to_have(&self, picked: &[Picked]) -> bool {
        picked.iter().any(|message| {
            let flight = self.queues.get(&message.queue).and_then(|cursor| cursor.get(message.offset));
            flight.is_none_or(|flight| flight.lease != message.lease)
        })
    }

    /// The receive that these messages were handed out to broke before they were all on their way: what is still held because
    /// of it is visible again at once, and the attempt does not count.
    pub fn never_came(&mut self, now_ms: i64, picked: &[Picked]) {
        for message in picked {
            if self.is_held_by_call(message) {
                self.take_back(now_ms, message);
            }
        }
    }

    /// The receive that these messages were handed out to broke when all were on their way: what is still held because of it is
    /// visible again in a moment. The attempt counts, because the client may have gone down with the message; a handle that it
    /// got nevertheless counts until the message is handed out again.
    pub fn may_not_have_come(&mut self, now_ms: i64, picked: &[Picked]) {
        for message in picked {
            if self.is_held_by_call(message) {
                let flight = InFlight {
                    attempts: message.attempt,
                    visible_ms: now_ms.saturating_add(BROKEN_PAUSE_MS),
                    ..InFlight::default()
                };
                self.cursor(message.queue).put(message.offset, flight);
            }
        }
    }

    fn is_held_by_call(&self, message: &Picked) -> bool {
        let flight = self.queues.get(&message.queue).and_then(|cursor| cursor.get(message.offset));
        flight.is_some_and(|flight| flight.call == message.call && flight.lease == message.lease)
    }
}
