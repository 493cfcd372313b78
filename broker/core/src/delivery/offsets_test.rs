//! Where a group starts, stands, and is set to.

use super::{
    BacklogCounts, DeliveredMessage, DeliveryEngine, DeliveryHandle, DeliveryPolicy, HandleError, LeaseTerm,
    QueuePosition, ReceiveRequest,
};
use crate::acks::QueueAcks;
use crate::filter::Filter;
use crate::queue_offset::QueueOffset;

fn receive(subscription: &mut DeliveryEngine, now_ms: i64, max: usize) -> Vec<DeliveredMessage> {
    let filter = subscription.join(now_ms, "c", &Filter::All);
    let ask = ReceiveRequest { max, term: LeaseTerm::Fixed(30_000), client: "c", filter, attempt_id: None };
    subscription.receive(now_ms, &ask, |_| true)
}

fn lease_of(message: &DeliveredMessage) -> DeliveryHandle {
    let DeliveredMessage { queue, offset, attempt, lease, visible_ms, .. } = *message;
    DeliveryHandle { queue, offset, attempt, lease, visible_ms }
}

#[test]
fn a_reset_is_logged_and_outlives_a_restart() {
    let mut before = DeliveryEngine::new(1, 1, 100, DeliveryPolicy::default());
    before.add_queue(0, QueueAcks::default(), QueueOffset::new(5));
    let picked = receive(&mut before, 0, 3);
    assert_eq!(before.ack(1, &lease_of(&picked[0])), Ok(()));
    before.reset(0, QueueOffset::new(2));
    assert_eq!(before.ack(1, &lease_of(&picked[0])), Err(HandleError::Superseded), "done, but void");
    let progress = before.take_progress();
    assert_eq!((progress[0].reset_to, &*progress[0].acked), (Some(2), &[][..]));
    assert!(before.take_progress().is_empty());

    let mut durable = QueueAcks::default();
    durable.apply(&progress[0]);
    // The clock may have been set back since.
    for lease_base in [1, 1_000_000] {
        let mut after = DeliveryEngine::new(1, 1, lease_base, DeliveryPolicy::default());
        after.add_queue(0, durable.clone(), QueueOffset::new(5));
        assert_eq!(after.ack(2, &lease_of(&picked[2])), Err(HandleError::Superseded));
        let again = receive(&mut after, 2, 9);
        assert_eq!(
            again.iter().map(|m| (m.offset.get(), m.attempt)).collect::<Vec<_>>(),
            [(2, 1), (3, 1), (4, 1)]
        );
        assert_eq!(after.ack(3, &lease_of(&again[0])), Ok(()));
    }
}

#[test]
fn where_a_group_starts_is_logged() {
    let mut subscription = DeliveryEngine::new(1, 1, 1, DeliveryPolicy::default());
    subscription.begin_queue(0, QueueOffset::new(7), QueueOffset::new(9));
    let progress = subscription.take_progress();
    assert_eq!((progress[0].reset_to, progress[0].void_leases), (Some(7), 0));
    let counts = BacklogCounts { lag: 2, ready: 2, ..BacklogCounts::default() };
    assert_eq!(
        subscription.positions(0)[&0],
        QueuePosition { committed: QueueOffset::new(7), end: QueueOffset::new(9), counts }
    );
}

#[test]
fn standings_tell_who_has_what() {
    let mut subscription = DeliveryEngine::new(1, 1, 1, DeliveryPolicy::default());
    subscription.add_queue(0, QueueAcks::default(), QueueOffset::new(10));
    let picked = receive(&mut subscription, 0, 5);
    let leases: Vec<DeliveryHandle> = picked.iter().map(lease_of).collect();
    subscription.ack(1, &leases[0]).unwrap();
    subscription.ack(1, &leases[2]).unwrap();
    subscription.change_invisible(1, &leases[1], 50_000, false).unwrap();
    let counts = BacklogCounts { lag: 8, ready: 5, in_flight: 2, waiting: 1, blocked: 0 };
    assert_eq!(
        subscription.positions(2)[&0],
        QueuePosition { committed: QueueOffset::new(1), end: QueueOffset::new(10), counts }
    );
    subscription.reset(0, QueueOffset::new(4));
    let counts = BacklogCounts { lag: 6, ready: 6, ..BacklogCounts::default() };
    assert_eq!(
        subscription.positions(2)[&0],
        QueuePosition { committed: QueueOffset::new(4), end: QueueOffset::new(10), counts }
    );
}
