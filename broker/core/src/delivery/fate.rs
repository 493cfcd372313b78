//! What keeps one message from the consumers of a group.

use super::cursor::Cursor;
use super::lanes::Lanes;

/// What keeps a message from the consumers of a group, or that nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Finished: acknowledged, wanted by nobody, given up, or in front of where the group began.
    Done,
    /// Out with a consumer.
    InFlight {
        /// Who holds it.
        client: String,
        /// Which delivery it is, from 1.
        attempt: u32,
        /// When it becomes visible again unless something happens, milliseconds since the Unix epoch.
        until_ms: i64,
        /// Whether it stays with its client beyond that, as long as that lives.
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
        /// Offset of that one.
        front: u64,
        /// Whether that one used up its attempts and stays.
        is_blocked: bool,
        /// Who holds that one; empty when nobody does.
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

impl Cursor {
    pub(super) fn fate(&self, now_ms: i64, offset: u64) -> Fate {
        if self.acks.is_done(offset) {
            return Fate::Done;
        }
        let flight = self.get(offset);
        if let Some(flight) = flight {
            let (attempts, until_ms) = (flight.attempts, flight.visible_ms);
            let while_alive = flight.renew_until_ms.is_some();
            if flight.spent {
                return Fate::Blocked { attempts };
            }
            if until_ms > now_ms || while_alive {
                return match flight.lease != 0 && !flight.put_off {
                    true => Fate::InFlight {
                        client: flight.client.clone(),
                        attempt: attempts,
                        until_ms,
                        while_alive,
                    },
                    false => Fate::Waiting { attempts, until_ms },
                };
            }
        }
        if let Some(front) =
            self.lanes().and_then(|lanes: &Lanes| lanes.front_of(offset)).filter(|front| *front != offset)
        {
            let holder = self.get(front);
            return Fate::Behind {
                front,
                is_blocked: holder.is_some_and(|holder| holder.spent),
                client: holder
                    .filter(|holder| holder.visible_ms > now_ms)
                    .map(|holder| holder.client.clone())
                    .unwrap_or_default(),
            };
        }
        Fate::Ready { attempts: self.attempts_of(offset), ahead: self.acks.open_below(offset) }
    }
}
