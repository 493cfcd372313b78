//! Rules of the engine, one by one.

use super::{
    DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, ExhaustedAction, FilterId,
    FilterResult, HandleError, LeaseId, LeaseTerm, MessageFate, OrderingKey, ReceiveRequest,
};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;
use crate::record::DeadReason;

fn subscription(policy: DeliveryPolicy, ends: &[u64]) -> (DeliveryEngine, FilterId) {
    started(1, policy, ends, &QueueAcks::default())
}

fn started(
    lease_base: u64,
    policy: DeliveryPolicy,
    ends: &[u64],
    acks: &QueueAcks,
) -> (DeliveryEngine, FilterId) {
    let mut subscription = DeliveryEngine::new(1, 1, lease_base, policy);
    for (queue, end) in (0..).zip(ends) {
        subscription.add_queue(queue, acks.clone(), QueueOffset::new(*end));
    }
    let filter = subscription.join(0, "c", &Filter::All);
    (subscription, filter)
}

fn ask(max: usize, filter: FilterId) -> ReceiveRequest<'static> {
    ReceiveRequest { max, term: LeaseTerm::Fixed(10_000), client: "c", filter, attempt_id: None }
}

fn receive(
    subscription: &mut DeliveryEngine,
    now_ms: i64,
    max: usize,
    filter: FilterId,
) -> Vec<DeliveredMessage> {
    subscription.receive(now_ms, &ask(max, filter), |_| true)
}

fn lease_of(message: &DeliveredMessage) -> DeliveryHandle {
    let DeliveredMessage { queue, offset, attempt, lease, visible_ms, .. } = *message;
    DeliveryHandle { queue, offset, attempt, lease, visible_ms }
}

fn offsets(picked: &[DeliveredMessage]) -> Vec<u64> {
    picked.iter().map(|message| message.offset.get()).collect()
}

#[test]
fn a_handle_from_before_a_restart_counts_until_it_is_replaced() {
    let (mut before, filter) = subscription(DeliveryPolicy::default(), &[2]);
    let picked = receive(&mut before, 0, 2, filter);
    let leases: Vec<DeliveryHandle> = picked.iter().map(lease_of).collect();
    let (mut after, filter) = started(1_000_000, DeliveryPolicy::default(), &[2], &QueueAcks::default());
    assert_eq!(after.ack(10, &leases[0]), Ok(()), "not handed out again yet");
    assert_eq!(offsets(&receive(&mut after, 20, 2, filter)), [1]);
    assert_eq!(after.ack(30, &leases[1]), Err(HandleError::Superseded));
    assert_eq!(
        after.ack(30, &DeliveryHandle { offset: QueueOffset::new(7), ..leases[1] }),
        Err(HandleError::Unknown)
    );
    assert_eq!(
        after.ack(30, &DeliveryHandle { lease: LeaseId::new(u64::MAX), ..leases[1] }),
        Err(HandleError::Superseded)
    );
}

#[test]
fn what_expires_is_not_handed_out_unless_it_waits_for_another_attempt() {
    for ordered in [false, true] {
        let (mut subscription, filter) =
            subscription(DeliveryPolicy { ordered, ..DeliveryPolicy::default() }, &[10]);
        load_keys(&mut subscription, filter, OrderingKey::Alone);
        let picked = receive(&mut subscription, 0, 3, filter);
        assert!(subscription.change_invisible(1, &lease_of(&picked[1]), 5_000, false).is_ok());
        subscription.expire_below(0, QueueOffset::new(6));
        assert_eq!(subscription.counts(1)[&0].lag, 5, "offset 1 and the four that are left");
        assert_eq!(subscription.ack(2, &lease_of(&picked[0])), Ok(()), "expired counts as done");
        let rest = receive(&mut subscription, 20_000, 10, filter);
        let attempts: Vec<(u64, u32)> = rest.iter().map(|m| (m.offset.get(), m.attempt)).collect();
        assert_eq!(attempts, [(1, 2), (6, 1), (7, 1), (8, 1), (9, 1)]);
    }
}

