//! Old segments that go before their time, and what consumer groups lose by that.
//!
//! That happens only where the operator switched it on, `retention.remove-early` or `retention.log-size`. What it costs is
//! counted, so that a group's owner learns of it from more than a gap in the offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kerolox_core::group::Group;
use kerolox_core::record::QueueState;
use kerolox_core::topic::Topic;
use kerolox_store::{Store, StoreError};

use crate::delivery::{Deliveries, cursors};

/// Groups and topics that a log line or a health check names; the rest is counted.
const NAMED: usize = 5;

/// Where a group lost something: the group, or the member of a broadcast group, the topic and its queue. The parts of lite topics
/// count together, as queue 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the consumer group.
    pub group: String,
    /// Client id of the member of a broadcast group; otherwise empty.
    pub member: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the queue.
    pub queue: u32,
}

/// Numbers of messages that went before a group had done with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread(pub BTreeMap<Place, u64>);

impl Unread {
    fn add(&mut self, place: Place, messages: u64) {
        if messages > 0 {
            *self.0.entry(place).or_default() += messages;
        }
    }

    /// Whether nobody lost anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// By group and topic, the greatest losses first: "group billing lost 120 of topic orders".
impl fmt::Display for Unread {
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

/// What groups lost since the broker was started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<Mutex<Unread>>);

impl Losses {
    /// Counts what was removed.
    pub fn note(&self, unread: &Unread) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unread.0.iter().for_each(|(place, messages)| all.add(place.clone(), *messages));
    }

    /// Messages that are gone unread at a place.
    pub fn at(&self, place: &Place) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.get(place).copied().unwrap_or(0)
    }

    /// All of it.
    pub fn all(&self) -> Unread {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The part of a queue that goes before its time: offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Going {
    /// The first offset that goes; what lies before it is old enough.
    pub from: u64,
    /// The first one that stays.
    pub until: u64,
}

/// Messages of `going` that a group has not done, when it has done everything below `committed`, and `lag` messages are not done.
pub fn unread(going: Going, committed: u64, lag: u64) -> u64 {
    going.until.saturating_sub(going.from.max(committed)).min(lag)
}

/// What goes early of each queue when what lies before `until` goes, and what lies before `old` is old enough.
pub fn going(old: &[QueueState], until: &[QueueState]) -> BTreeMap<(u32, u32), Going> {
    let old: BTreeMap<_, _> = old.iter().map(|state| ((state.topic_id, state.queue), state.next)).collect();
    let going = until.iter().map(|state| {
        let place = (state.topic_id, state.queue);
        (place, Going { from: old.get(&place).copied().unwrap_or(0), until: state.next })
    });
    going.filter(|(_, going)| going.from < going.until).collect()
}

/// What groups have not done of what is going. Reads the index: call it where blocking is fine.
///
/// # Errors
/// [`StoreError`] when the index cannot be read.
pub(crate) fn unread_of_groups(
    store: &Store,
    deliveries: &Deliveries,
    mut going: BTreeMap<(u32, u32), Going>,
) -> Result<Unread, StoreError> {
    for ((topic_id, queue), going) in &mut going {
        going.from = going.from.max(store.state().queues.bounds(*topic_id, *queue).min);
    }
    let mut all = Unread::default();
    let groups = store.state().groups.all();
    for group in groups.iter().filter(|group| group.parent == 0) {
        for cursor in cursors(store, group) {
            for topic_id in deliveries.topics_of(&cursor)? {
                let Some(topic) = store.state().topics.by_id(topic_id) else { continue };
                unread_of_group(deliveries, &group.name, &cursor, &topic, &going, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn unread_of_group(
    deliveries: &Deliveries,
    group: &str,
    cursor: &Group,
    topic: &Topic,
    going: &BTreeMap<(u32, u32), Going>,
    all: &mut Unread,
) -> Result<(), StoreError> {
    let of_topic = going.range((topic.id, 0)..=(topic.id, u32::MAX));
    let place = |queue| Place {
        group: group.to_owned(),
        member: cursor.member.clone(),
        topic: topic.name.clone(),
        queue,
    };
    if topic.has_lites() {
        for ((_, queue), going) in of_topic {
            let lag = deliveries.lite_lag(cursor, topic, *queue)?.unwrap_or(0);
            all.add(place(0), unread(*going, 0, lag));
        }
        return Ok(());
    }
    let positions = deliveries.positions(cursor, topic)?;
    for ((_, queue), going) in of_topic {
        if let Some(position) = positions.get(queue) {
            all.add(place(*queue), unread(*going, position.committed, position.counts.lag));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(group: &str, topic: &str, queue: u32) -> Place {
        Place { group: group.into(), member: String::new(), topic: topic.into(), queue }
    }

    #[test]
    fn what_is_done_or_old_enough_is_no_loss() {
        let going = Going { from: 10, until: 50 };
        assert_eq!(unread(going, 0, 100), 40, "nothing was read");
        assert_eq!(unread(going, 30, 100), 20);
        assert_eq!(unread(going, 50, 7), 0);
        assert_eq!(unread(going, 10, 3), 3, "most was done out of order");
    }

    #[test]
    fn only_what_lies_behind_the_old_part_goes_early() {
        let at = |queue, next| QueueState { topic_id: 1, queue, next, newest_ms: 0 };
        let found = going(&[at(0, 5), at(1, 9)], &[at(0, 8), at(1, 9), at(2, 3)]);
        let expected = [((1, 0), Going { from: 5, until: 8 }), ((1, 2), Going { from: 0, until: 3 })];
        assert_eq!(found, expected.into());
    }

    #[test]
    fn losses_add_up_and_the_greatest_is_named_first() {
        let losses = Losses::default();
        assert!(losses.all().is_empty());
        let unread =
            Unread([(place("g", "t", 0), 2), (place("g", "t", 1), 3), (place("big", "t", 0), 9)].into());
        losses.note(&unread);
        losses.note(&unread);
        assert_eq!(losses.at(&place("g", "t", 1)), 6);
        assert_eq!(losses.all().to_string(), "group big lost 18 of topic t, group g lost 10 of topic t");
        let many = Unread((0..9).map(|i| (place(&format!("g{i}"), "t", 0), 1)).collect());
        assert!(many.to_string().ends_with(", and 4 more"), "{many}");
    }
}
