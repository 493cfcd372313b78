//! The remains on a broker group, and the next step for one that leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_core::topic::{PERM_READ, PERM_WRITE};
use kerolox_model::names::DEAD_LETTER_PREFIX;
use serde::Serialize;

/// What a broker says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// See [`wire::BrokerInfo::withheld`].
    pub(super) withheld: u32,
    /// How long no producer has sent anything there.
    pub(super) quiet: Duration,
    pub(super) topics: Vec<wire::DescribeTopicResponse>,
    pub(super) groups: Vec<wire::DescribeGroupResponse>,
    /// Dead letters by consumer group that were not sent back.
    pub(super) dead_letters: BTreeMap<String, u64>,
    /// How many lite topics there are, by topic.
    pub(super) lites: BTreeMap<String, u64>,
}

/// Something that is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub(super) enum Item {
    /// Messages that a consumer group has not finished.
    Unfinished { group: String, topic: String, messages: u64, in_flight: u64 },
    /// Messages that wait for their delivery time.
    Scheduled { topic: String, messages: u64 },
    /// Half messages without a decision.
    Undecided { topic: String, messages: u64 },
    /// Messages of a topic that no consumer group reads there.
    Unread { topic: String, messages: u64 },
    /// Lite topics of a topic that no consumer group reads there.
    UnreadLites { topic: String, lites: u64 },
    /// Dead letters of a consumer group.
    DeadLetters { group: String, messages: u64 },
}

impl Item {
    /// Whether it stays until an administrator acts. The others go by themselves, as consumers and producers do their
    /// work.
    pub(super) fn stays(&self) -> bool {
        matches!(self, Self::Unread { .. } | Self::UnreadLites { .. } | Self::DeadLetters { .. })
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unfinished { group, topic, messages, in_flight } => {
                write!(
                    f,
                    "consumer group {group} has {messages} messages of {topic} to finish, {in_flight} of them in flight"
                )
            }
            Self::Scheduled { topic, messages } => {
                write!(f, "{messages} messages of {topic} wait for their delivery time; see timerList")
            }
            Self::Undecided { topic, messages } => {
                write!(f, "{messages} half messages of {topic} are undecided; see transaction list")
            }
            Self::Unread { topic, messages } => {
                write!(f, "no consumer group reads {topic} there, which has {messages} messages")
            }
            Self::UnreadLites { topic, lites } => {
                write!(f, "no consumer group reads {topic} there, which has {lites} lite topics")
            }
            Self::DeadLetters { group, messages } => {
                write!(f, "consumer group {group} has {messages} dead letters; see dlqList and dlqRedrive")
            }
        }
    }
}

/// Everything that is left, in a stable order.
pub(super) fn remains(seen: &Seen) -> Vec<Item> {
    let mut items = unfinished(seen);
    let rows = seen.groups.iter().flat_map(|group| &group.queues);
    let read: BTreeSet<&str> = rows.map(|row| row.topic.as_str()).collect();
    for described in &seen.topics {
        let Some(config) = &described.topic else { continue };
        let topic = config.name.clone();
        let stored = described.queues.iter().map(|queue| queue.max_offset.saturating_sub(queue.min_offset));
        let (messages, lites) = (stored.sum(), seen.lites.get(&topic).copied().unwrap_or(0));
        let is_unread = !topic.contains(DEAD_LETTER_PREFIX) && !read.contains(topic.as_str());
        let found = [
            (
                described.scheduled_messages,
                Item::Scheduled { topic: topic.clone(), messages: described.scheduled_messages },
            ),
            (
                described.undecided_transactions,
                Item::Undecided { topic: topic.clone(), messages: described.undecided_transactions },
            ),
            (if is_unread { messages } else { 0 }, Item::Unread { topic: topic.clone(), messages }),
            (if is_unread { lites } else { 0 }, Item::UnreadLites { topic, lites }),
        ];
        items.extend(found.into_iter().filter(|(count, _)| *count > 0).map(|(_, item)| item));
    }
    let dead = seen.dead_letters.iter().filter(|(_, messages)| **messages > 0);
    items.extend(
        dead.map(|(group, messages)| Item::DeadLetters { group: group.clone(), messages: *messages }),
    );
    items
}

fn unfinished(seen: &Seen) -> Vec<Item> {
    let mut sums = BTreeMap::<(String, String), (u64, u64)>::new();
    for group in &seen.groups {
        let name = group.group.as_ref().map(|config| config.name.clone()).unwrap_or_default();
        for row in &group.queues {
            // A member of a broadcast group is named, because it may be gone for good.
            let client =
                if row.client.is_empty() { String::new() } else { format!(" (client {})", row.client) };
            let sum = sums.entry((format!("{name}{client}"), row.topic.clone())).or_default();
            *sum = (sum.0 + row.lag, sum.1 + row.in_flight);
        }
    }
    let lagging = sums.into_iter().filter(|(_, (messages, _))| *messages > 0);
    let item =
        |((group, topic), (messages, in_flight))| Item::Unfinished { group, topic, messages, in_flight };
    lagging.map(item).collect()
}

/// The next step of a group that leaves.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Let it withhold these permissions.
    Withhold(u32),
    /// Something is left that goes by itself.
    Drain,
    /// Only such things are left as stay.
    Stuck,
    /// Nothing is left, but clients may still have the routes of a moment ago, for so long.
    Quiet(Duration),
    /// It can be stopped.
    Safe,
}

