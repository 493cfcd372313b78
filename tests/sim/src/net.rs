//! The network: what takes how long, and who cannot reach whom.

use std::collections::BTreeMap;

use kerolox_log::fs::SeededChoices;

use crate::message::{Message, Node};
use crate::swarm::{Swarm, between};

/// Lost packets of a stream are sent again after this time, in microseconds.
const RETRANSMIT: u64 = 200_000;
/// A stream that is broken in one direction goes on in the other one for this time.
const HALF_OPEN: u64 = 1_000_000;

/// Links, each for one direction.
#[derive(Default)]
pub(crate) struct Net {
    blocked: BTreeMap<(Node, Node), u32>,
    slow: BTreeMap<(Node, Node), u64>,
    /// When the newest message of a stream arrives in a direction: the next one comes later.
    streams: BTreeMap<(u64, Node), u64>,
    /// Streams that lost something for good: in which direction, and when the other end notices.
    broken: BTreeMap<u64, (Node, u64)>,
}

impl Net {
    pub(crate) fn block(&mut self, from: Node, to: Node) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    pub(crate) fn unblock(&mut self, from: Node, to: Node) {
        if let Some(times) = self.blocked.get_mut(&(from, to)) {
            *times = times.saturating_sub(1);
        }
    }

    pub(crate) fn slow_down(&mut self, from: Node, to: Node, by: u64) {
        self.slow.insert((from, to), by);
    }

    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.slow.clear();
    }

    pub(crate) fn is_open(&self, from: Node, to: Node) -> bool {
        self.blocked.get(&(from, to)).is_none_or(|times| *times == 0)
    }

    /// Whether each can reach the other.
    pub(crate) fn is_open_both_ways(&self, a: Node, b: Node) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// When a message that is sent `now` arrives, if it does.
    pub(crate) fn arrival(
        &mut self,
        chooser: &mut SeededChoices,
        swarm: &Swarm,
        now: u64,
        (from, to, message): (Node, Node, &Message),
    ) -> Option<u64> {
        let slow = self.slow.get(&(from, to)).copied().unwrap_or(0);
        let mut delay = between(chooser, swarm.latency.0, swarm.latency.1) + slow;
        let is_lost = chooser.chance(swarm.loss, 1000);
        let (Message::FromSlave(stream, _) | Message::FromMaster(stream, _)) = message else {
            return (!is_lost && self.is_open(from, to)).then_some(now + delay);
        };
        if self.broken.get(stream).is_some_and(|(sender, until)| *sender == from || now >= *until) {
            return None;
        }
        if !self.is_open(from, to) {
            self.broken.insert(*stream, (from, now + HALF_OPEN));
            return None;
        }
        if is_lost {
            delay += RETRANSMIT;
        }
        let newest = self.streams.entry((*stream, from)).or_default();
        *newest = (now + delay).max(*newest + 1);
        Some(*newest)
    }
}
