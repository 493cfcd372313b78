//! The engine against a plain reference, under random sequences of everything that consumers, clocks and crashes do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, ExhaustedAction, FilterResult,
    HandleError, LeaseId, LeaseTerm, OrderingKey, ReceiveId, ReceiveRequest,
};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;

const INVISIBLE_MS: u64 = 10_000;
const RENEW_MS: u64 = 60_000;
const MAX_ATTEMPTS: u32 = 4;
const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Messages of these groups (3: of none) and tags.
    Publish(Vec<(u8, u8)>),
    /// Client, most messages, whether it holds while alive, attempt id if any.
    Receive(usize, usize, bool, Option<u8>),
    Ack(usize),
    Nack(usize, u64, bool),
    GiveBack(usize),
    /// The receive that a handle came of breaks, before or after all was on its way.
    Breaks(usize, bool),
    GiveUp(usize),
    Unblock(usize),
    Sleep(i64),
    ClientDies(usize),
    Restart,
    OrderChanges,
    Reset(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let attempt = prop_oneof![2 => Just(None), 1 => (0u8..3).prop_map(Some)];
    prop_oneof![
        4 => prop::collection::vec((0u8..4, 0u8..4), 1..6).prop_map(Step::Publish),
        8 => (0..CLIENTS, 1usize..6, prop::bool::weighted(0.25), attempt)
            .prop_map(|(client, max, alive, attempt)| Step::Receive(client, max, alive, attempt)),
        6 => (0usize..40).prop_map(Step::Ack),
        2 => (0usize..40, 0u64..20_000, any::<bool>()).prop_map(|(i, ms, s)| Step::Nack(i, ms, s)),
        1 => (0usize..40).prop_map(Step::GiveBack),
        2 => (0usize..40, any::<bool>()).prop_map(|(i, sent)| Step::Breaks(i, sent)),
        1 => (0usize..40).prop_map(Step::GiveUp),
        1 => (0usize..4).prop_map(Step::Unblock),
        4 => (1i64..15_000).prop_map(Step::Sleep),
        1 => (0..CLIENTS).prop_map(Step::ClientDies),
        1 => Just(Step::Restart),
        1 => Just(Step::OrderChanges),
        1 => (0u64..30).prop_map(Step::Reset),
    ]
}

/// What the reference knows of one offset.
#[derive(Debug, Clone, Default)]
struct Expected {
    done: bool,
    attempts: u32,
    invisible_until_ms: i64,
    lease: Option<LeaseId>,
    receive: ReceiveId,
    alive_held: bool,
    blocked: bool,
    /// A consumer had it, or was to have it.
    handed: bool,
    /// A consumer had it, and what followed it then may be done.
    repeats: bool,
    /// The log says that a consumer had it: it was put off, or one behind it in its message group is done.
    noted: bool,
}

impl Expected {
    /// What stays true of a message whatever becomes of its delivery.
    fn anew(&self) -> Self {
        Self { handed: self.handed, repeats: self.repeats, noted: self.noted, ..Self::default() }
    }

    /// A handle counts while it is current and not expired; where nobody holds the message, the last one given counts.
    fn admits(&self, message: &DeliveredMessage, now_ms: i64) -> bool {
        if self.blocked {
            return false;
        }
        if self.lease.is_none() {
            return message.attempt >= self.attempts && message.visible_ms > now_ms;
        }
        self.lease == Some(message.lease) && (self.invisible_until_ms > now_ms || self.alive_held)
    }
}

struct World {
    now_ms: i64,
    policy: DeliveryPolicy,
    filters: [Filter; CLIENTS],
    alive: [bool; CLIENTS],
    /// Group and tag by offset.
    published: Vec<(u8, u8)>,
    subscription: DeliveryEngine,
    durable: QueueAcks,
    reference: BTreeMap<QueueOffset, Expected>,
    handles: Vec<(usize, DeliveredMessage)>,
}

fn name(client: usize) -> String {
    client.to_string()
}

