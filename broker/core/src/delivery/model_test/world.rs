//! The engine and the reference side by side: deliveries, and the state after a restart.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{
    DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, ExhaustedAction, FilterResult,
    HandleError, LeaseId, LeaseTerm, OrderingKey, ReceiveId, ReceiveRequest,
};
use super::{CLIENTS, INVISIBLE_MS, MAX_ATTEMPTS, RENEW_MS};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;

/// What the reference knows of one offset.
#[derive(Debug, Clone, Default)]
pub(super) struct ExpectedFlight {
    pub(super) done: bool,
    pub(super) attempts: u32,
    pub(super) invisible_until_ms: i64,
    pub(super) lease: Option<LeaseId>,
    pub(super) receive: ReceiveId,
    pub(super) alive_held: bool,
    pub(super) blocked: bool,
    /// A consumer had it, or was to have it.
    pub(super) handed: bool,
    /// A consumer had it, and what followed it then may be done.
    pub(super) repeats: bool,
    /// The log says that a consumer had it: it was put off, or one behind it in its message group is done.
    pub(super) noted: bool,
}

impl ExpectedFlight {
    /// What stays true of a message whatever becomes of its delivery.
    pub(super) fn anew(&self) -> Self {
        Self { handed: self.handed, repeats: self.repeats, noted: self.noted, ..Self::default() }
    }

    /// A handle counts while it is current and not expired; while no client holds the message, the last one given counts.
    pub(super) fn admits(&self, message: &DeliveredMessage, now_ms: i64) -> bool {
        if self.blocked {
            return false;
        }
        if self.lease.is_none() {
            return message.attempt >= self.attempts && message.visible_ms > now_ms;
        }
        self.lease == Some(message.lease) && (self.invisible_until_ms > now_ms || self.alive_held)
    }
}

pub(super) struct ModelWorld {
    pub(super) now_ms: i64,
    pub(super) policy: DeliveryPolicy,
    pub(super) filters: [Filter; CLIENTS],
    pub(super) alive: [bool; CLIENTS],
    /// Group and tag by offset.
    pub(super) published: Vec<(u8, u8)>,
    pub(super) subscription: DeliveryEngine,
    pub(super) durable: QueueAcks,
    pub(super) reference: BTreeMap<QueueOffset, ExpectedFlight>,
    pub(super) handles: Vec<(usize, DeliveredMessage)>,
}

pub(super) fn name(client: usize) -> String {
    client.to_string()
}

pub(super) fn lease_of(message: &DeliveredMessage) -> DeliveryHandle {
    DeliveryHandle {
        queue: message.queue,
        offset: message.offset,
        attempt: message.attempt,
        lease: message.lease,
        visible_ms: message.visible_ms,
    }
}

impl ModelWorld {
    pub(super) fn new(policy: DeliveryPolicy, filters: [&str; CLIENTS]) -> Self {
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

    pub(super) fn end(&self) -> QueueOffset {
        QueueOffset::new(self.published.len() as u64)
    }

    pub(super) fn key(&self, offset: QueueOffset) -> OrderingKey {
        match self.published[usize::try_from(offset.get()).expect("small")].0 {
            3 => OrderingKey::Alone(offset),
            group => OrderingKey::Group(u64::from(group)),
        }
    }

    pub(super) fn wants(&self, client: usize, offset: QueueOffset) -> bool {
        let tag = ["a", "b", "c", "d"]
            [usize::from(self.published[usize::try_from(offset.get()).expect("small")].1)];
        self.filters[client].matches(Some(tag), |_| None)
    }

    /// What the engine decided alone, and what has to go into the log.
    pub(super) fn log_progress(&mut self) -> Result<(), TestCaseError> {
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
            *expected = ExpectedFlight {
                attempts: expected.attempts.max(MAX_ATTEMPTS),
                blocked: true,
                ..expected.anew()
            };
        }
        Ok(())
    }

    pub(super) fn load_keys(&mut self, request: &ReceiveRequest<'_>) {
        while let Some(wanted) = self.subscription.ordering_keys_wanted(self.now_ms, request) {
            let keys: Vec<OrderingKey> =
                wanted.from.up_to(wanted.end).take(3).map(|offset| self.key(offset)).collect();
            self.subscription.load_ordering_keys(wanted.queue, wanted.from, keys);
        }
    }

