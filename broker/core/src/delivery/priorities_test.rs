//! Priorities: rules one by one, and the engine against a plain reference.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, FilterId, LeaseTerm, OrderingKey,
    PriorityFactor, ReceiveRequest,
};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;

const QUEUES: u32 = 4;
const INVISIBLE_MS: i64 = 10_000;

fn factor(percent: u32) -> PriorityFactor {
    PriorityFactor::parse(&percent.to_string()).expect("a percentage")
}

fn subscription(percent: u32, ordered: bool) -> (DeliveryEngine, FilterId) {
    let policy = DeliveryPolicy { priorities: Some(factor(percent)), ordered, ..DeliveryPolicy::default() };
    let mut subscription = DeliveryEngine::new(1, 1, 1, policy);
    for queue in 0..QUEUES {
        subscription.add_queue(queue, QueueAcks::default(), QueueOffset::FIRST);
    }
    let filter = subscription.join(0, "c", &Filter::All);
    (subscription, filter)
}

fn receive(
    subscription: &mut DeliveryEngine,
    filter: FilterId,
    now_ms: i64,
    max: usize,
) -> Vec<DeliveredMessage> {
    let term = LeaseTerm::Fixed(INVISIBLE_MS.unsigned_abs());
    let ask = ReceiveRequest { max, term, client: "c", filter, attempt_id: None };
    while let Some(wanted) = subscription.ordering_keys_wanted(now_ms, &ask) {
        subscription.load_ordering_keys(
            wanted.queue,
            wanted.from,
            wanted.from.up_to(wanted.end).map(OrderingKey::Alone),
        );
    }
    subscription.receive(now_ms, &ask, |_| true)
}

fn queues(picked: &[DeliveredMessage]) -> Vec<u32> {
    picked.iter().map(|message| message.queue).collect()
}

fn lease_of(message: &DeliveredMessage) -> DeliveryHandle {
    let DeliveredMessage { queue, offset, attempt, lease, visible_ms, .. } = *message;
    DeliveryHandle { queue, offset, attempt, lease, visible_ms }
}

#[test]
fn a_higher_priority_comes_first_also_when_it_failed_before() {
    for ordered in [false, true] {
        let (mut subscription, filter) = subscription(100, ordered);
        for (queue, end) in [(0, 2), (1, 1), (3, 2)] {
            subscription.extend(queue, QueueOffset::new(end));
        }
        let first = receive(&mut subscription, filter, 0, 3);
        assert_eq!(queues(&first), [3, 3, 1]);
        for failed in [&first[0], &first[2]] {
            assert!(subscription.change_invisible(1, &lease_of(failed), 0, false).is_ok());
        }
        let second = receive(&mut subscription, filter, 2, 9);
        assert_eq!(queues(&second), [3, 1, 0, 0], "ordered: {ordered}");
        assert_eq!((second[0].attempt, second[1].attempt), (2, 2));
    }
}

#[test]
fn below_100_the_factor_leaves_a_share_to_all() {
    for (percent, high, low) in [(100, 100, 0), (75, 81, 7), (0, 25, 25)] {
        let (mut subscription, filter) = subscription(percent, false);
        for queue in 0..QUEUES {
            subscription.extend(queue, QueueOffset::new(100));
        }
        // The batches do not count: what one receive leaves of a share, the next one gives.
        let picked: Vec<DeliveredMessage> =
            (0..20).flat_map(|_| receive(&mut subscription, filter, 0, 5)).collect();
        let of = |queue| picked.iter().filter(|message| message.queue == queue).count();
        assert_eq!((of(3), of(0)), (high, low), "factor {percent}");
    }
}

#[test]
fn a_queue_that_has_nothing_costs_no_turn() {
    let (mut subscription, filter) = subscription(50, false);
    subscription.extend(1, QueueOffset::new(3));
    subscription.extend(2, QueueOffset::new(3));
    assert_eq!(queues(&receive(&mut subscription, filter, 0, 9)), [2, 1, 2, 2, 1, 1]);
}

/// Waiting messages of the reference: when each is visible, and whether it was handed out before.
type Waiting = BTreeMap<u64, (i64, bool)>;

