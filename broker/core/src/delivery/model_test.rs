//! The engine against a plain reference, under random sequences of everything that consumers, clocks and crashes do.

mod answers;
mod world;

use proptest::prelude::*;

use super::{DeliveryPolicy, ExhaustedAction};
use crate::queue_offset::QueueOffset;
use world::ModelWorld;

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

impl ModelWorld {
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
    let mut world = ModelWorld::new(policy, filters);
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