    pub(super) fn receive(
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
            self.sweep();
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
                    *expected = ExpectedFlight { attempts, invisible_until_ms, ..expected.anew() };
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
    pub(super) fn subscription_done(&self, offset: QueueOffset) -> bool {
        let mut progress = self.durable.clone();
        let mut copy = self.subscription.clone();
        copy.take_progress().iter().for_each(|change| progress.apply(change));
        progress.is_done(offset)
    }

    /// Any look at the queue prolongs the messages that living clients hold while alive, and blocks those whose last attempt
    /// ended, even behind others of their message group.
    pub(super) fn sweep(&mut self) {
        let (now_ms, blocks) = (self.now_ms, self.policy.exhausted == ExhaustedAction::Block);
        for expected in self.reference.values_mut().filter(|e| !e.done && e.invisible_until_ms <= now_ms) {
            if expected.alive_held {
                expected.invisible_until_ms = now_ms + 60_000;
            } else if blocks && expected.attempts >= MAX_ATTEMPTS && !expected.blocked {
                *expected = ExpectedFlight { attempts: expected.attempts, blocked: true, ..expected.anew() };
            }
        }
    }

    pub(super) fn check_batch(
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
            *self.reference.get_mut(&offset).expect("there") = ExpectedFlight {
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

    /// Everything before it in its message group is done or comes with it, and no client holds a later one. Nothing new comes
    /// while an older one that was handed out is not done.
    pub(super) fn check_order(
        &self,
        offset: QueueOffset,
        before: &[DeliveredMessage],
    ) -> Result<(), TestCaseError> {
        let key = self.key(offset);
        let is_new = !self.reference.get(&offset).is_some_and(|expected| expected.handed);
        for other in QueueOffset::FIRST.up_to(self.end()).filter(|o| *o != offset && self.key(*o) == key) {
            let expected = self.reference.get(&other).cloned().unwrap_or_default();
            let with_it = before.iter().any(|message| message.offset == other);
            prop_assert!(other > offset || expected.done || with_it, "{offset} overtakes {other}");
            let held =
                expected.lease.is_some() && !expected.done && expected.invisible_until_ms > self.now_ms;
            prop_assert!(!held || with_it, "{offset} is handed out while a client holds {other}");
            let undone = other < offset && expected.repeats && !expected.done;
            prop_assert!(
                !(is_new && undone),
                "{offset} is new and comes beside {other}, which was handed out"
            );
        }
        Ok(())
    }

    /// The process dies, or another member takes over: what was logged is all that is known.
    pub(super) fn restart(&mut self) -> Result<(), TestCaseError> {
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
                    return Some((offset, ExpectedFlight { done: true, ..ExpectedFlight::default() }));
                }
                let noted = before.get(&offset).is_some_and(|expected| expected.noted);
                let (attempts, invisible_until_ms) = *attempted.get(&offset).or(noted.then_some(&(0, 0)))?;
                let known =
                    ExpectedFlight { handed: true, repeats: true, noted: true, ..ExpectedFlight::default() };
                Some((offset, ExpectedFlight { attempts, invisible_until_ms, ..known }))
            })
            .collect();
        Ok(())
    }

    pub(super) fn reset(&mut self, offset: QueueOffset) -> Result<(), TestCaseError> {
        let offset = offset.min(self.end());
        self.subscription.reset(0, offset);
        let done = || ExpectedFlight { done: true, ..ExpectedFlight::default() };
        self.reference = QueueOffset::FIRST.up_to(offset).map(|offset| (offset, done())).collect();
        for (_, message) in std::mem::take(&mut self.handles) {
            let lease = lease_of(&message);
            prop_assert_eq!(self.subscription.ack(self.now_ms, &lease), Err(HandleError::Superseded));
            let changed = self.subscription.change_invisible(self.now_ms, &lease, 0, false);
            prop_assert_eq!(changed, Err(HandleError::Superseded));
        }
        Ok(())
    }
}
