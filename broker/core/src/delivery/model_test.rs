//! The engine against a plain reference, under random receive / ack / change-invisible / give-back / restart sequences.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{HandleError, Held, Lease, Picked, Subscription};
use crate::acks::Acks;
use crate::record::QueueProgress;

const INVISIBLE_MS: u64 = 10_000;

#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    Receive(usize),
    ReceiveAlive(usize),
    Ack(usize),
    Nack(usize, u64),
    GiveBack(usize),
    Sleep(i64),
    ClientDies,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..5).prop_map(Step::Publish),
        6 => (1usize..6).prop_map(Step::Receive),
        2 => (1usize..6).prop_map(Step::ReceiveAlive),
        6 => (0usize..40).prop_map(Step::Ack),
        2 => (0usize..40, 0u64..20_000).prop_map(|(i, ms)| Step::Nack(i, ms)),
        1 => (0usize..40).prop_map(Step::GiveBack),
        4 => (1i64..15_000).prop_map(Step::Sleep),
        1 => Just(Step::ClientDies),
        1 => Just(Step::Restart),
    ]
}

/// What the reference knows of one offset.
#[derive(Debug, Clone, Default)]
struct Expected {
    done: bool,
    attempts: u32,
    invisible_until_ms: i64,
    lease: u64,
    alive_held: bool,
}

impl Expected {
    /// A handle counts while it is current and not expired; where nobody holds the message, the last one given counts.
    fn admits(&self, message: &Picked, now_ms: i64) -> bool {
        if self.lease == 0 {
            return message.attempt >= self.attempts && message.visible_ms > now_ms;
        }
        self.lease == message.lease && (self.invisible_until_ms > now_ms || self.alive_held)
    }
}

struct World {
    now_ms: i64,
    client_alive: bool,
    end: u64,
    subscription: Subscription,
    durable: Acks,
    reference: BTreeMap<u64, Expected>,
    handles: Vec<Picked>,
}

impl World {
    fn new() -> Self {
        let mut subscription = Subscription::new(1, 1, 1);
        subscription.add_queue(0, Acks::default(), 0);
        Self {
            now_ms: 1_000,
            client_alive: true,
            end: 0,
            subscription,
            durable: Acks::default(),
            reference: BTreeMap::new(),
            handles: Vec::new(),
        }
    }

    fn log_progress(&mut self) {
        for progress in self.subscription.take_progress() {
            self.durable.apply(&QueueProgress { ..progress });
        }
    }

    fn receive(&mut self, max: usize, held: Held) -> Result<(), TestCaseError> {
        let alive = self.client_alive;
        let picked = self.subscription.receive(self.now_ms, None, max, held, "c", |_| alive);
        for expected in self.reference.values_mut().filter(|e| e.alive_held && !e.done) {
            if expected.invisible_until_ms <= self.now_ms && alive {
                expected.invisible_until_ms = self.now_ms + 60_000;
            }
        }
        for message in &picked {
            let expected = self.reference.entry(message.offset).or_default();
            prop_assert!(message.offset < self.end, "offset {} was never published", message.offset);
            prop_assert!(!expected.done, "offset {} is done", message.offset);
            prop_assert!(
                expected.invisible_until_ms <= self.now_ms,
                "offset {} is invisible until {} at {}",
                message.offset,
                expected.invisible_until_ms,
                self.now_ms
            );
            prop_assert_eq!(message.attempt, expected.attempts + 1);
            expected.attempts = message.attempt;
            expected.invisible_until_ms = message.visible_ms;
            expected.lease = message.lease;
            expected.alive_held = held == Held::WhileAlive;
        }
        let visible =
            self.reference.values().filter(|e| !e.done && e.invisible_until_ms <= self.now_ms).count();
        let fresh = (0..self.end).filter(|offset| !self.reference.contains_key(offset)).count();
        prop_assert!(
            picked.len() == max || visible + fresh == 0,
            "{visible} visible, {fresh} fresh were held back"
        );
        self.handles.extend(picked);
        Ok(())
    }

    fn lease_of(message: &Picked) -> Lease {
        Lease {
            queue: message.queue,
            offset: message.offset,
            attempt: message.attempt,
            lease: message.lease,
            visible_ms: message.visible_ms,
        }
    }