fn lease_of(message: &DeliveredMessage) -> DeliveryHandle {
    DeliveryHandle {
        queue: message.queue,
        offset: message.offset,
        attempt: message.attempt,
        lease: message.lease,
        visible_ms: message.visible_ms,
    }
}

impl World {
    fn new(policy: DeliveryPolicy, filters: [&str; CLIENTS]) -> Self {
        let mut subscription = DeliveryEngine::new(1, 1, 1, policy);
        subscription.add_queue(0, QueueAcks::default(), QueueOffset::FIRST);
        Self {
            now_ms: 1_000,
            policy,
            filters: filters.map(|text| Filter::tags(text).expect("legal")),
            alive: [true; CLIENTS],
            published: Vec::new(),
            subscription,
            durable: QueueAcks::default(),
            reference: BTreeMap::new(),
            handles: Vec::new(),
        }
    }

    fn end(&self) -> QueueOffset {
        QueueOffset::new(self.published.len() as u64)
    }

    fn key(&self, offset: QueueOffset) -> OrderingKey {
        match self.published[usize::try_from(offset.get()).expect("small")].0 {
            3 => OrderingKey::Alone(offset),
            group => OrderingKey::Group(u64::from(group)),
        }
    }

    fn wants(&self, client: usize, offset: QueueOffset) -> bool {
        let tag = ["a", "b", "c", "d"]
            [usize::from(self.published[usize::try_from(offset.get()).expect("small")].1)];
        self.filters[client].matches(Some(tag), |_| None)
    }

    /// What the engine decided alone, and what has to go into the log.
    fn log_progress(&mut self) -> Result<(), TestCaseError> {
        let dead_letters = self.subscription.take_exhausted();
        for progress in self.subscription.take_progress() {
            self.durable.apply(&progress);
        }
        for dead in dead_letters {
            let expected = self.reference.entry(dead.offset).or_default();
            prop_assert!(!expected.done, "offset {} was done when it became a dead letter", dead.offset);
            prop_assert_eq!(self.policy.exhausted, ExhaustedAction::DeadLetter);
            expected.done = true;
            self.durable.ack(dead.offset, dead.offset.next());
            self.note_overtaken(dead.offset);
        }
        for blocked in self.subscription.blocked() {
            let expected = self.reference.entry(blocked.offset).or_default();
            prop_assert!(!expected.done);
            *expected =
                Expected { attempts: expected.attempts.max(MAX_ATTEMPTS), blocked: true, ..expected.anew() };
        }
        Ok(())
    }

    fn load_keys(&mut self, request: &ReceiveRequest<'_>) {
        while let Some(wanted) = self.subscription.ordering_keys_wanted(self.now_ms, request) {
            let keys: Vec<OrderingKey> =
                wanted.from.up_to(wanted.end).take(3).map(|offset| self.key(offset)).collect();
            self.subscription.load_ordering_keys(wanted.queue, wanted.from, keys);
        }
    }

