//! The state of one message as the consumers of a group see it.

use super::flight::Flight;
use super::queue::QueueDelivery;
use crate::queue_offset::QueueOffset;

/// Why a message does not reach the consumers of a group, or that it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageFate {
    /// Finished: acknowledged, matched by no filter, given up, or before the group's start.
    Done,
    /// Out with a consumer.
    InFlight {
        /// Client that holds it.
        client: String,
        /// Which delivery it is, from 1.
        attempt: u32,
        /// When it becomes visible again unless something happens, milliseconds since the Unix epoch.
        until_ms: i64,
        /// Whether the lease is renewed beyond that as long as the client lives.
        while_alive: bool,
    },
    /// Failed or was put off, and waits for its next attempt.
    Waiting {
        /// Deliveries so far.
        attempts: u32,
        /// When the next one may begin, milliseconds since the Unix epoch.
        until_ms: i64,
    },
    /// Used up its attempts and stays, with its message group.
    Blocked {
        /// Deliveries so far.
        attempts: u32,
    },
    /// Another message of its message group is not done.
    Behind {
        /// Offset of that message.
        front: QueueOffset,
        /// Whether that message used up its attempts and stays.
        is_blocked: bool,
        /// Client that holds that message; empty without one.
        client: String,
    },
    /// May be handed out.
    Ready {
        /// Deliveries so far.
        attempts: u32,
        /// Messages in front of it in its queue that are not done.
        ahead: u64,
    },
}

impl QueueDelivery {
    /// The state of the message at an offset, as the group's consumers see it.
    pub(super) fn fate(&self, now_ms: i64, offset: QueueOffset) -> MessageFate {
        if self.ledger.acks().is_done(offset) {
            return MessageFate::Done;
        }
        let in_flight = self.ledger.flight(offset).and_then(|flight| fate_in_flight(flight, now_ms));
        in_flight.or_else(|| self.fate_behind(now_ms, offset)).unwrap_or_else(|| MessageFate::Ready {
            attempts: self.ledger.attempts_of(offset),
            ahead: self.ledger.acks().open_below(offset),
        })
    }

    fn fate_behind(&self, now_ms: i64, offset: QueueOffset) -> Option<MessageFate> {
        let front = self.ordered()?.lines().front_of(offset).filter(|front| *front != offset)?;
        let holder = self.ledger.flight(front);
        let is_blocked = holder.is_some_and(Flight::is_blocked);
        let holder = holder.filter(|holder| holder.visible_ms > now_ms);
        let client = holder.map_or_else(String::new, |holder| holder.client().to_owned());
        Some(MessageFate::Behind { front, is_blocked, client })
    }
}

fn fate_in_flight(flight: &Flight, now_ms: i64) -> Option<MessageFate> {
    let (attempts, until_ms) = (flight.attempts, flight.visible_ms);
    if flight.is_blocked() {
        return Some(MessageFate::Blocked { attempts });
    }
    if !flight.is_invisible(now_ms) {
        return None;
    }
    Some(match flight.active_lease() {
        Some(lease) => MessageFate::InFlight {
            client: lease.client.clone(),
            attempt: attempts,
            until_ms,
            while_alive: lease.renewal.is_some(),
        },
        None => MessageFate::Waiting { attempts, until_ms },
    })
}
