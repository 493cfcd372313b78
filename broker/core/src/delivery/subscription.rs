//! A consumer group on one topic of this broker.

use std::collections::BTreeMap;

use crate::acks::Acks;
use crate::delivery::cursor::{Cursor, InFlight};
use crate::record::QueueProgress;

/// How long a message stays with a client that renews automatically before it must be acknowledged again; the client
/// only has to live. RocketMQ's default invisible time of push consumers.
const AUTO_RENEW_MS: u64 = 60_000;
/// After this long even a living client loses a message that it never acknowledged (RocketMQ's `renewMaxTimeMillis`).
const AUTO_RENEW_MS_MAX: i64 = 3 * 3_600_000;

/// How a receiver wants to hold messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Invisible to others for this many milliseconds.
    For(u64),
    /// Invisible to others while the client lives.
    WhileAlive,
}

/// A message handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// Goes into the receipt handle.
    pub lease: u64,
    /// When it becomes visible again unless it is acknowledged, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// Why a receipt handle has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The invisible duration ended.
    #[error(
        "the receipt handle expired; the message is or will be delivered again with a new one, so acknowledge faster or ask for a longer invisible duration"
    )]
    Expired,
    /// A later delivery or extension replaced it.
    #[error(
        "the receipt handle was replaced by a newer one (the message was delivered again or its invisible duration changed); use the newest handle"
    )]
    Superseded,
    /// It names an offset that this group was never given.
    #[error(
        "the receipt handle does not belong to a message that this group received; pass on the exact text that the server gave you"
    )]
    Unknown,
}

/// A handle, reduced to what the engine looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Attempt that was delivered.
    pub attempt: u32,
    /// Number of the lease.
    pub lease: u64,
    /// When the handle expires, as it was made.
    pub visible_ms: i64,
}

/// State of one consumer group on one topic.
#[derive(Debug)]
pub struct Subscription {
    group_id: u32,
    topic_id: u32,
    queues: BTreeMap<u32, Cursor>,
    /// Queue that the next receive looks at first.
    turn: u32,
    next_lease: u64,
}

impl Subscription {
    /// A subscription without queues. `lease_base` must grow from one life of the process to the next, so that lease
    /// numbers never repeat: use the start time in microseconds.
    pub fn new(group_id: u32, topic_id: u32, lease_base: u64) -> Self {
        Self { group_id, topic_id, queues: BTreeMap::new(), turn: 0, next_lease: lease_base.max(1) }
    }

    /// Adds a queue with the progress that the log knows, unless it is known already. `end` is one past its newest
    /// visible offset.
    pub fn add_queue(&mut self, queue: u32, acks: Acks, end: u64) {
        self.queues.entry(queue).or_insert_with(|| Cursor::new(acks, end));
    }

    /// Whether the queue was added.
    pub fn has_queue(&self, queue: u32) -> bool {
        self.queues.contains_key(&queue)
    }