    fn receive(
        &mut self,
        client: usize,
        max: usize,
        alive: bool,
        attempt: Option<u8>,
    ) -> Result<usize, TestCaseError> {
        self.alive[client] = true;
        let (id, attempt_id) = (name(client), attempt.map(|number| format!("{client}-{number}")));
        let filter = self.subscription.join(self.now_ms, &id, &self.filters[client].clone());
        let term = if alive { LeaseTerm::WhileAlive(RENEW_MS) } else { LeaseTerm::Fixed(INVISIBLE_MS) };
        let request = ReceiveRequest { max, term, client: &id, filter, attempt_id: attempt_id.as_deref() };
        loop {
            self.load_keys(&request);
            let living = self.alive;
            let picked = self
                .subscription
                .receive(self.now_ms, &request, |id| living[id.parse::<usize>().expect("ours")]);
            self.renewals();
            self.log_progress()?;
            prop_assert!(picked.len() <= max);
            if picked.is_empty() {
                return Ok(0);
            }
            self.check_batch(&picked, alive, attempt.is_some())?;
            let others = self.subscription.other_filters(filter);
            let result = |message: &DeliveredMessage| {
                let tag = ["a", "b", "c", "d"]
                    [usize::from(self.published[usize::try_from(message.offset.get()).expect("small")].1)];
                if self.wants(client, message.offset) {
                    FilterResult::Wanted
                } else {
                    let others = others.iter().filter(|(_, filter)| filter.matches(Some(tag), |_| None));
                    let others: Vec<_> = others.map(|(id, _)| *id).collect();
                    if others.is_empty() { FilterResult::Unwanted } else { FilterResult::WantedBy(others) }
                }
            };
            let results: Vec<FilterResult> = picked.iter().map(result).collect();
            let wanted = self.subscription.apply_filter_results(self.now_ms, picked.clone(), &results);
            let mut done_now = Vec::new();
            for (message, result) in picked.iter().zip(&results) {
                let done = *result == FilterResult::Unwanted && self.subscription_done(message.offset);
                let expected = self.reference.get_mut(&message.offset).expect("checked just now");
                if done {
                    expected.done = true;
                    done_now.push(message.offset);
                } else if !wanted.contains(message) {
                    let (attempts, invisible_until_ms) = (message.attempt - 1, self.now_ms);
                    *expected = Expected { attempts, invisible_until_ms, ..expected.anew() };
                }
            }
            done_now.into_iter().for_each(|offset| self.note_overtaken(offset));
            prop_assert!(wanted.iter().all(|message| self.wants(client, message.offset)));
            if !wanted.is_empty() {
                let count = wanted.len();
                for message in &wanted {
                    let expected = self.reference.get_mut(&message.offset).expect("checked just now");
                    (expected.handed, expected.repeats) = (true, true);
                }
                self.handles.extend(wanted.into_iter().map(|message| (client, message)));
                return Ok(count);
            }
        }
    }

    /// Whether the engine takes an offset for done: it answers a handle for it as repeated.
    fn subscription_done(&self, offset: QueueOffset) -> bool {
        let mut progress = self.durable.clone();
        let mut copy = self.subscription.clone();
        copy.take_progress().iter().for_each(|change| progress.apply(change));
        progress.is_done(offset)
    }

    /// What living clients hold while alive is prolonged by whoever looks.
    fn renewals(&mut self) {
        for expected in self.reference.values_mut().filter(|e| e.alive_held && !e.done) {
            if expected.invisible_until_ms <= self.now_ms {
                expected.invisible_until_ms = self.now_ms + 60_000;
            }
        }
    }

    fn check_batch(
        &mut self,
        picked: &[DeliveredMessage],
        alive: bool,
        may_repeat: bool,
    ) -> Result<(), TestCaseError> {
        let now_ms = self.now_ms;
        for (i, message) in picked.iter().enumerate() {
            let offset = message.offset;
            prop_assert!(offset < self.end(), "offset {offset} was never published");
            let expected = self.reference.entry(offset).or_default().clone();
            prop_assert!(!expected.done && !expected.blocked, "offset {offset} is done or blocked");
            let repeated = may_repeat && expected.lease == Some(message.lease);
            if repeated {
                prop_assert_eq!(message.attempt, expected.attempts);
                prop_assert!(expected.invisible_until_ms > now_ms);
            } else {
                let until_ms = expected.invisible_until_ms;
                prop_assert!(until_ms <= now_ms, "offset {offset} is invisible until {until_ms} at {now_ms}");
                prop_assert_eq!(message.attempt, expected.attempts + 1, "attempts of {}", offset);
                prop_assert!(message.attempt <= MAX_ATTEMPTS);
                if self.policy.ordered {
                    self.check_order(offset, &picked[..i])?;
                }
            }
            *self.reference.get_mut(&offset).expect("there") = Expected {
                attempts: message.attempt,
                invisible_until_ms: message.visible_ms,
                lease: Some(message.lease),
                receive: message.receive,
                alive_held: alive,
                ..expected.anew()
            };
        }
        Ok(())
    }