/// Its record is read outside the engine's lock, so it may expire in between.
#[test]
fn what_expires_while_its_filter_is_evaluated_is_not_kept_for_others() {
    let (mut subscription, filter) = subscription(DeliveryPolicy::default(), &[2]);
    let other = subscription.join(0, "d", &Filter::tags("b").unwrap());
    let picked = receive(&mut subscription, 0, 1, filter);
    subscription.expire_below(0, QueueOffset::new(1));
    let results = [FilterResult::WantedBy(vec![other])];
    assert_eq!(subscription.apply_filter_results(1, picked, &results), []);
    let request = ReceiveRequest { client: "d", ..ask(9, other) };
    assert_eq!(
        offsets(&subscription.receive(2, &request, |_| true)),
        [1],
        "the expired one does not come back"
    );
}

fn load_keys(subscription: &mut DeliveryEngine, filter: FilterId, key: impl Fn(QueueOffset) -> OrderingKey) {
    load_keys_up_to(subscription, filter, key, 100);
}

fn load_keys_up_to(
    subscription: &mut DeliveryEngine,
    filter: FilterId,
    key: impl Fn(QueueOffset) -> OrderingKey,
    max: usize,
) {
    while let Some(wanted) = subscription.ordering_keys_wanted(0, &ask(max, filter)) {
        let keys: Vec<OrderingKey> = wanted.from.up_to(wanted.end).map(&key).collect();
        subscription.load_ordering_keys(wanted.queue, wanted.from, keys);
    }
}

#[test]
fn a_message_has_a_fate_at_every_moment() {
    let (mut subscription, filter) = subscription(
        DeliveryPolicy {
            ordered: true,
            max_attempts: 2,
            exhausted: ExhaustedAction::Block,
            ..DeliveryPolicy::default()
        },
        &[4],
    );
    load_keys(&mut subscription, filter, |offset| OrderingKey::Group(offset.get() % 2));
    let fate = |subscription: &DeliveryEngine, now_ms, offset| {
        subscription.fate(now_ms, 0, QueueOffset::new(offset)).unwrap()
    };
    assert_eq!(fate(&subscription, 0, 0), MessageFate::Ready { attempts: 0, ahead: 0 });
    assert_eq!(
        fate(&subscription, 0, 3),
        MessageFate::Behind { front: QueueOffset::new(1), is_blocked: false, client: String::new() }
    );
    let first = receive(&mut subscription, 0, 1, filter).remove(0);
    let held = MessageFate::InFlight { client: "c".into(), attempt: 1, until_ms: 10_000, while_alive: false };
    assert_eq!(fate(&subscription, 1, 0), held);
    assert_eq!(
        fate(&subscription, 1, 2),
        MessageFate::Behind { front: QueueOffset::new(0), is_blocked: false, client: "c".into() }
    );
    subscription.change_invisible(1, &lease_of(&first), 5_000, false).unwrap();
    assert_eq!(fate(&subscription, 1, 0), MessageFate::Waiting { attempts: 1, until_ms: 5_001 });
    let second = receive(&mut subscription, 5_001, 10, filter)
        .into_iter()
        .find(|picked| picked.offset == QueueOffset::FIRST)
        .unwrap();
    subscription.give_up(5_002, &lease_of(&second)).unwrap();
    assert_eq!(fate(&subscription, 5_002, 0), MessageFate::Blocked { attempts: 2 });
    assert_eq!(
        fate(&subscription, 90_000, 2),
        MessageFate::Behind { front: QueueOffset::new(0), is_blocked: true, client: String::new() }
    );
    subscription.bury_blocked(0, QueueOffset::FIRST);
    assert_eq!(fate(&subscription, 90_000, 0), MessageFate::Done);
    assert_eq!(subscription.fate(0, 7, QueueOffset::FIRST), None);
}