/// A plain restatement of the rules: the highest queue has the turn, every `100 / (100 - factor)`th one has the next queue
/// in a circle; a queue without anything visible is passed over. Within a queue what failed before comes first.
struct Reference {
    percent: u32,
    taken: u32,
    next: u32,
    queues: BTreeMap<u32, Waiting>,
}

impl Reference {
    fn visible(&self, queue: u32, now_ms: i64) -> Option<u64> {
        let waiting = &self.queues[&queue];
        let failed = waiting.iter().filter(|(_, (ms, failed))| *failed && *ms <= now_ms);
        let fresh = || waiting.iter().find(|(_, (_, failed))| !failed);
        failed.min_by_key(|(offset, (ms, _))| (*ms, **offset)).or_else(fresh).map(|(offset, _)| *offset)
    }

    fn next(&mut self, now_ms: i64) -> Option<(u32, u64)> {
        // The turn for all is where a whole one more of the shares is reached.
        let share = 100 - self.percent;
        let for_all = (self.taken + 1) * share / 100 > self.taken * share / 100;
        let circle = (0..QUEUES).map(|step| (self.next + step) % QUEUES);
        let order: Vec<u32> = if for_all { circle.collect() } else { (0..QUEUES).rev().collect() };
        let (queue, offset) =
            order.into_iter().find_map(|queue| Some((queue, self.visible(queue, now_ms)?)))?;
        if for_all {
            self.next = (queue + 1) % QUEUES;
        }
        self.taken += 1;
        self.queues.get_mut(&queue)?.insert(offset, (now_ms + INVISIBLE_MS, true));
        Some((queue, offset))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u32, u64),
    Receive(usize),
    Ack(usize),
    Nack(usize, u64),
    Sleep(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..QUEUES, 1u64..5).prop_map(|(queue, count)| Step::Publish(queue, count)),
        6 => (1usize..6).prop_map(Step::Receive),
        3 => (0usize..40).prop_map(Step::Ack),
        2 => (0usize..40, 0u64..9_000).prop_map(|(index, ms)| Step::Nack(index, ms)),
        2 => (1i64..9_000).prop_map(Step::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn turns_are_those_of_the_reference(percent in 0u32..=100, steps in prop::collection::vec(step(), 1..80)) {
        let (mut subscription, filter) = subscription(percent, false);
        let queues = (0..QUEUES).map(|queue| (queue, Waiting::new())).collect();
        let mut reference = Reference { percent, taken: 0, next: 0, queues };
        let mut ends = [0; QUEUES as usize];
        let (mut now_ms, mut held) = (0, Vec::<DeliveredMessage>::new());
        for step in steps {
            match step {
                Step::Publish(queue, count) => {
                    let end = &mut ends[queue as usize];
                    let waiting = reference.queues.get_mut(&queue).expect("known");
                    waiting.extend((*end..*end + count).map(|offset| (offset, (0, false))));
                    *end += count;
                    subscription.extend(queue, QueueOffset::new(*end));
                }
                Step::Receive(max) => {
                    let picked = receive(&mut subscription, filter, now_ms, max);
                    let got: Vec<_> = picked.iter().map(|message| (message.queue, message.offset.get())).collect();
                    let expected: Vec<_> = std::iter::from_fn(|| reference.next(now_ms)).take(max).collect();
                    prop_assert_eq!(got, expected);
                    held.extend(picked);
                }
                Step::Ack(index) if !held.is_empty() => {
                    let message = held.swap_remove(index % held.len());
                    if subscription.ack(now_ms, &lease_of(&message)).is_ok() {
                        reference.queues.get_mut(&message.queue).expect("known").remove(&message.offset.get());
                    }
                }
                Step::Nack(index, ms) if !held.is_empty() => {
                    let message = held.swap_remove(index % held.len());
                    if let Ok(Some(lease)) = subscription.change_invisible(now_ms, &lease_of(&message), ms, true) {
                        let waiting = reference.queues.get_mut(&message.queue).expect("known");
                        waiting.insert(message.offset.get(), (lease.visible_ms, true));
                    }
                }
                Step::Sleep(ms) => now_ms += ms,
                Step::Ack(_) | Step::Nack(..) => {}
            }
        }
    }
}