    /// Everything before it in its message group is done or comes with it, and nobody holds anything behind it. Nothing new comes
    /// while an older one that was handed out is not done.
    fn check_order(&self, offset: QueueOffset, before: &[DeliveredMessage]) -> Result<(), TestCaseError> {
        let key = self.key(offset);
        let is_new = !self.reference.get(&offset).is_some_and(|expected| expected.handed);
        for other in QueueOffset::FIRST.up_to(self.end()).filter(|o| *o != offset && self.key(*o) == key) {
            let expected = self.reference.get(&other).cloned().unwrap_or_default();
            let with_it = before.iter().any(|message| message.offset == other);
            prop_assert!(other > offset || expected.done || with_it, "{offset} overtakes {other}");
            let held =
                expected.lease.is_some() && !expected.done && expected.invisible_until_ms > self.now_ms;
            prop_assert!(!held || with_it, "{offset} is handed out while somebody holds {other}");
            let undone = other < offset && expected.repeats && !expected.done;
            prop_assert!(
                !(is_new && undone),
                "{offset} is new and comes beside {other}, which was handed out"
            );
        }
        Ok(())
    }

    fn handle(&self, index: usize) -> Option<(usize, DeliveredMessage)> {
        (!self.handles.is_empty()).then(|| self.handles[index % self.handles.len()].clone())
    }

