//! One queue as a consumer group sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::lanes::{Lane, Lanes};
use super::members::FilterId;
use super::policy::{Exhausted, Policy};
use super::times::Times;
use crate::acks::Acks;
use crate::record::{AckRange, Attempted, DeadReason, QueueProgress};

/// Messages of a queue that may wait until all members are known before nothing further is looked at.
const HELD_BACK_MAX: usize = 10_000;

/// A message that is out with a consumer, or waits for its next attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    /// Deliveries so far.
    pub(super) attempts: u32,
    /// When it becomes visible again.
    pub(super) visible_ms: i64,
    /// The delivery or extension that is current; only a handle with this number may act on it. 0 = nobody's.
    pub(super) lease: u64,
    /// Who holds it.
    pub(super) client: String,
    /// The receive that it was handed out to last. 0 = none whose end still matters.
    pub(super) call: u64,
    /// When set, it stays with its client while that client lives, until this time.
    pub(super) renew_until_ms: Option<i64>,
    /// For how long it stays with its client each time.
    pub(super) renew_ms: u64,
    /// Whether its `attempts` are in the log (or on their way there).
    pub(super) logged: bool,
    /// Whether its consumer put it off: it waits for the next attempt.
    pub(super) put_off: bool,
    /// Whether it used up its attempts and stays.
    pub(super) spent: bool,
}

/// Messages that are not done, by what keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not done, whatever keeps them: the sum of the others.
    pub lag: u64,
    /// Can be handed out, or wait for others of their message group that can.
    pub ready: u64,
    /// Out with a consumer.
    pub in_flight: u64,
    /// Failed, and wait for the time of their next attempt.
    pub waiting: u64,
    /// Used up their attempts and stay, with what stands behind them in their message group.
    pub blocked: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lag += other.lag;
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.blocked += other.blocked;
    }
}

/// State of one queue for one group.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    pub(super) acks: Acks,
    policy: Policy,
    /// Next offset that was never looked at by this engine.
    next: u64,
    /// One past the newest visible offset.
    end: u64,
    in_flight: BTreeMap<u64, InFlight>,
    times: Times,
    /// Without order: looked at, and kept for consumers with a filter.
    kept: HashMap<FilterId, BTreeSet<u64>>,
    /// With order: everything that was looked at.
    lanes: Option<Lanes>,
    /// With order: nothing is handed out before everything in front of this offset was looked at, because somebody holds
    /// a message there, since before a restart or since before order was kept.
    look_before: u64,
    /// With order: done before they were looked at, by handles from before a restart. What is in front of one in its message group
    /// was handed out as well.
    early: BTreeSet<u64>,
    /// The offset was set, and the log does not know yet.
    reset_to: Option<u64>,
    acked: Vec<AckRange>,
    attempted: Vec<Attempted>,
    dead: Vec<(u64, u32, DeadReason)>,
}

impl Cursor {
    /// Goes on from what the log says; attempts that failed before wait for their time.
    pub(super) fn new(acks: Acks, end: u64, policy: &Policy) -> Self {
        let mut cursor = Self { end, policy: *policy, ..Self::default() };
        cursor.restart(acks);
        cursor
    }

    /// Starts at an offset that the log does not know yet.
    pub(super) fn starting_at(offset: u64, end: u64, policy: &Policy) -> Self {
        Self { reset_to: Some(offset), ..Self::new(Acks::starting_at(offset), end, policy) }
    }

    fn restart(&mut self, acks: Acks) {
        self.in_flight = acks
            .attempted()
            .map(|(offset, attempts, visible_ms)| {
                (
                    offset,
                    InFlight { attempts, visible_ms, logged: true, put_off: true, ..InFlight::default() },
                )
            })
            .collect();
        self.acks = acks;
        self.arrange();
    }

    /// Builds from the table of what is in flight what follows from it and the policy.
    fn arrange(&mut self) {
        self.next = self.acks.committed();
        self.lanes = self.policy.ordered.then(Lanes::default);
        self.look_before = 0;
        self.early.clear();
        self.kept.clear();
        self.times.clear();
        for (offset, flight) in std::mem::take(&mut self.in_flight) {
            self.put(offset, flight);
        }
    }

    pub(super) fn set_policy(&mut self, policy: &Policy) {
        if self.policy != *policy {
            self.policy = *policy;
            self.arrange();
        }
    }

