//! Routes of topics, and the choice of a queue. Pure: the addresses come from elsewhere, nothing is called.

use crate::address::Endpoints;
use kerolox_proto::v2;
use std::hash::Hasher as _;
#[expect(deprecated, reason = "it is SipHash-2-4, which RocketMQ's Java SDK hashes message groups with")]
use std::hash::SipHasher;

/// One queue of a topic on one broker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queue {
    /// As the server described it; sent back with receive requests.
    pub(crate) wire: v2::MessageQueue,
    pub(crate) broker: String,
    pub(crate) endpoints: Endpoints,
}

impl Queue {
    /// `None` when the broker or its addresses are missing: such a queue cannot be used.
    pub(crate) fn from_wire(wire: v2::MessageQueue) -> Option<Self> {
        let broker = wire.broker.as_ref()?;
        let endpoints = Endpoints::from_wire(broker.endpoints.as_ref()?)?;
        Some(Self { broker: broker.name.clone(), endpoints, wire })
    }

    pub(crate) fn id(&self) -> i32 {
        self.wire.id
    }

    fn is_on_master(&self) -> bool {
        self.wire.broker.as_ref().is_some_and(|broker| broker.id == 0)
    }

    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.wire.permission(), v2::Permission::Read | v2::Permission::ReadWrite)
    }

    fn is_writable(&self) -> bool {
        self.is_on_master()
            && matches!(self.wire.permission(), v2::Permission::Write | v2::Permission::ReadWrite)
    }
}

/// Where a topic's messages go.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Route {
    queues: Vec<Queue>,
}

/// Which queues a message may go to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target<'a> {
    /// Any, in turn.
    Any,
    /// The queue of a message group, always the same one while the route does not change.
    Group(&'a str),
    /// Any queue of a broker, or one of them.
    Broker { name: &'a str, queue: Option<i32> },
}

impl Route {
    pub(crate) fn from_wire(queues: Vec<v2::MessageQueue>) -> Self {
        Self { queues: queues.into_iter().filter_map(Queue::from_wire).collect() }
    }

    pub(crate) fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The addresses of the broker group `name`, when it still serves the topic.
    pub(crate) fn endpoints_of(&self, name: &str) -> Option<&Endpoints> {
        self.queues.iter().find(|queue| queue.broker == name).map(|queue| &queue.endpoints)
    }

    /// Chooses the queue to send to. Among the queues of the target those with the smallest `penalty` take turns: `turn`
    /// grows by one from call to call. A message group keeps its queue whatever the penalty, because order depends on it.
    pub(crate) fn pick(
        &self,
        target: Target<'_>,
        turn: usize,
        penalty: impl Fn(&Queue) -> u8,
    ) -> Option<&Queue> {
        let writable = self.queues.iter().filter(|queue| queue.is_writable());
        let candidates: Vec<&Queue> = match target {
            Target::Any => writable.collect(),
            Target::Group(group) => {
                let queues: Vec<&Queue> = writable.collect();
                return (!queues.is_empty()).then(|| queues[group_slot(group, queues.len())]);
            }
            Target::Broker { name, queue } => {
                writable.filter(|q| q.broker == name && queue.is_none_or(|id| q.id() == id)).collect()
            }
        };
        let least = candidates.iter().map(|queue| penalty(queue)).min()?;
        let best: Vec<&Queue> = candidates.into_iter().filter(|queue| penalty(queue) == least).collect();
        Some(best[turn % best.len()])
    }
}

/// The queue of a message group, computed as RocketMQ's Java SDK does, so that writers in both languages agree.
fn group_slot(group: &str, queues: usize) -> usize {
    #[expect(deprecated, reason = "see the import")]
    let mut hasher = SipHasher::new_with_keys(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    hasher.write(group.as_bytes());
    let hash = hasher.finish().cast_signed();
    let queues = i64::try_from(queues).expect("a route has far fewer queues");
    usize::try_from(hash.rem_euclid(queues)).expect("the remainder is smaller than the number of queues")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_addresses;

    fn queue(broker: &str, id: i32, broker_id: i32, permission: v2::Permission) -> v2::MessageQueue {
        let endpoints = Endpoints::new(parse_addresses(&format!("{broker}:8081")).unwrap()).unwrap();
        v2::MessageQueue {
            topic: None,
            id,
            permission: permission.into(),
            broker: Some(v2::Broker {
                name: broker.into(),
                id: broker_id,
                endpoints: Some(endpoints.to_wire()),
            }),
            accept_message_types: vec![],
        }
    }

    fn two_brokers() -> Route {
        use v2::Permission::{Read, ReadWrite};
        Route::from_wire(vec![
            queue("a", 0, 0, ReadWrite),
            queue("a", 1, 0, ReadWrite),
            queue("b", 0, 0, ReadWrite),
            queue("b", 1, 0, Read),
            queue("c", 0, 1, ReadWrite),
            v2::MessageQueue::default(),
        ])
    }

    fn picks(route: &Route, target: Target<'_>, penalty: impl Fn(&Queue) -> u8 + Copy) -> Vec<String> {
        (0..4)
            .filter_map(|turn| route.pick(target, turn, penalty).map(|q| format!("{}{}", q.broker, q.id())))
            .collect()
    }

    #[test]
    fn writable_master_queues_take_turns() {
        assert_eq!(picks(&two_brokers(), Target::Any, |_| 0), ["a0", "a1", "b0", "a0"]);
    }

    #[test]
    fn penalised_brokers_are_avoided_while_there_are_others() {
        let route = two_brokers();
        assert_eq!(picks(&route, Target::Any, |q| u8::from(q.broker == "a")), ["b0"; 4]);
        assert_eq!(picks(&route, Target::Any, |_| 7), ["a0", "a1", "b0", "a0"]);
    }

    #[test]
    fn a_named_broker_and_queue_are_respected() {
        let route = two_brokers();
        assert_eq!(picks(&route, Target::Broker { name: "a", queue: None }, |_| 0), ["a0", "a1", "a0", "a1"]);
        assert_eq!(picks(&route, Target::Broker { name: "a", queue: Some(1) }, |_| 0), ["a1"; 4]);
        assert!(picks(&route, Target::Broker { name: "b", queue: Some(1) }, |_| 0).is_empty(), "read only");
        assert!(picks(&Route::default(), Target::Any, |_| 0).is_empty());
    }

    #[test]
    fn a_message_group_stays_on_its_queue() {
        let route = two_brokers();
        let chosen = picks(&route, Target::Group("customer-7"), |q| u8::from(q.broker == "a"));
        assert_eq!(chosen.len(), 4);
        assert!(chosen.iter().all(|queue| *queue == chosen[0]));
        let spread: std::collections::HashSet<usize> =
            (0..50).map(|i| group_slot(&format!("g{i}"), 3)).collect();
        assert_eq!(spread.len(), 3);
    }

    #[test]
    fn the_group_hash_is_siphash_2_4() {
        // First reference vector of SipHash-2-4 with the key 00 01 .. 0f: the empty input gives 726fdb47dd0e0e31.
        let hash = 0x726f_db47_dd0e_0e31_u64.cast_signed();
        assert_eq!(group_slot("", 1000), usize::try_from(hash.rem_euclid(1000)).unwrap());
    }
}