    fn ack(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some(message) = self.handles.get(index).cloned() else { return Ok(()) };
        let answer = self.subscription.ack(self.now_ms, &Self::lease_of(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        let valid = expected.admits(&message, self.now_ms);
        if expected.done || valid {
            prop_assert_eq!(answer, Ok(()));
            expected.done = true;
        } else {
            prop_assert!(
                matches!(answer, Err(HandleError::Expired | HandleError::Superseded)),
                "{:?}",
                answer
            );
        }
        Ok(())
    }

    fn nack(&mut self, index: usize, ms: u64) -> Result<(), TestCaseError> {
        let Some(message) = self.handles.get(index).cloned() else { return Ok(()) };
        let answer = self.subscription.change_invisible(self.now_ms, &Self::lease_of(&message), ms);
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        let valid = expected.admits(&message, self.now_ms);
        if expected.done {
            prop_assert_eq!(answer, Ok(None));
        } else if valid {
            let lease = answer.expect("a current handle").expect("not done");
            prop_assert_eq!(lease.visible_ms, self.now_ms + i64::try_from(ms).expect("small"));
            *expected = Expected {
                attempts: message.attempt,
                invisible_until_ms: lease.visible_ms,
                lease: lease.lease,
                ..Expected::default()
            };
            self.handles[index] = Picked { lease: lease.lease, visible_ms: lease.visible_ms, ..message };
        } else {
            prop_assert!(answer.is_err());
        }
        Ok(())
    }

    fn give_back(&mut self, index: usize) {
        let Some(message) = self.handles.get(index).cloned() else { return };
        self.subscription.give_back(self.now_ms, std::slice::from_ref(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if !expected.done && expected.lease == message.lease {
            *expected = Expected {
                attempts: message.attempt - 1,
                invisible_until_ms: self.now_ms,
                ..Expected::default()
            };
        }
    }

    /// The process dies: what was logged is all that is known.
    fn restart(&mut self) {
        self.log_progress();
        let base = u64::try_from(self.now_ms).expect("positive") * 1_000_000;
        self.subscription = Subscription::new(1, 1, base);
        self.subscription.add_queue(0, self.durable.clone(), self.end);
        self.handles.clear();
        let durable = &self.durable;
        let attempted: BTreeMap<u64, (u32, i64)> =
            durable.attempted().map(|(offset, attempts, ms)| (offset, (attempts, ms))).collect();
        self.reference = (0..self.end)
            .filter_map(|offset| {
                if durable.is_done(offset) {
                    return Some((offset, Expected { done: true, ..Expected::default() }));
                }
                let (attempts, invisible_until_ms) = *attempted.get(&offset)?;
                Some((offset, Expected { attempts, invisible_until_ms, ..Expected::default() }))
            })
            .collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_engine_agrees_with_the_reference(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Publish(n) => {
                    world.end += n;
                    world.subscription.extend(0, world.end);
                }
                Step::Receive(max) => world.receive(max, Held::For(INVISIBLE_MS))?,
                Step::ReceiveAlive(max) => world.receive(max, Held::WhileAlive)?,
                Step::Ack(index) => world.ack(index)?,
                Step::Nack(index, ms) => world.nack(index, ms)?,
                Step::GiveBack(index) => world.give_back(index),
                Step::Sleep(ms) => world.now_ms += ms,
                Step::ClientDies => {
                    world.subscription.client_left(world.now_ms, "c");
                    for expected in world.reference.values_mut().filter(|e| e.alive_held) {
                        expected.invisible_until_ms = world.now_ms;
                        expected.alive_held = false;
                    }
                }
                Step::Restart => {
                    let done_before: Vec<u64> =
                        world.reference.iter().filter(|(_, e)| e.done).map(|(o, _)| *o).collect();
                    world.restart();
                    for offset in done_before {
                        prop_assert!(world.durable.is_done(offset), "the ack of {} was lost", offset);
                    }
                }
            }
            let open = (0..world.end).filter(|o| !world.reference.get(o).is_some_and(|e| e.done)).count();
            prop_assert_eq!(world.subscription.lag(), open as u64);
        }
        // Liveness: whatever happened, everything can still be received and acknowledged.
        world.now_ms += 10 * 3_600_000;
        world.client_alive = false;
        let rest = world.subscription.receive(world.now_ms, None, usize::MAX, Held::For(1_000), "d", |_| false);
        for message in rest {
            prop_assert_eq!(world.subscription.ack(world.now_ms, &World::lease_of(&message)), Ok(()));
        }
        prop_assert_eq!(world.subscription.lag(), 0);
        world.log_progress();
        prop_assert_eq!(world.durable.committed(), world.end);
    }
}

#[test]
fn a_handle_from_before_a_restart_counts_until_it_is_replaced() {
    let mut before = Subscription::new(1, 1, 100);
    before.add_queue(0, Acks::default(), 2);
    let picked = before.receive(0, Some(0), 2, Held::For(30_000), "c", |_| true);
    let leases: Vec<Lease> = picked.iter().map(World::lease_of).collect();

    let mut after = Subscription::new(1, 1, 1_000_000);
    after.add_queue(0, Acks::default(), 2);
    assert_eq!(after.ack(10, &leases[0]), Ok(()), "not handed out again yet");
    let again = after.receive(20, Some(0), 2, Held::For(30_000), "d", |_| true);
    assert_eq!(again.iter().map(|m| m.offset).collect::<Vec<_>>(), [1]);
    assert_eq!(after.ack(30, &leases[1]), Err(HandleError::Superseded));
    assert_eq!(after.ack(30, &Lease { offset: 7, ..leases[1] }), Err(HandleError::Unknown));
    assert_eq!(after.ack(30, &Lease { lease: u64::MAX, ..leases[1] }), Err(HandleError::Superseded));
}

#[test]
fn what_expires_is_not_handed_out_unless_it_waits_for_another_attempt() {
    let mut subscription = Subscription::new(1, 1, 1);
    subscription.add_queue(0, Acks::default(), 10);
    let picked = subscription.receive(0, Some(0), 3, Held::For(10_000), "c", |_| true);
    let leases: Vec<Lease> = picked.iter().map(World::lease_of).collect();
    assert!(subscription.change_invisible(1, &leases[1], 5_000).is_ok());
    subscription.expire_below(0, 6);
    assert_eq!(subscription.lag(), 5, "offset 1 and the four that are left");
    assert_eq!(subscription.ack(2, &leases[0]), Ok(()), "expired counts as done");
    let rest = subscription.receive(20_000, Some(0), 10, Held::For(10_000), "c", |_| true);
    assert_eq!(
        rest.iter().map(|m| (m.offset, m.attempt)).collect::<Vec<_>>(),
        [(1, 2), (6, 1), (7, 1), (8, 1), (9, 1)]
    );
}

#[test]
fn queues_take_turns() {
    let mut subscription = Subscription::new(1, 1, 1);
    for queue in 0..3 {
        subscription.add_queue(queue, Acks::default(), 5);
    }
    let first = |s: &mut Subscription| s.receive(0, None, 1, Held::For(1_000), "c", |_| true)[0].queue;
    let order: Vec<u32> = (0..6).map(|_| first(&mut subscription)).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}
