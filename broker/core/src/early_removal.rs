//! Early removal of old segments, and the messages that consumer groups lose by it.
//!
//! Segments are removed early only where the operator allowed it, with `retention.remove-early` or `retention.log-size`.
//! The losses are counted, so that a group's owner learns of them from more than a gap in the offsets.

use std::collections::BTreeMap;
use std::fmt;

use crate::record::QueueState;

/// Groups and topics that a log line or a health check names; the rest are counted.
const NAMED: usize = 5;

/// The place of a loss: the group, or the member of a broadcast group, the topic and its queue. The parts of lite topics count
/// together, as queue 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LossPlace {
    /// Name of the consumer group.
    pub group: String,
    /// Client id of the member of a broadcast group; otherwise empty.
    pub member: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the queue.
    pub queue: u32,
}

/// Numbers of messages that were removed before a group had finished them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnreadLosses(pub BTreeMap<LossPlace, u64>);

impl UnreadLosses {
    /// Counts messages that went unread at a place.
    pub fn add(&mut self, place: LossPlace, messages: u64) {
        if messages > 0 {
            *self.0.entry(place).or_default() += messages;
        }
    }

    /// Adds the losses of another check.
    pub fn absorb(&mut self, unread: &Self) {
        unread.0.iter().for_each(|(place, messages)| self.add(place.clone(), *messages));
    }

    /// Messages lost unread at a place.
    pub fn at(&self, place: &LossPlace) -> u64 {
        self.0.get(place).copied().unwrap_or(0)
    }

    /// Whether no group lost messages.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// By group and topic, the greatest losses first: "group billing lost 120 of topic orders".
impl fmt::Display for UnreadLosses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums = BTreeMap::<(&str, &str), u64>::new();
        for (place, messages) in &self.0 {
            *sums.entry((&place.group, &place.topic)).or_default() += messages;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(_, messages)| std::cmp::Reverse(*messages));
        for (number, ((group, topic), messages)) in sums.iter().take(NAMED).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}group {group} lost {messages} of topic {topic}")?;
        }
        match sums.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// The offsets of a queue that are removed early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlyRemoval {
    /// The first offset that is removed early; everything before it is old enough.
    pub from: u64,
    /// The first offset that stays.
    pub until: u64,
}

/// Messages of `going` that a group has not finished, when everything below `committed` is done and `lag` messages are not.
pub fn unread(going: EarlyRemoval, committed: u64, lag: u64) -> u64 {
    going.until.saturating_sub(going.from.max(committed)).min(lag)
}

/// The offsets of each queue that are removed early when everything before `until` goes and everything before `old` is
/// old enough.
pub fn going(old: &[QueueState], until: &[QueueState]) -> BTreeMap<(u32, u32), EarlyRemoval> {
    let old: BTreeMap<_, _> = old.iter().map(|state| ((state.topic_id, state.queue), state.next)).collect();
    let going = until.iter().map(|state| {
        let place = (state.topic_id, state.queue);
        (place, EarlyRemoval { from: old.get(&place).copied().unwrap_or(0), until: state.next })
    });
    going.filter(|(_, going)| going.from < going.until).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(group: &str, topic: &str, queue: u32) -> LossPlace {
        LossPlace { group: group.into(), member: String::new(), topic: topic.into(), queue }
    }

    #[test]
    fn what_is_done_or_old_enough_is_no_loss() {
        let going = EarlyRemoval { from: 10, until: 50 };
        assert_eq!(unread(going, 0, 100), 40, "nothing was read");
        assert_eq!(unread(going, 30, 100), 20);
        assert_eq!(unread(going, 50, 7), 0);
        assert_eq!(unread(going, 10, 3), 3, "most was done out of order");
    }

    #[test]
    fn only_what_lies_behind_the_old_part_goes_early() {
        let at = |queue, next| QueueState { topic_id: 1, queue, next, newest_ms: 0 };
        let found = going(&[at(0, 5), at(1, 9)], &[at(0, 8), at(1, 9), at(2, 3)]);
        let expected =
            [((1, 0), EarlyRemoval { from: 5, until: 8 }), ((1, 2), EarlyRemoval { from: 0, until: 3 })];
        assert_eq!(found, expected.into());
    }

    #[test]
    fn losses_add_up_and_the_greatest_is_named_first() {
        let mut losses = UnreadLosses::default();
        assert!(losses.is_empty());
        let unread = UnreadLosses(
            [(place("g", "t", 0), 2), (place("g", "t", 1), 3), (place("big", "t", 0), 9)].into(),
        );
        losses.absorb(&unread);
        losses.absorb(&unread);
        losses.add(place("none", "t", 0), 0);
        assert_eq!((losses.at(&place("g", "t", 1)), losses.at(&place("other", "t", 0))), (6, 0));
        assert_eq!(losses.to_string(), "group big lost 18 of topic t, group g lost 10 of topic t");
        let many = UnreadLosses((0..9).map(|i| (place(&format!("g{i}"), "t", 0), 1)).collect());
        assert!(many.to_string().ends_with(", and 4 more"), "{many}");
    }
}
