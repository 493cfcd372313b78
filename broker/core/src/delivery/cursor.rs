//! One queue as a consumer group sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::acks::Acks;
use crate::record::{AckRange, Attempted, QueueProgress};

/// A message that is out with a consumer, or waits for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFlight {
    /// Deliveries so far.
    pub(super) attempts: u32,
    /// When it becomes visible again.
    pub(super) visible_ms: i64,
    /// The delivery or extension that is current; only a handle with this number may act on it. 0 = nobody's.
    pub(super) lease: u64,
    /// Who holds it.
    pub(super) client: String,
    /// When set, it stays with its client while that client lives, until this time.
    pub(super) renew_until_ms: Option<i64>,
    /// Whether its `attempts` are in the log (or on their way there).
    pub(super) logged: bool,
}

/// State of one queue for one group.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    pub(super) acks: Acks,
    /// Next offset that was never handed out by this engine.
    next: u64,
    /// One past the newest visible offset.
    end: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// `(visible_ms, offset)` of everything in flight.
    due: BTreeSet<(i64, u64)>,
    acked: Vec<AckRange>,
    attempted: Vec<Attempted>,
}

impl Cursor {
    /// Goes on from what the log says; attempts that failed before wait for their time.
    pub(super) fn new(acks: Acks, end: u64) -> Self {
        let mut cursor = Self { next: acks.committed(), end, ..Self::default() };
        for (offset, attempts, visible_ms) in acks.attempted() {
            let waiting = InFlight {
                attempts,
                visible_ms,
                lease: 0,
                client: String::new(),
                renew_until_ms: None,
                logged: true,
            };
            cursor.due.insert((visible_ms, offset));
            cursor.in_flight.insert(offset, waiting);
        }
        cursor.acks = acks;
        cursor
    }

    pub(super) fn extend_to(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Everything before `min` expired, except what failed before and waits for its next attempt.
    pub(super) fn expire_below(&mut self, min: u64) {
        self.acks.expire_below(min);
        let expired: Vec<u64> = self
            .in_flight
            .range(..min)
            .map(|(offset, _)| *offset)
            .filter(|o| self.acks.is_done(*o))
            .collect();
        for offset in expired {
            let flight = self.in_flight.remove(&offset).expect("listed just now");
            self.due.remove(&(flight.visible_ms, offset));
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// When the first message in flight becomes visible.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.due.first().map(|(visible_ms, _)| *visible_ms)
    }

    /// The offset that is visible and has waited longest, if one in flight has come due.
    pub(super) fn due_offset(&self, now_ms: i64) -> Option<u64> {
        self.due.first().filter(|(visible_ms, _)| *visible_ms <= now_ms).map(|(_, offset)| *offset)
    }

    /// What has come due and is held for as long as its client lives.
    pub(super) fn due_for_renewal(&self, now_ms: i64) -> Vec<(u64, InFlight)> {
        let due = self.due.iter().take_while(|(visible_ms, _)| *visible_ms <= now_ms);
        due.filter_map(|(_, offset)| {
            let flight = &self.in_flight[offset];
            flight.renew_until_ms.is_some().then(|| (*offset, flight.clone()))
        })
        .collect()
    }

    /// The next offset never handed out.
    pub(super) fn fresh_offset(&mut self) -> Option<u64> {
        let mut offset = self.acks.next_open(self.next);
        while offset < self.end && self.in_flight.contains_key(&offset) {
            offset = self.acks.next_open(offset + 1);
        }
        self.next = offset;
        (offset < self.end).then_some(offset)
    }

    pub(super) fn get(&self, offset: u64) -> Option<&InFlight> {
        self.in_flight.get(&offset)
    }

    /// Puts `offset` in flight, replacing what was known of it.
    pub(super) fn put(&mut self, offset: u64, flight: InFlight) {
        if let Some(old) = self.in_flight.get(&offset) {
            self.due.remove(&(old.visible_ms, offset));
        }
        self.due.insert((flight.visible_ms, offset));
        self.in_flight.insert(offset, flight);
    }

    /// Marks `offset` done, and notes it for the log.
    pub(super) fn finish(&mut self, offset: u64) {
        if let Some(old) = self.in_flight.remove(&offset) {
            self.due.remove(&(old.visible_ms, offset));
        }
        self.acks.ack(offset, offset + 1);
        match self.acked.last_mut() {
            Some(last) if last.end == offset => last.end = offset + 1,
            _ => self.acked.push(AckRange { start: offset, end: offset + 1 }),
        }
    }

    /// Notes failed attempts for the log.
    pub(super) fn note_attempts(&mut self, offset: u64, attempts: u32, visible_ms: i64) {
        self.acks.attempt(offset, attempts, visible_ms);
        self.attempted.push(Attempted { offset, attempts, visible_ms });
    }

    /// Offsets in flight with `client`.
    pub(super) fn held_by(&self, client: &str) -> Vec<u64> {
        self.in_flight.iter().filter(|(_, f)| f.lease != 0 && f.client == client).map(|(o, _)| *o).collect()
    }

    pub(super) fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes what has to be logged since the last call.
    pub(super) fn take_progress(
        &mut self,
        group_id: u32,
        topic_id: u32,
        queue: u32,
    ) -> Option<QueueProgress> {
        if self.acked.is_empty() && self.attempted.is_empty() {
            return None;
        }
        Some(QueueProgress {
            group_id,
            topic_id,
            queue,
            reset_to: None,
            acked: std::mem::take(&mut self.acked),
            attempted: std::mem::take(&mut self.attempted),
        })
    }
}
