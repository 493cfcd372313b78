//! The state of a consumer group in one queue, independent of the delivery order: progress, open deliveries, and entries for
//! the log.

use std::collections::BTreeMap;

use super::flight::{Flight, LeaseId};
use super::flight_times::FlightTimes;
use crate::acks::QueueAcks;
use crate::queue_offset::QueueOffset;
use crate::record::{AckRange, DeadReason, FailedAttempts, QueueProgress};

/// Progress and open deliveries of one group in one queue.
///
/// Invariants: an offset in flight is not done; every flight but a blocked one has its time in `times`.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueLedger {
    acks: QueueAcks,
    /// One past the newest visible offset.
    end: QueueOffset,
    flights: BTreeMap<QueueOffset, Flight>,
    times: FlightTimes,
    /// Set when the offset was reset and the log does not know yet.
    reset_to: Option<QueueOffset>,
    acked: Vec<AckRange>,
    attempted: Vec<FailedAttempts>,
    dead: Vec<(QueueOffset, u32, DeadReason)>,
}

impl QueueLedger {
    /// Continues from the logged progress, with nothing in flight.
    pub(super) fn new(acks: QueueAcks, end: QueueOffset) -> Self {
        Self { acks, end, ..Self::default() }
    }

    /// Starts at an offset that the log does not know yet.
    pub(super) fn starting_at(offset: QueueOffset, end: QueueOffset) -> Self {
        Self { acks: QueueAcks::starting_at(offset), end, reset_to: Some(offset), ..Self::default() }
    }

    /// Everything before `offset` is done, nothing behind it is, and handles up to `last_lease` are void.
    pub(super) fn reset(&mut self, offset: QueueOffset, last_lease: LeaseId) {
        let acks = QueueAcks::reset_to(offset, last_lease.get());
        *self = Self { acks, end: self.end, reset_to: Some(offset), ..Self::default() };
    }

    pub(super) fn acks(&self) -> &QueueAcks {
        &self.acks
    }

    pub(super) fn end(&self) -> QueueOffset {
        self.end
    }

    pub(super) fn extend_to(&mut self, end: QueueOffset) {
        self.end = self.end.max(end);
    }

    pub(super) fn times(&self) -> &FlightTimes {
        &self.times
    }

    pub(super) fn flight(&self, offset: QueueOffset) -> Option<&Flight> {
        self.flights.get(&offset)
    }

    pub(super) fn flights(&self) -> impl Iterator<Item = (QueueOffset, &Flight)> {
        self.flights.iter().map(|(offset, flight)| (*offset, flight))
    }

    pub(super) fn flights_below(&self, offset: QueueOffset) -> impl Iterator<Item = (QueueOffset, &Flight)> {
        self.flights.range(..offset).map(|(offset, flight)| (*offset, flight))
    }

    pub(super) fn flights_len(&self) -> usize {
        self.flights.len()
    }

    /// Deliveries of a message so far.
    pub(super) fn attempts_of(&self, offset: QueueOffset) -> u32 {
        self.flights.get(&offset).map_or_else(|| self.acks.attempts_of(offset), |flight| flight.attempts)
    }

    /// Puts a message in flight, replacing its earlier state.
    pub(super) fn put(&mut self, offset: QueueOffset, flight: Flight, max_attempts: u32) {
        debug_assert!(!self.acks.is_done(offset), "offset {offset} is done and cannot be in flight");
        self.take_out(offset);
        self.times.insert(offset, &flight, max_attempts);
        self.flights.insert(offset, flight);
    }

    /// Ends a flight without deciding about its message.
    pub(super) fn take_out(&mut self, offset: QueueOffset) -> Option<Flight> {
        let flight = self.flights.remove(&offset)?;
        self.times.remove(offset, &flight);
        Some(flight)
    }

    /// Takes all flights out, so that they can be put in again under other rules.
    pub(super) fn take_flights(&mut self) -> BTreeMap<QueueOffset, Flight> {
        self.times = FlightTimes::default();
        std::mem::take(&mut self.flights)
    }

    /// Everything before `min` expired, except failed messages that wait for their next attempt.
    pub(super) fn expire_below(&mut self, min: QueueOffset) {
        self.acks.expire_below(min);
        let acks = &self.acks;
        let gone: Vec<QueueOffset> = self
            .flights
            .range(..min)
            .map(|(offset, _)| *offset)
            .filter(|offset| acks.is_done(*offset))
            .collect();
        gone.into_iter().for_each(|offset| drop(self.take_out(offset)));
    }