    fn ack(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some((_, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.ack(self.now_ms, &lease_of(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done || expected.admits(&message, self.now_ms) {
            prop_assert_eq!(answer, Ok(()));
            if !std::mem::replace(&mut expected.done, true) {
                self.note_overtaken(message.offset);
            }
        } else {
            let refused = matches!(answer, Err(HandleError::Expired | HandleError::Superseded));
            prop_assert!(refused, "{:?}", answer);
        }
        Ok(())
    }

    /// What a group in order had handed out in front of a message that is done.
    fn note_overtaken(&mut self, offset: QueueOffset) {
        let key = self.key(offset);
        let in_front: Vec<QueueOffset> =
            QueueOffset::FIRST.up_to(offset).filter(|other| self.key(*other) == key).collect();
        for other in in_front.into_iter().filter(|_| self.policy.ordered) {
            if let Some(expected) = self.reference.get_mut(&other) {
                expected.noted |= expected.repeats && !expected.done;
            }
        }
    }

    fn nack(&mut self, index: usize, ms: u64, suspend: bool) -> Result<(), TestCaseError> {
        let Some((client, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.change_invisible(self.now_ms, &lease_of(&message), ms, suspend);
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done {
            prop_assert_eq!(answer, Ok(None));
        } else if expected.admits(&message, self.now_ms) {
            let lease = answer.expect("a current handle").expect("not done");
            prop_assert_eq!(lease.visible_ms, self.now_ms + i64::try_from(ms).expect("small"));
            *expected = Expected {
                attempts: message.attempt - u32::from(suspend),
                invisible_until_ms: lease.visible_ms,
                lease: Some(lease.lease),
                repeats: true,
                noted: true,
                ..expected.anew()
            };
            let place = index % self.handles.len();
            self.handles[place] =
                (client, DeliveredMessage { lease: lease.lease, visible_ms: lease.visible_ms, ..message });
        } else {
            prop_assert!(answer.is_err());
        }
        Ok(())
    }

    fn give_up(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some((_, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.give_up(self.now_ms, &lease_of(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done {
            prop_assert_eq!(answer, Ok(false));
        } else if expected.admits(&message, self.now_ms) {
            prop_assert_eq!(answer, Ok(true));
            if self.policy.exhausted == ExhaustedAction::Block {
                *expected = Expected { attempts: MAX_ATTEMPTS, blocked: true, ..expected.anew() };
            }
        } else {
            prop_assert!(answer.is_err());
        }
        Ok(())
    }

    fn unblock(&mut self, index: usize) {
        let blocked = self.subscription.blocked();
        let Some(message) = blocked.get(index) else { return };
        assert!(self.subscription.unblock(self.now_ms, message.queue, message.offset));
        let expected = self.reference.get_mut(&message.offset).expect("it was delivered");
        *expected = Expected { invisible_until_ms: self.now_ms, ..expected.anew() };
    }

    fn give_back(&mut self, index: usize) {
        let Some((_, message)) = self.handle(index) else { return };
        self.subscription.give_back(self.now_ms, std::slice::from_ref(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if !expected.done && expected.lease == Some(message.lease) {
            *expected = Expected {
                attempts: message.attempt - 1,
                invisible_until_ms: self.now_ms,
                repeats: message.attempt > 1 || expected.noted,
                ..expected.anew()
            };
        }
    }

    /// A receive breaks: what its client still holds because of it can be had again, and nothing else changes.
    fn breaks(&mut self, index: usize, sent: bool) -> Result<(), TestCaseError> {
        let Some((client, one)) = self.handle(index) else { return Ok(()) };
        let of_receive = |(holder, message): &(usize, DeliveredMessage)| {
            *holder == client && message.receive == one.receive
        };
        let batch: Vec<DeliveredMessage> =
            self.handles.iter().filter(|h| of_receive(h)).map(|(_, m)| m.clone()).collect();
        let has_acted = |message: &DeliveredMessage| {
            let expected = &self.reference[&message.offset];
            expected.done || expected.lease != Some(message.lease)
        };
        prop_assert_eq!(self.subscription.is_known_to_have(&batch), batch.iter().any(has_acted));
        if sent {
            self.subscription.may_not_have_come(self.now_ms, &batch);
        } else {
            self.subscription.never_came(self.now_ms, &batch);
        }
        for message in &batch {
            let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
            if !expected.done && expected.lease == Some(message.lease) && expected.receive == message.receive
            {
                *expected = Expected {
                    attempts: message.attempt - u32::from(!sent),
                    invisible_until_ms: self.now_ms + if sent { 1_000 } else { 0 },
                    repeats: sent || message.attempt > 1 || expected.noted,
                    ..expected.anew()
                };
            }
        }
        Ok(())
    }

    fn client_dies(&mut self, client: usize) {
        self.alive[client] = false;
        self.subscription.client_left(self.now_ms, &name(client));
        for (holder, message) in &self.handles {
            let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
            if *holder == client
                && expected.lease == Some(message.lease)
                && expected.alive_held
                && !expected.done
            {
                expected.invisible_until_ms = self.now_ms;
                expected.alive_held = false;
            }
        }
    }

    /// The process dies, or another member takes over: what was logged is all that is known.
    fn restart(&mut self) -> Result<(), TestCaseError> {
        self.log_progress()?;
        let base = u64::try_from(self.now_ms).expect("positive") * 1_000_000;
        self.subscription = DeliveryEngine::new(1, 1, base, self.policy);
        self.subscription.add_queue(0, self.durable.clone(), self.end());
        self.handles.clear();
        let durable = &self.durable;
        let attempted: BTreeMap<QueueOffset, (u32, i64)> =
            durable.attempted().map(|(offset, attempts, ms)| (offset, (attempts, ms))).collect();
        let before = std::mem::take(&mut self.reference);
        self.reference = QueueOffset::FIRST
            .up_to(self.end())
            .filter_map(|offset| {
                if durable.is_done(offset) {
                    return Some((offset, Expected { done: true, ..Expected::default() }));
                }
                let noted = before.get(&offset).is_some_and(|expected| expected.noted);
                let (attempts, invisible_until_ms) = *attempted.get(&offset).or(noted.then_some(&(0, 0)))?;
                let known = Expected { handed: true, repeats: true, noted: true, ..Expected::default() };
                Some((offset, Expected { attempts, invisible_until_ms, ..known }))
            })
            .collect();
        Ok(())
    }

    fn reset(&mut self, offset: QueueOffset) -> Result<(), TestCaseError> {
        let offset = offset.min(self.end());
        self.subscription.reset(0, offset);
        let done = || Expected { done: true, ..Expected::default() };
        self.reference = QueueOffset::FIRST.up_to(offset).map(|offset| (offset, done())).collect();
        for (_, message) in std::mem::take(&mut self.handles) {
            let lease = lease_of(&message);
            prop_assert_eq!(self.subscription.ack(self.now_ms, &lease), Err(HandleError::Superseded));
            let changed = self.subscription.change_invisible(self.now_ms, &lease, 0, false);
            prop_assert_eq!(changed, Err(HandleError::Superseded));
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish(messages) => {
                self.published.extend(messages);
                self.subscription.extend(0, self.end());
            }
            Step::Receive(client, max, alive, attempt) => drop(self.receive(client, max, alive, attempt)?),
            Step::Ack(index) => self.ack(index)?,
            Step::Nack(index, ms, suspend) => self.nack(index, ms, suspend)?,
            Step::GiveBack(index) => self.give_back(index),
            Step::Breaks(index, sent) => self.breaks(index, sent)?,
            Step::GiveUp(index) => self.give_up(index)?,
            Step::Unblock(index) => self.unblock(index),
            Step::Sleep(ms) => self.now_ms += ms,
            Step::ClientDies(client) => self.client_dies(client),
            Step::Restart => self.restart()?,
            Step::Reset(offset) => self.reset(QueueOffset::new(offset))?,
            Step::OrderChanges => {
                self.policy.ordered = !self.policy.ordered;
                self.subscription.set_policy(self.policy);
            }
        }
        self.log_progress()
    }

    /// Whatever is left reaches those who want it, each message in its turn.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        for client in 0..CLIENTS {
            self.client_dies(client);
        }
        for _ in 0..20 * (self.published.len() + 2) {
            self.now_ms += 100_000;
            while !self.subscription.blocked().is_empty() {
                self.unblock(0);
            }
            for client in 0..CLIENTS {
                self.handles.clear();
                self.receive(client, 3, false, None)?;
                for index in 0..self.handles.len() {
                    self.ack(index)?;
                }
            }
            self.log_progress()?;
            if self.durable.open_below(self.end()) == 0 {
                return Ok(());
            }
        }
        prop_assert!(false, "some message is never delivered: {:?}", self.durable);
        Ok(())
    }
}

fn run(policy: DeliveryPolicy, filters: [&str; CLIENTS], steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(policy, filters);
    for step in steps {
        world.take(step)?;
        let counts = world.subscription.counts(world.now_ms)[&0];
        let sum = counts.ready + counts.in_flight + counts.waiting + counts.blocked;
        prop_assert_eq!(counts.lag, sum);
        let open = world.durable.open_below(world.end());
        prop_assert_eq!(counts.lag, open);
    }
    world.drain()
}

fn policy(ordered: bool, exhausted: ExhaustedAction, lookahead_max: usize) -> DeliveryPolicy {
    DeliveryPolicy {
        ordered,
        exhausted,
        max_attempts: MAX_ATTEMPTS,
        lookahead_max,
        in_flight_max: 50,
        priorities: None,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..120)
}

const SAME: [&str; CLIENTS] = ["*", "*", "*"];
const DIFFERENT: [&str; CLIENTS] = ["a", "a || b", "b || c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn without_order(steps in steps()) {
        run(policy(false, ExhaustedAction::DeadLetter, 50), SAME, steps)?;
    }

    #[test]
    fn in_order(steps in steps()) {
        run(policy(true, ExhaustedAction::DeadLetter, 50), SAME, steps)?;
    }

    #[test]
    fn in_order_and_blocking(steps in steps()) {
        run(policy(true, ExhaustedAction::Block, 50), SAME, steps)?;
    }

    #[test]
    fn members_with_different_filters(steps in steps()) {
        run(policy(false, ExhaustedAction::DeadLetter, 50), DIFFERENT, steps)?;
    }

    #[test]
    fn members_with_different_filters_in_order(steps in steps()) {
        run(policy(true, ExhaustedAction::Block, 50), DIFFERENT, steps)?;
    }
}