    /// New messages became visible in a queue: `end` is one past the newest.
    pub fn extend(&mut self, queue: u32, end: u64) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.extend_to(end);
        }
    }

    /// Messages of a queue before the offset `min` expired. What failed before and waits for its next attempt stays.
    pub fn expire_below(&mut self, queue: u32, min: u64) {
        if let Some(cursor) = self.queues.get_mut(&queue) {
            cursor.expire_below(min);
        }
    }

    /// Hands out up to `max` visible messages of `queue`, or of all queues in turn: first those whose time has come
    /// again, then new ones. `alive` tells which clients live, for messages held [`Held::WhileAlive`].
    pub fn receive(
        &mut self,
        now_ms: i64,
        queue: Option<u32>,
        max: usize,
        held: Held,
        client: &str,
        alive: impl Fn(&str) -> bool,
    ) -> Vec<Picked> {
        self.renew(now_ms, &alive);
        let queues = self.queues_in_turn(queue);
        let mut picked = Vec::new();
        for queue in &queues {
            while picked.len() < max
                && let Some(offset) = self.queues[queue].due_offset(now_ms)
            {
                picked.push(self.redeliver(now_ms, *queue, offset, held, client));
            }
        }
        for queue in &queues {
            while picked.len() < max
                && let Some(offset) = self.cursor(*queue).fresh_offset()
            {
                picked.push(self.hand_out(now_ms, *queue, offset, 1, held, client));
            }
        }
        picked
    }

    /// Takes back messages that were handed out but will not be used, because they do not match the receiver's filter:
    /// they are done for this group.
    pub fn skip(&mut self, picked: &[Picked]) {
        for message in picked.iter().filter(|message| self.holds(message)).cloned().collect::<Vec<_>>() {
            self.cursor(message.queue).finish(message.offset);
        }
    }

    /// Takes back messages that never reached their receiver: visible again at `now_ms`, which may be later than now, and the
    /// attempt does not count.
    pub fn give_back(&mut self, now_ms: i64, picked: &[Picked]) {
        for message in picked.iter().filter(|message| self.holds(message)).cloned().collect::<Vec<_>>() {
            let attempts = message.attempt - 1;
            self.cursor(message.queue).put(
                message.offset,
                InFlight {
                    attempts,
                    visible_ms: now_ms,
                    lease: 0,
                    client: String::new(),
                    renew_until_ms: None,
                    logged: true,
                },
            );
        }
    }

    /// Acknowledges a delivery. Doing so again is harmless.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn ack(&mut self, now_ms: i64, lease: &Lease) -> Result<(), HandleError> {
        if self.check(now_ms, lease)? {
            self.cursor(lease.queue).finish(lease.offset);
        }
        Ok(())
    }

    /// Makes a delivered message visible again after `duration_ms` from now, counting from this moment. Returns the new
    /// lease, which replaces the old one; `None` when the message is acknowledged already.
    ///
    /// # Errors
    /// [`HandleError`]; nothing changes then.
    pub fn change_invisible(
        &mut self,
        now_ms: i64,
        lease: &Lease,
        duration_ms: u64,
    ) -> Result<Option<Lease>, HandleError> {
        if !self.check(now_ms, lease)? {
            return Ok(None);
        }
        let number = self.new_lease();
        let visible_ms = now_ms.saturating_add_unsigned(duration_ms);
        let cursor = self.cursor(lease.queue);
        let client = cursor.get(lease.offset).map_or_else(String::new, |flight| flight.client.clone());
        cursor.put(
            lease.offset,
            InFlight {
                attempts: lease.attempt,
                visible_ms,
                lease: number,
                client,
                renew_until_ms: None,
                logged: true,
            },
        );
        cursor.note_attempts(lease.offset, lease.attempt, visible_ms);
        Ok(Some(Lease { lease: number, visible_ms, ..*lease }))
    }

    /// A client left: what it held while alive is visible again at once.
    pub fn client_left(&mut self, now_ms: i64, client: &str) {
        for cursor in self.queues.values_mut() {
            for offset in cursor.held_by(client) {
                let flight = cursor.get(offset).expect("held_by returns offsets in flight").clone();
                if flight.renew_until_ms.is_some() {
                    cursor.put(offset, InFlight { visible_ms: now_ms, renew_until_ms: None, ..flight });
                }
            }
        }
    }

    /// When the next message in flight becomes visible or needs renewal, if any.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.queues.values().filter_map(Cursor::next_due_ms).min()
    }

    /// Messages handed out and not done.
    pub fn in_flight(&self) -> usize {
        self.queues.values().map(Cursor::in_flight_len).sum()
    }

    /// Messages that are not done yet, in flight or not.
    pub fn lag(&self) -> u64 {
        self.queues.values().map(|cursor| cursor.acks.open_below(cursor.end())).sum()
    }

    /// Takes the progress that has to be logged since the last call.
    pub fn take_progress(&mut self) -> Vec<QueueProgress> {
        let (group_id, topic_id) = (self.group_id, self.topic_id);
        self.queues
            .iter_mut()
            .filter_map(|(queue, cursor)| cursor.take_progress(group_id, topic_id, *queue))
            .collect()
    }

    /// Whether a handle may act now; `false` when its message is done already.
    fn check(&mut self, now_ms: i64, lease: &Lease) -> Result<bool, HandleError> {
        let cursor = self.queues.get(&lease.queue).ok_or(HandleError::Unknown)?;
        if lease.offset >= cursor.end() {
            return Err(HandleError::Unknown);
        }
        if cursor.acks.is_done(lease.offset) {
            return Ok(false);
        }
        if let Some(flight) = cursor.get(lease.offset) {
            if flight.lease == lease.lease {
                let held = flight.visible_ms > now_ms || flight.renew_until_ms.is_some();
                return if held { Ok(true) } else { Err(HandleError::Expired) };
            }
            // After a restart nobody is known to hold anything: a handle from before counts until it expires, as long
            // as the attempt that it stands for is the last one that began.
            if flight.lease != 0 || lease.attempt < flight.attempts {
                return Err(HandleError::Superseded);
            }
        }
        if lease.visible_ms <= now_ms {
            return Err(HandleError::Expired);
        }
        if lease.lease > self.next_lease {
            return Err(HandleError::Unknown);
        }
        Ok(true)
    }

    /// Extends what living clients hold while alive, and makes the rest visible.
    fn renew(&mut self, now_ms: i64, alive: &impl Fn(&str) -> bool) {
        for cursor in self.queues.values_mut() {
            for (offset, flight) in cursor.due_for_renewal(now_ms) {
                let still_held =
                    flight.renew_until_ms.is_some_and(|until_ms| until_ms > now_ms) && alive(&flight.client);
                let renewed = if still_held {
                    InFlight { visible_ms: now_ms.saturating_add_unsigned(AUTO_RENEW_MS), ..flight }
                } else {
                    InFlight { renew_until_ms: None, ..flight }
                };
                cursor.put(offset, renewed);
            }
        }
    }

    fn redeliver(&mut self, now_ms: i64, queue: u32, offset: u64, held: Held, client: &str) -> Picked {
        let cursor = self.cursor(queue);
        let flight = cursor.get(offset).expect("due offsets are in flight").clone();
        if !flight.logged {
            cursor.note_attempts(offset, flight.attempts, flight.visible_ms);
        }
        self.hand_out(now_ms, queue, offset, flight.attempts.saturating_add(1), held, client)
    }

    fn hand_out(
        &mut self,
        now_ms: i64,
        queue: u32,
        offset: u64,
        attempt: u32,
        held: Held,
        client: &str,
    ) -> Picked {
        let lease = self.new_lease();
        let (duration_ms, renew_until_ms) = match held {
            Held::For(ms) => (ms, None),
            Held::WhileAlive => (AUTO_RENEW_MS, Some(now_ms.saturating_add(AUTO_RENEW_MS_MAX))),
        };
        let visible_ms = now_ms.saturating_add_unsigned(duration_ms);
        let flight = InFlight {
            attempts: attempt,
            visible_ms,
            lease,
            client: client.to_owned(),
            renew_until_ms,
            logged: false,
        };
        self.cursor(queue).put(offset, flight);
        Picked { queue, offset, attempt, lease, visible_ms }
    }

    fn holds(&self, message: &Picked) -> bool {
        let flight = self.queues.get(&message.queue).and_then(|cursor| cursor.get(message.offset));
        flight.is_some_and(|flight| flight.lease == message.lease)
    }

    fn queues_in_turn(&mut self, queue: Option<u32>) -> Vec<u32> {
        if let Some(queue) = queue {
            return self.queues.contains_key(&queue).then_some(queue).into_iter().collect();
        }
        let first = self.turn;
        let later = self.queues.range(first..).map(|(queue, _)| *queue);
        let order: Vec<u32> = later.chain(self.queues.range(..first).map(|(queue, _)| *queue)).collect();
        self.turn = order.first().map_or(0, |queue| queue + 1);
        order
    }

    fn cursor(&mut self, queue: u32) -> &mut Cursor {
        self.queues.get_mut(&queue).expect("callers name queues that were added")
    }

    fn new_lease(&mut self) -> u64 {
        self.next_lease += 1;
        self.next_lease
    }
}