#[test]
fn queues_take_turns() {
    let (mut subscription, filter) = subscription(DeliveryPolicy::default(), &[5, 5, 5]);
    let order: Vec<u32> = (0..6).map(|_| receive(&mut subscription, 0, 1, filter)[0].queue).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_group_has_no_more_in_flight_than_it_may() {
    let (mut subscription, filter) =
        subscription(DeliveryPolicy { in_flight_max: 3, ..DeliveryPolicy::default() }, &[10]);
    let picked = receive(&mut subscription, 0, 5, filter);
    assert_eq!(offsets(&picked), [0, 1, 2]);
    assert!(receive(&mut subscription, 1, 5, filter).is_empty());
    assert_eq!(subscription.ack(2, &lease_of(&picked[1])), Ok(()));
    assert_eq!(offsets(&receive(&mut subscription, 3, 5, filter)), [3]);
    assert_eq!(offsets(&receive(&mut subscription, 10_000, 5, filter)), [0, 2], "those count already");
}

#[test]
fn the_last_failure_ends_a_message_when_its_time_is_over_and_not_before() {
    let (mut subscription, filter) =
        subscription(DeliveryPolicy { max_attempts: 1, ..DeliveryPolicy::default() }, &[1]);
    let picked = receive(&mut subscription, 0, 1, filter);
    let longer = subscription.change_invisible(5, &lease_of(&picked[0]), 50_000, false);
    assert!(matches!(longer, Ok(Some(_))), "the last attempt may take longer, too");
    assert_eq!(subscription.next_event_ms(5), Some(50_005));
    subscription.sweep(50_004, |_| true);
    assert!(subscription.take_exhausted().is_empty());
    subscription.sweep(50_005, |_| true);
    let dead = subscription.take_exhausted();
    assert_eq!((dead[0].offset.get(), dead[0].attempts, dead[0].reason), (0, 1, DeadReason::Exhausted));
    assert_eq!(subscription.counts(50_006)[&0].lag, 0);
    subscription.reopen(50_010, 0, QueueOffset::FIRST, OrderingKey::Alone(QueueOffset::FIRST));
    let again = receive(&mut subscription, 50_010, 1, filter);
    assert_eq!((again[0].offset.get(), again[0].attempt), (0, 1));
}

/// Messages 1 and 2 of one message group were handed out with 0 and are done, 3 and 4 are new.
#[test]
fn nothing_new_of_a_message_group_comes_beside_what_is_repeated() {
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    for fails in [
        |subscription: &mut DeliveryEngine, lease: &DeliveryHandle| {
            subscription.change_invisible(2, lease, 5_000, false).map(drop)
        },
        |subscription: &mut DeliveryEngine, lease: &DeliveryHandle| {
            subscription.change_invisible(2, lease, 5_000, true).map(drop)
        },
        |_: &mut DeliveryEngine, _: &DeliveryHandle| Ok(()),
    ] {
        for restarts in [false, true] {
            let (mut subscription, mut filter) = subscription(policy, &[3]);
            load_keys(&mut subscription, filter, |_| OrderingKey::Group(7));
            let first = receive(&mut subscription, 0, 3, filter);
            assert_eq!(offsets(&first), [0, 1, 2]);
            for message in first[1..].iter().rev() {
                assert_eq!(subscription.ack(1, &lease_of(message)), Ok(()));
            }
            assert_eq!(fails(&mut subscription, &lease_of(&first[0])), Ok(()));
            if restarts {
                let mut acks = QueueAcks::default();
                subscription.take_progress().iter().for_each(|progress| acks.apply(progress));
                (subscription, filter) = started(1_000_000, policy, &[5], &acks);
            }
            subscription.extend(0, QueueOffset::new(5));
            let mut next = |now_ms| {
                load_keys(&mut subscription, filter, |_| OrderingKey::Group(7));
                let picked = receive(&mut subscription, now_ms, 9, filter);
                let leases: Vec<DeliveryHandle> = picked.iter().map(lease_of).collect();
                assert!(leases.iter().all(|lease| subscription.ack(now_ms, lease).is_ok()));
                offsets(&picked)
            };
            assert_eq!(next(3), [0; 0]);
            assert_eq!(next(10_000), [0]);
            assert_eq!(next(10_001), [3, 4]);
        }
    }
}

#[test]
fn a_blocked_message_stays_blocked_under_rules_that_block_and_goes_on_under_others() {
    let policy =
        DeliveryPolicy { max_attempts: 1, exhausted: ExhaustedAction::Block, ..DeliveryPolicy::default() };
    let (mut subscription, filter) = subscription(policy, &[1]);
    let held = receive(&mut subscription, 0, 1, filter).remove(0);
    assert_eq!(subscription.give_up(1, &lease_of(&held)), Ok(true));
    let blocked = MessageFate::Blocked { attempts: 1 };
    for ordered in [true, false] {
        subscription.set_policy(DeliveryPolicy { ordered, ..policy });
        assert_eq!(subscription.fate(2, 0, QueueOffset::FIRST), Some(blocked.clone()));
        assert_eq!(subscription.ack(2, &lease_of(&held)), Err(HandleError::Superseded));
    }
    subscription.set_policy(DeliveryPolicy { max_attempts: 2, ..policy });
    assert_eq!(receive(&mut subscription, 10_000, 1, filter)[0].attempt, 2);
}

/// The engine looked at the message for a member that does not want it, and no consumer had it.
#[test]
fn what_was_kept_for_another_member_stays_new_when_something_behind_it_is_done() {
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let key = |offset: QueueOffset| OrderingKey::Group(if offset.get() < 2 { 7 } else { 8 });
    let (mut subscription, filter) = subscription(policy, &[3]);
    let other = subscription.join(0, "d", &Filter::tags("b").unwrap());
    load_keys(&mut subscription, filter, key);
    let picked = receive(&mut subscription, 0, 3, filter);
    let results = [FilterResult::Wanted, FilterResult::WantedBy(vec![other]), FilterResult::Wanted];
    let wanted = subscription.apply_filter_results(0, picked, &results);
    assert_eq!(offsets(&wanted), [0, 2]);
    // The engine looks at everything again, and does not know the third message's group yet.
    subscription.set_policy(DeliveryPolicy { in_flight_max: 50, ..policy });
    assert_eq!(subscription.ack(1, &lease_of(&wanted[1])), Ok(()));
    load_keys(&mut subscription, filter, key);
    assert_eq!(offsets(&receive(&mut subscription, 20_000, 3, filter)), [0], "the second one waits for it");
}

/// A handle from before a restart finishes a message before the engine has looked at its message group.
#[test]
fn what_is_done_by_a_handle_from_before_a_restart_was_handed_out_with_what_is_in_front_of_it() {
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let (mut before, filter) = subscription(policy, &[3]);
    load_keys(&mut before, filter, |_| OrderingKey::Group(7));
    let first = receive(&mut before, 0, 3, filter);
    let (mut after, filter) = started(1_000_000, policy, &[5], &QueueAcks::default());
    assert_eq!(after.ack(1, &lease_of(&first[1])), Ok(()));
    assert_eq!(after.ack(1, &lease_of(&first[2])), Ok(()));
    // Step by step: the engine looks at done messages too, wherever a step ends.
    while let Some(wanted) = after.ordering_keys_wanted(0, &ask(9, filter)) {
        after.load_ordering_keys(wanted.queue, wanted.from, [OrderingKey::Group(7)]);
    }
    let repeated = receive(&mut after, 2, 9, filter);
    assert_eq!(offsets(&repeated), [0]);
    assert_eq!(after.ack(3, &lease_of(&repeated[0])), Ok(()));
    assert_eq!(offsets(&receive(&mut after, 4, 9, filter)), [3, 4]);
}

#[test]
fn a_suspended_delivery_is_no_attempt() {
    let (mut subscription, filter) = subscription(DeliveryPolicy::default(), &[1]);
    let picked = receive(&mut subscription, 0, 1, filter);
    assert!(subscription.change_invisible(1, &lease_of(&picked[0]), 100, true).is_ok());
    assert_eq!(receive(&mut subscription, 101, 1, filter)[0].attempt, 1);
}

#[test]
fn a_reset_forgets_attempts_and_handles() {
    for exhausted in [ExhaustedAction::DeadLetter, ExhaustedAction::Block] {
        let (mut subscription, filter) =
            subscription(DeliveryPolicy { exhausted, ..DeliveryPolicy::default() }, &[4]);
        let picked = receive(&mut subscription, 0, 3, filter);
        assert_eq!(subscription.ack(1, &lease_of(&picked[0])), Ok(()));
        assert!(subscription.change_invisible(1, &lease_of(&picked[1]), 100, false).is_ok());
        subscription.reset(0, QueueOffset::FIRST);
        assert_eq!(subscription.ack(2, &lease_of(&picked[2])), Err(HandleError::Superseded));
        let again = receive(&mut subscription, 2, 9, filter);
        assert_eq!(offsets(&again), [0, 1, 2, 3]);
        assert!(again.iter().all(|message| message.attempt == 1));
        let progress = subscription.take_progress();
        assert_eq!((progress[0].reset_to, progress[0].acked.len()), (Some(0), 0));
    }
}

#[test]
fn what_an_announced_member_wants_waits_for_it_and_does_not_hold_others_up() {
    for ordered in [false, true] {
        let policy = DeliveryPolicy { ordered, lookahead_max: 2, ..DeliveryPolicy::default() };
        let (mut subscription, all) = subscription(policy, &[6]);
        let tags = |text: &str| Filter::tags(text).expect("legal");
        subscription.announce(&[Filter::All, tags("blue"), tags("blue || red")]);
        let others = subscription.other_filters(all);
        let ids = |wanted: &[&str]| -> Vec<FilterId> {
            let wants = |filter: &Filter| wanted.iter().any(|text| *filter == tags(text));
            others.iter().filter(|(_, filter)| wants(filter)).map(|(id, _)| *id).collect()
        };
        let (blue, both) = (ids(&["blue"]), ids(&["blue", "blue || red"]));
        assert_eq!((blue.len(), both.len()), (1, 2));
        // Offsets 0 to 3 are for the members that have not asked yet, the first two for any of them.
        for offset in 0..4 {
            load_keys_up_to(&mut subscription, all, OrderingKey::Alone, 1);
            let picked = receive(&mut subscription, 0, 1, all);
            assert_eq!(offsets(&picked), [offset]);
            let wanted = FilterResult::WantedBy(if offset < 2 { both.clone() } else { blue.clone() });
            assert!(subscription.apply_filter_results(0, picked, &[wanted]).is_empty());
        }
        load_keys_up_to(&mut subscription, all, OrderingKey::Alone, 2);
        assert_eq!(offsets(&receive(&mut subscription, 1, 2, all)), [4, 5], "ordered: {ordered}");
        // One interested member is enough.
        let late = subscription.join(2, "d", &tags("red || blue"));
        assert_eq!(offsets(&receive(&mut subscription, 2, 9, late)), [0, 1]);
        // It leaves before it has ever asked.
        subscription.announce(&[Filter::All, tags("blue || red")]);
        subscription.sweep(5_001, |_| true);
        assert_eq!(offsets(&receive(&mut subscription, 5_001, 9, all)), [2, 3]);
    }
}

#[test]
fn nothing_is_done_unread_before_all_members_are_known() {
    for ordered in [false, true] {
        let (mut subscription, filter) =
            subscription(DeliveryPolicy { ordered, ..DeliveryPolicy::default() }, &[2]);
        subscription.hold_back();
        load_keys(&mut subscription, filter, OrderingKey::Alone);
        let picked = receive(&mut subscription, 0, 2, filter);
        let verdicts = [FilterResult::Unwanted, FilterResult::Wanted];
        assert_eq!(offsets(&subscription.apply_filter_results(0, picked, &verdicts)), [1]);
        assert!(receive(&mut subscription, 1, 2, filter).is_empty());
        assert_eq!(subscription.counts(1)[&0].lag, 2);
        subscription.settle(2);
        let picked = receive(&mut subscription, 2, 2, filter);
        assert_eq!((offsets(&picked), picked[0].attempt), (vec![0], 1));
        subscription.apply_filter_results(2, picked, &[FilterResult::Unwanted]);
        assert_eq!(subscription.counts(2)[&0].lag, 1);
    }
}

#[test]
fn what_only_others_want_waits_for_them_and_for_nobody_who_is_gone() {
    let (mut subscription, all) = subscription(DeliveryPolicy::default(), &[2]);
    let other = subscription.join(0, "d", &Filter::tags("blue").expect("legal"));
    let picked = receive(&mut subscription, 0, 2, all);
    let kept = subscription.apply_filter_results(
        0,
        picked,
        &[FilterResult::WantedBy(vec![other]), FilterResult::Wanted],
    );
    assert_eq!(offsets(&kept), [1]);
    assert!(receive(&mut subscription, 1, 2, all).is_empty());
    // Its members left long ago: the messages that were kept for them are for all.
    subscription.sweep(super::MEMBER_FORGOTTEN_MS, |client| client == "c");
    // The other one was visible again before.
    assert_eq!(offsets(&receive(&mut subscription, super::MEMBER_FORGOTTEN_MS, 2, all)), [1, 0]);
}