/// Producers are sent elsewhere first. When everything is consumed, the group leaves the routes; and when no producer
/// has sent anything there since, for as long as clients keep routes, none will. Messages that were stored there in the
/// meantime are shown to consumers once more.
pub(super) fn next(seen: &Seen, items: &[Item], route_age: Duration, leave_behind: bool) -> Next {
    let hidden = PERM_READ | PERM_WRITE;
    if seen.withheld & PERM_WRITE == 0 {
        return Next::Withhold(PERM_WRITE);
    }
    if items.iter().any(|item| !item.stays()) {
        return if seen.withheld == hidden { Next::Withhold(PERM_WRITE) } else { Next::Drain };
    }
    if !items.is_empty() && !leave_behind {
        return Next::Stuck;
    }
    if seen.withheld != hidden {
        return Next::Withhold(hidden);
    }
    match route_age.saturating_sub(seen.quiet) {
        Duration::ZERO => Next::Safe,
        rest => Next::Quiet(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(40);

    fn topic(name: &str, messages: u64) -> wire::DescribeTopicResponse {
        let config = wire::TopicConfig { name: name.into(), ..Default::default() };
        let queue = wire::QueueStatus { min_offset: 5, max_offset: 5 + messages, ..Default::default() };
        wire::DescribeTopicResponse { topic: Some(config), queues: vec![queue], ..Default::default() }
    }

    fn group(name: &str, rows: &[(&str, u64, u64)]) -> wire::DescribeGroupResponse {
        let row = |(topic, lag, in_flight): &(&str, u64, u64)| wire::GroupQueueStatus {
            topic: (*topic).into(),
            lag: *lag,
            in_flight: *in_flight,
            ..Default::default()
        };
        let config = wire::GroupConfig { name: name.into(), ..Default::default() };
        wire::DescribeGroupResponse { group: Some(config), queues: rows.iter().map(row).collect() }
    }

    fn seen() -> Seen {
        Seen {
            topics: vec![topic("orders", 9), topic("%DLQ%billing", 3)],
            groups: vec![group("billing", &[("orders", 0, 0), ("orders", 0, 0)])],
            ..Seen::default()
        }
    }

    #[test]
    fn what_is_finished_is_not_left() {
        assert_eq!(remains(&seen()), []);
    }

    #[test]
    fn everything_that_waits_is_named() {
        let mut seen = seen();
        seen.groups.push(group("audit", &[("orders", 2, 1), ("orders", 3, 0)]));
        seen.topics[0].scheduled_messages = 4;
        seen.topics[0].undecided_transactions = 5;
        seen.topics.push(topic("unread", 6));
        seen.topics.push(topic("sessions", 0));
        seen.lites.insert("sessions".into(), 7);
        seen.dead_letters.insert("billing".into(), 2);
        let items = remains(&seen);
        let orders = || "orders".to_owned();
        assert_eq!(
            items,
            [
                Item::Unfinished { group: "audit".into(), topic: orders(), messages: 5, in_flight: 1 },
                Item::Scheduled { topic: orders(), messages: 4 },
                Item::Undecided { topic: orders(), messages: 5 },
                Item::Unread { topic: "unread".into(), messages: 6 },
                Item::UnreadLites { topic: "sessions".into(), lites: 7 },
                Item::DeadLetters { group: "billing".into(), messages: 2 },
            ]
        );
        assert_eq!(items.iter().filter(|item| item.stays()).count(), 3);
    }

    #[test]
    fn members_of_broadcast_groups_are_told_apart() {
        let mut seen = seen();
        let mut news = group("news", &[("orders", 2, 0), ("orders", 0, 0)]);
        news.queues[0].client = "gone".into();
        seen.groups.push(news);
        let [Item::Unfinished { group, .. }] = &remains(&seen)[..] else { panic!("{:?}", remains(&seen)) };
        assert_eq!(group, "news (client gone)");
    }

    #[test]
    fn a_group_leaves_step_by_step_and_goes_back_for_what_came_late() {
        let waiting = [Item::Scheduled { topic: "t".into(), messages: 1 }];
        let staying = [Item::Unread { topic: "t".into(), messages: 1 }];
        let at = |withheld, items: &[Item], leave_behind| {
            next(&Seen { withheld, ..Seen::default() }, items, AGE, leave_behind)
        };
        assert_eq!(at(0, &waiting, false), Next::Withhold(2));
        assert_eq!(at(2, &waiting, false), Next::Drain);
        assert_eq!(at(2, &staying, false), Next::Stuck);
        assert_eq!(at(2, &staying, true), Next::Withhold(6));
        assert_eq!(at(2, &[], false), Next::Withhold(6));
        assert_eq!(at(6, &waiting, true), Next::Withhold(2), "consumers must find it again");
        assert_eq!(at(6, &[], false), Next::Quiet(AGE));
    }

    #[test]
    fn it_is_safe_when_nobody_has_sent_for_as_long_as_routes_are_kept() {
        let quiet = |seconds| {
            let seen = Seen { withheld: 6, quiet: Duration::from_secs(seconds), ..Seen::default() };
            next(&seen, &[], AGE, false)
        };
        assert_eq!(quiet(39), Next::Quiet(Duration::from_secs(1)));
        assert_eq!(quiet(40), Next::Safe);
    }
}