    pub(super) fn extend_to(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Everything before `min` expired, except what failed before and waits for its next attempt.
    pub(super) fn expire_below(&mut self, min: u64) {
        self.acks.expire_below(min);
        let known = self.lanes.iter().flat_map(Lanes::offsets).take_while(|offset| *offset < min);
        let kept = self.kept.values().flat_map(|offsets| offsets.range(..min).copied());
        let mut gone: Vec<u64> = self.in_flight.range(..min).map(|(offset, _)| *offset).collect();
        gone.extend(known.chain(kept));
        for offset in gone.into_iter().filter(|offset| self.acks.is_done(*offset)).collect::<Vec<_>>() {
            self.forget(offset);
        }
    }

    /// Everything before `offset` is done, nothing behind it is, and nobody holds anything: for the log as well.
    /// `last_lease` is the newest lease given out.
    pub(super) fn reset(&mut self, offset: u64, last_lease: u64) {
        self.reset_to = Some(offset);
        self.times.clear();
        self.acked.clear();
        self.attempted.clear();
        self.dead.clear();
        self.restart(Acks::reset_to(offset, last_lease));
    }

    /// A message that was done is delivered once more. The log knows.
    pub(super) fn reopen(&mut self, now_ms: i64, offset: u64, lane: Lane) {
        self.acks.reopen(offset, offset + 1);
        self.acks.attempt(offset, 0, now_ms);
        if let Some(lanes) = &mut self.lanes
            && offset < self.next
        {
            lanes.add(offset, lane);
        }
        self.put(offset, InFlight { visible_ms: now_ms, logged: true, put_off: true, ..InFlight::default() });
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether a lease was given out before the offset was reset.
    pub(super) fn is_void(&self, lease: u64) -> bool {
        lease <= self.acks.void_leases()
    }

    /// The next moment after `now_ms` at which something can be handed out, or, be it before, is to be renewed or given up.
    pub(super) fn next_event_ms(&self, now_ms: i64) -> Option<i64> {
        let due = match &self.lanes {
            // What is due may have to wait for others of its message group.
            Some(lanes) => lanes.next_ready_ms(now_ms),
            None => self.times.next_due_ms(now_ms),
        };
        due.into_iter().chain(self.times.first_other_ms()).min()
    }

    /// Extends what living clients hold while alive, makes the rest visible, and ends what failed for the last time.
    pub(super) fn sweep(&mut self, now_ms: i64, alive: &impl Fn(&str) -> bool) {
        while let Some(offset) = self.times.renewed(now_ms) {
            let flight = self.in_flight[&offset].clone();
            let still_held =
                flight.renew_until_ms.is_some_and(|until_ms| until_ms > now_ms) && alive(&flight.client);
            let renewed = if still_held {
                InFlight { visible_ms: now_ms.saturating_add_unsigned(flight.renew_ms.max(1)), ..flight }
            } else {
                InFlight { renew_until_ms: None, ..flight }
            };
            self.put(offset, renewed);
        }
        while let Some(offset) = self.times.last(now_ms) {
            self.exhaust(offset, DeadReason::Exhausted);
        }
    }

    /// What becomes of a message whose attempts are used up.
    pub(super) fn exhaust(&mut self, offset: u64, reason: DeadReason) {
        let flight = self.in_flight.get(&offset).cloned().unwrap_or_default();
        match self.policy.exhausted {
            Exhausted::DeadLetter => self.bury(offset, flight.attempts, reason),
            Exhausted::Block => {
                let attempts = flight.attempts.max(self.policy.max_attempts);
                if !flight.logged || attempts != flight.attempts {
                    self.note_attempts(offset, attempts, flight.visible_ms);
                }
                let visible_ms = flight.visible_ms;
                let stays =
                    InFlight { attempts, visible_ms, logged: true, spent: true, ..InFlight::default() };
                self.put(offset, stays.clone());
                self.times.remove(offset, &stays);
                if let Some(lane) = self.lane_of(offset)
                    && let Some(lanes) = &mut self.lanes
                {
                    lanes.out(offset, i64::MIN);
                    // Otherwise the lane stops when the message has come to its front.
                    if lanes.is_front(offset) {
                        lanes.block(lane);
                    }
                }
            }
        }
    }

    /// Ends a message as a dead letter.
    pub(super) fn bury(&mut self, offset: u64, attempts: u32, reason: DeadReason) {
        self.note_overtaken(offset);
        self.forget(offset);
        self.acks.ack(offset, offset + 1);
        self.dead.push((offset, attempts, reason));
    }

    /// Without order: the next offset for a consumer with this filter, what failed before first.
    pub(super) fn due_offset(&self, now_ms: i64) -> Option<u64> {
        self.times.due(now_ms).filter(|_| self.lanes.is_none())
    }

    /// Without order: the next offset never handed out, what is kept for this filter first.
    pub(super) fn fresh_offset(&mut self, filter: FilterId) -> Option<u64> {
        if self.lanes.is_some() || self.in_flight.len() >= self.policy.in_flight_max {
            return None;
        }
        if self.kept.get(&FilterId::UNKNOWN).is_some_and(|kept| kept.len() >= HELD_BACK_MAX) {
            return None;
        }
        if let Some(kept) = self.kept.get_mut(&filter)
            && let Some(offset) = kept.pop_first()
        {
            return Some(offset);
        }
        let offset = self.next_unseen();
        self.next = offset;
        (offset < self.end).then(|| {
            self.next += 1;
            offset
        })
    }

    fn next_unseen(&self) -> u64 {
        let mut offset = self.acks.next_open(self.next);
        if self.lanes.is_some() {
            let early = self.early.range(self.next..).next();
            return early.map_or(offset, |early| offset.min(*early));
        }
        while offset < self.end && self.was_seen(offset) {
            offset = self.acks.next_open(offset + 1);
        }
        offset
    }

    fn was_seen(&self, offset: u64) -> bool {
        self.in_flight.contains_key(&offset) || self.is_kept(offset)
    }

    /// Whether a consumer had it, which took it for done perhaps: what was taken back from a call that broke had none.
    fn was_handed_out(&self, offset: u64) -> bool {
        let flight = self.in_flight.get(&offset);
        self.acks.is_attempted(offset)
            || flight.is_some_and(|flight| flight.lease != 0 || flight.attempts > 0)
    }

    fn is_kept(&self, offset: u64) -> bool {
        self.kept.values().any(|kept| kept.contains(&offset))
    }

    /// With order: up to `max` offsets of the lane that has waited longest, in order. To be handed out at once. What was handed out
    /// before comes without anything new: that may be something that its consumer took for done.
    pub(super) fn next_of_a_lane(&mut self, now_ms: i64, filter: FilterId, max: usize) -> Option<Vec<u64>> {
        loop {
            if self.next_unseen() < self.look_before {
                return None;
            }
            let (lane, repeated_below, offsets) = self.lanes.as_ref()?.front(now_ms, filter)?;
            let mut room = self.policy.in_flight_max.saturating_sub(self.in_flight.len());
            let mut taken = Vec::new();
            let mut spent = false;
            let mut repeats = false;
            for offset in offsets.take(max) {
                let flight = self.in_flight.get(&offset);
                if flight.is_some_and(|flight| flight.attempts >= self.policy.max_attempts) {
                    spent = true;
                    break;
                }
                let is_repeat = self.was_handed_out(offset);
                // Perhaps it was handed out before a restart: it comes alone.
                let is_doubtful = !is_repeat && offset < repeated_below;
                let is_held_up = repeats && !is_repeat || is_doubtful && !taken.is_empty();
                if is_held_up || flight.is_none() && room == 0 {
                    break;
                }
                repeats |= is_repeat || is_doubtful;
                room -= usize::from(flight.is_none());
                taken.push(offset);
            }
            if !taken.is_empty() || !spent {
                return (!taken.is_empty()).then_some(taken);
            }
            self.lanes.as_mut()?.block(lane);
        }
    }

    /// With order: from which offset on the lanes of messages have to be told before more can be handed out.
    pub(super) fn wants_lanes(&self, now_ms: i64, filter: FilterId, enough: usize) -> Option<u64> {
        let lanes = self.lanes.as_ref()?;
        let offset = self.next_unseen();
        // What waits for a member that does not receive must not keep others from what is behind it.
        let looked = || lanes.len() - lanes.kept_len();
        let held_back = || lanes.kept_for_len(FilterId::UNKNOWN);
        let few = || {
            looked() < self.policy.lookahead_max
                && lanes.ready_len(now_ms, filter, enough) < enough
                && held_back() < HELD_BACK_MAX
        };
        (offset < self.end && (offset < self.look_before || few())).then_some(offset)
    }

    /// With order: the lanes of the messages from `from` on, one by one.
    pub(super) fn tell_lanes(&mut self, from: u64, told: impl IntoIterator<Item = Lane>) {
        if from != self.next_unseen() {
            // Somebody else told them in the meantime.
            return;
        }
        let Some(mut lanes) = self.lanes.take() else { return };
        for lane in told {
            let offset = self.next.max(from);
            self.next = offset + 1;
            if self.acks.is_done(offset) {
                if self.early.remove(&offset) {
                    lanes.repeat_below(lane, offset);
                }
            } else if offset < self.end {
                lanes.add(offset, lane);
                if let Some(flight) = self.in_flight.get(&offset) {
                    lanes.out(offset, flight.visible_ms);
                }
            }
        }
        self.next = self.next.min(self.end);
        self.lanes = Some(lanes);
    }

    /// With order: everything that was looked at.
    pub(super) fn lanes(&self) -> Option<&Lanes> {
        self.lanes.as_ref()
    }

    pub(super) fn lane_of(&self, offset: u64) -> Option<Lane> {
        self.lanes.as_ref().and_then(|lanes| lanes.lane_of(offset))
    }

    /// A message is for consumers with one of these filters, and for no one else.
    pub(super) fn keep_for(&mut self, offset: u64, filters: &[FilterId]) {
        if let Some(lane) = self.lane_of(offset)
            && let Some(lanes) = &mut self.lanes
        {
            // One that is behind others is looked at again when it has come to the front.
            if lanes.is_front(offset) {
                lanes.keep_for(lane, filters);
            }
            return;
        }
        if let Some(flight) = self.in_flight.get(&offset).cloned() {
            self.take_out(offset);
            if flight.attempts != self.acks.attempts_of(offset) {
                // They count when somebody takes it.
                self.note_attempts(offset, flight.attempts, flight.visible_ms);
            }
        }
        for filter in filters {
            self.kept.entry(*filter).or_default().insert(offset);
        }
    }

    /// Nobody has this filter any more.
    pub(super) fn forget_filter(&mut self, now_ms: i64, filter: FilterId) {
        if let Some(lanes) = &mut self.lanes {
            lanes.forget_filter(filter);
        }
        for offset in self.kept.remove(&filter).unwrap_or_default() {
            if self.is_kept(offset) {
                continue;
            }
            let attempts = self.acks.attempts_of(offset);
            self.put(offset, InFlight { attempts, visible_ms: now_ms, logged: true, ..InFlight::default() });
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<&InFlight> {
        self.in_flight.get(&offset)
    }

    /// Deliveries of a message so far.
    pub(super) fn attempts_of(&self, offset: u64) -> u32 {
        self.in_flight.get(&offset).map_or_else(|| self.acks.attempts_of(offset), |flight| flight.attempts)
    }

    /// Puts `offset` in flight, replacing what was known of it.
    pub(super) fn put(&mut self, offset: u64, flight: InFlight) {
        self.take_out(offset);
        self.unkeep(offset);
        self.times.insert(offset, &flight, self.policy.max_attempts);
        if let Some(lanes) = &mut self.lanes {
            lanes.out(offset, flight.visible_ms);
        }
        if flight.lease != 0 && offset >= self.next {
            self.look_before = self.look_before.max(offset + 1);
        }
        self.in_flight.insert(offset, flight);
    }

    fn take_out(&mut self, offset: u64) {
        if let Some(old) = self.in_flight.remove(&offset) {
            self.times.remove(offset, &old);
        }
    }

    fn unkeep(&mut self, offset: u64) {
        for kept in self.kept.values_mut() {
            kept.remove(&offset);
        }
    }

    fn forget(&mut self, offset: u64) {
        self.take_out(offset);
        self.unkeep(offset);
        if let Some(lanes) = &mut self.lanes {
            lanes.remove(offset);
        }
    }

    /// Marks `offset` done, and notes it for the log.
    pub(super) fn finish(&mut self, offset: u64) {
        self.note_overtaken(offset);
        self.forget(offset);
        self.acks.ack(offset, offset + 1);
        match self.acked.last_mut() {
            Some(last) if last.end == offset => last.end = offset + 1,
            _ => self.acked.push(AckRange { start: offset, end: offset + 1 }),
        }
    }

    /// With order: a message is done before others in front of it in its message group that were handed out. That is logged with
    /// it, so that nothing new comes beside them after a restart either.
    fn note_overtaken(&mut self, offset: u64) {
        let Some(lanes) = &self.lanes else { return };
        let lane = lanes.lane_of(offset);
        if lane.is_none() && offset >= self.next {
            self.early.insert(offset);
        }
        let is_logged = |other: u64, flight: &InFlight| flight.logged && self.acks.is_attempted(other);
        let known = |other: u64| self.in_flight.get(&other).filter(|flight| !is_logged(other, flight));
        let taken = |(other, flight): (u64, &InFlight)| (other, flight.attempts, flight.visible_ms);
        let overtaken: Vec<(u64, u32, i64)> = match lane {
            Some(lane) => {
                lanes.in_front(lane, offset).filter_map(|other| Some(taken((other, known(other)?)))).collect()
            }
            // Any of them may be of its message group.
            None => self
                .in_flight
                .range(..offset)
                .filter(|(other, flight)| !is_logged(**other, flight))
                .map(|(other, flight)| taken((*other, flight)))
                .collect(),
        };
        for (other, attempts, visible_ms) in overtaken {
            self.note_attempts(other, attempts, visible_ms);
            if let Some(flight) = self.in_flight.get_mut(&other) {
                flight.logged = true;
            }
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

    /// Messages that used up their attempts and stay, and how many wait because of each, itself included. With order, those
    /// that stand behind others of their message group are not among them yet.
    pub(super) fn blocked(&self) -> Vec<(u64, usize)> {
        let spent = self.in_flight.iter().filter(|(_, flight)| flight.spent);
        let waiting = |offset: u64| match &self.lanes {
            Some(lanes) if lanes.lane_of(offset).is_some() => {
                lanes.is_front(offset).then(|| lanes.waiting_with(offset))
            }
            _ => Some(1),
        };
        spent.filter_map(|(offset, _)| Some((*offset, waiting(*offset)?))).collect()
    }

    /// Messages that failed, are with nobody, and do not stay: offset, failed deliveries, and when they can be had again.
    pub(super) fn retrying(&self) -> impl Iterator<Item = (u64, u32, i64)> {
        let waiting = self
            .in_flight
            .iter()
            .filter(|(_, flight)| !flight.spent && (flight.lease == 0 || flight.put_off));
        waiting.filter_map(|(offset, flight)| {
            let attempts = self.attempts_of(*offset);
            (attempts > 0).then_some((*offset, attempts, flight.visible_ms))
        })
    }

    /// Lets a message that stays try again, from its first attempt on; `false` if it does not stay.
    pub(super) fn unblock(&mut self, now_ms: i64, offset: u64) -> bool {
        if !self.blocked().iter().any(|(blocked, _)| *blocked == offset) {
            return false;
        }
        self.note_attempts(offset, 0, now_ms);
        if let Some(lane) = self.lane_of(offset)
            && let Some(lanes) = &mut self.lanes
        {
            lanes.unblock(lane);
        }
        self.put(offset, InFlight { visible_ms: now_ms, logged: true, put_off: true, ..InFlight::default() });
        true
    }

    pub(super) fn counts(&self, now_ms: i64) -> Counts {
        let lag = self.acks.open_below(self.end);
        let blocked = self.blocked();
        let staying: BTreeSet<u64> = blocked.iter().map(|(offset, _)| *offset).collect();
        let invisible = self.in_flight.iter().filter(|(offset, flight)| {
            !staying.contains(offset) && (flight.visible_ms > now_ms || flight.renew_until_ms.is_some())
        });
        let (mut in_flight, mut waiting, mut out_of_blocked) = (0, 0, 0);
        for (offset, flight) in invisible {
            if flight.lease == 0 || flight.put_off {
                waiting += 1;
            } else {
                in_flight += 1;
            }
            let front = self.lanes.as_ref().and_then(|lanes| lanes.front_of(*offset));
            out_of_blocked += u64::from(front.is_some_and(|front| staying.contains(&front)));
        }
        let blocked = blocked.iter().map(|(_, waiting)| *waiting as u64).sum::<u64>() - out_of_blocked;
        Counts { lag, ready: lag.saturating_sub(in_flight + waiting + blocked), in_flight, waiting, blocked }
    }

    /// Whether everything is done, and logged.
    pub(super) fn is_idle(&self) -> bool {
        self.acks.committed() >= self.end && self.in_flight.is_empty() && !self.has_to_log()
    }

    pub(super) fn has_to_log(&self) -> bool {
        let quiet = self.reset_to.is_none()
            && self.acked.is_empty()
            && self.attempted.is_empty()
            && self.dead.is_empty();
        !quiet
    }

    /// Takes what became dead letters since the last call: offset, deliveries and reason.
    pub(super) fn take_dead(&mut self) -> Vec<(u64, u32, DeadReason)> {
        std::mem::take(&mut self.dead)
    }

    /// Takes what has to be logged since the last call.
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
            reset_to,
            void_leases: if reset_to.is_some() { self.acks.void_leases() } else { 0 },
            acked: std::mem::take(&mut self.acked),
            attempted: std::mem::take(&mut self.attempted),
        };
        let empty = progress.reset_to.is_none() && progress.acked.is_empty() && progress.attempted.is_empty();
        (!empty).then_some(progress)
    }
}