    /// Reopens a done message. The log knows already.
    pub(super) fn reopen(&mut self, now_ms: i64, offset: QueueOffset) {
        self.acks.reopen(offset, offset.next());
        self.acks.attempt(offset, 0, now_ms);
    }

    /// Marks a message done, and notes it for the log.
    pub(super) fn finish(&mut self, offset: QueueOffset) {
        self.close(offset);
        match self.acked.last_mut() {
            Some(last) if last.end == offset.get() => last.end = offset.next().get(),
            _ => self.acked.push(AckRange { start: offset.get(), end: offset.next().get() }),
        }
    }

    /// Ends a message as a dead letter, whose record ends it in the log as well.
    pub(super) fn bury(&mut self, offset: QueueOffset, attempts: u32, reason: DeadReason) {
        self.close(offset);
        self.dead.push((offset, attempts, reason));
    }

    fn close(&mut self, offset: QueueOffset) {
        assert!(offset < self.end, "offset {offset} is behind the queue's end {}", self.end);
        self.take_out(offset);
        self.acks.ack(offset, offset.next());
    }

    /// Records failed attempts for the log.
    pub(super) fn note_attempts(&mut self, offset: QueueOffset, attempts: u32, visible_ms: i64) {
        self.acks.attempt(offset, attempts, visible_ms);
        self.attempted.push(FailedAttempts { offset: offset.get(), attempts, visible_ms });
    }

    /// Records for the log that a consumer had a message, unless the log knows or no consumer had it.
    pub(super) fn note_delivered(&mut self, offset: QueueOffset) {
        let Some(flight) = self.flights.get_mut(&offset) else { return };
        let is_known = flight.is_logged && self.acks.is_attempted(offset);
        // A message that was taken back for another member counts as new.
        if is_known || !flight.reached_a_consumer() {
            return;
        }
        flight.is_logged = true;
        let (attempts, visible_ms) = (flight.attempts, flight.visible_ms);
        self.note_attempts(offset, attempts, visible_ms);
    }

    /// Whether a lease was issued before the offset was reset.
    pub(super) fn is_void(&self, lease: LeaseId) -> bool {
        lease.get() <= self.acks.void_leases()
    }

    /// Offsets that `client` holds or put off.
    pub(super) fn held_by(&self, client: &str) -> Vec<QueueOffset> {
        let held = |flight: &Flight| flight.lease().is_some() && flight.client() == client;
        self.flights().filter(|(_, flight)| held(flight)).map(|(offset, _)| offset).collect()
    }

    /// Failed messages that no consumer holds and that are not blocked: offset, failed deliveries, visible time.
    pub(super) fn retrying(&self) -> impl Iterator<Item = (QueueOffset, u32, i64)> {
        let waits = |flight: &Flight| flight.active_lease().is_none() && !flight.is_blocked();
        let waiting = self.flights().filter(move |(_, flight)| waits(flight) && flight.attempts > 0);
        waiting.map(|(offset, flight)| (offset, flight.attempts, flight.visible_ms))
    }

    /// Whether everything is done, and logged.
    pub(super) fn is_idle(&self) -> bool {
        self.acks.committed() >= self.end && self.flights.is_empty() && !self.has_to_log()
    }

    pub(super) fn has_to_log(&self) -> bool {
        self.reset_to.is_some()
            || !self.acked.is_empty()
            || !self.attempted.is_empty()
            || !self.dead.is_empty()
    }

    /// Takes the messages that became dead letters since the last call: offset, deliveries and reason.
    pub(super) fn take_dead(&mut self) -> Vec<(QueueOffset, u32, DeadReason)> {
        std::mem::take(&mut self.dead)
    }

    /// Takes the progress that has to be logged since the last call.
    pub(super) fn take_progress(
        &mut self,
        group_id: u32,
        topic_id: u32,
        queue: u32,
    ) -> Option<QueueProgress> {
        let reset_to = self.reset_to.take();
        let progress = QueueProgress {
            group_id,
            topic_id,
            queue,
            reset_to: reset_to.map(QueueOffset::get),
            void_leases: if reset_to.is_some() { self.acks.void_leases() } else { 0 },
            acked: std::mem::take(&mut self.acked),
            attempted: std::mem::take(&mut self.attempted),
        };
        let empty = progress.reset_to.is_none() && progress.acked.is_empty() && progress.attempted.is_empty();
        (!empty).then_some(progress)
    }
}
