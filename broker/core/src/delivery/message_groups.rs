//! Order within message groups: which messages of one queue may be handed out without overtaking.
//!
//! Every message that the engine has looked at and that is not done stands in the line of its ordering key: its message
//! group, or its own offset if it belongs to none. A line hands out its messages front first. While a consumer holds one of
//! them, or one waits for its next attempt, the line hands out nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::members::FilterId;
use crate::queue_offset::QueueOffset;

/// Messages with equal keys are delivered in the order of their offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OrderingKey {
    /// The message group with this hash. Groups with equal hashes wait for each other, which costs speed and no order.
    Group(u64),
    /// The message at this offset, which belongs to no group.
    Alone(QueueOffset),
}

/// The undone messages of one ordering key.
#[derive(Debug, Clone, Default)]
struct MessageGroupLine {
    /// Offsets that are not done, front first.
    waiting: BTreeSet<QueueOffset>,
    /// When those in flight become visible again.
    visible_ms: BTreeMap<QueueOffset, i64>,
    /// The front is kept for consumers with these filters; for any consumer if there are none.
    wanted_by: Vec<FilterId>,
    /// The front used up its attempts and stays.
    is_blocked: bool,
    /// Everything in front of this offset was handed out before: a message behind it is done.
    repeated_below: QueueOffset,
}

impl MessageGroupLine {
    /// From when on the front may be handed out; `None` while it may not.
    fn ready_ms(&self) -> Option<i64> {
        if self.is_blocked || self.waiting.is_empty() {
            return None;
        }
        Some(self.visible_ms.values().copied().max().unwrap_or(i64::MIN))
    }

    /// Its place among the ready lines: the time since which it is ready, and its front.
    fn place(&self) -> Option<(i64, QueueOffset)> {
        let front = *self.waiting.first()?;
        self.ready_ms().map(|ready_ms| (ready_ms, front))
    }

    /// Number of messages in this line while its front is kept for certain filters.
    fn kept_len(&self) -> usize {
        if self.wanted_by.is_empty() { 0 } else { self.waiting.len() }
    }
}

/// The filters under which a line stands among the ready ones; `None` stands for any filter.
fn ready_keys(wanted_by: &[FilterId]) -> impl Iterator<Item = Option<FilterId>> {
    let any = wanted_by.is_empty().then_some(None);
    any.into_iter().chain(wanted_by.iter().copied().map(Some))
}

/// A line that may be handed out from.
pub(super) struct ReadyLine<I> {
    pub(super) key: OrderingKey,
    /// Everything in front of this offset was handed out before.
    pub(super) repeated_below: QueueOffset,
    /// Undone messages, front first.
    pub(super) offsets: I,
}

/// The message group lines of one queue.
#[derive(Debug, Clone, Default)]
pub(super) struct MessageGroupLines {
    lines: HashMap<OrderingKey, MessageGroupLine>,
    key_by_offset: BTreeMap<QueueOffset, OrderingKey>,
    /// `(ready_ms, front offset, key)` by the filter that the front is kept for.
    ready: BTreeMap<Option<FilterId>, BTreeSet<(i64, QueueOffset, OrderingKey)>>,
    /// Messages in lines whose front is kept for certain filters.
    kept_len: usize,
}

impl MessageGroupLines {
    /// Takes up a message behind all that are known.
    pub(super) fn push(&mut self, offset: QueueOffset, key: OrderingKey) {
        self.change(key, |line| {
            line.waiting.insert(offset);
        });
        self.key_by_offset.insert(offset, key);
    }

    pub(super) fn key_of(&self, offset: QueueOffset) -> Option<OrderingKey> {
        self.key_by_offset.get(&offset).copied()
    }

    /// Records that a message of a line was done before the engine looked at it.
    pub(super) fn repeat_below(&mut self, key: OrderingKey, offset: QueueOffset) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.repeated_below = line.repeated_below.max(offset);
        }
    }

    /// Undone messages in front of an offset of a line.
    pub(super) fn in_front(
        &self,
        key: OrderingKey,
        offset: QueueOffset,
    ) -> impl Iterator<Item = QueueOffset> + '_ {
        let line = self.lines.get(&key).into_iter();
        line.flat_map(move |line| line.waiting.range(..offset).copied())
    }

    /// Messages that are known and not done.
    pub(super) fn len(&self) -> usize {
        self.key_by_offset.len()
    }

    /// Undone messages in lines whose front is kept for certain filters.
    pub(super) fn kept_len(&self) -> usize {
        self.kept_len
    }

    /// Offsets that are known and not done.
    pub(super) fn offsets(&self) -> impl Iterator<Item = QueueOffset> + '_ {
        self.key_by_offset.keys().copied()
    }

    /// Puts a message in flight until `visible_ms`.
    pub(super) fn set_visible(&mut self, offset: QueueOffset, visible_ms: i64) {
        if let Some(key) = self.key_of(offset) {
            self.change(key, |line| {
                line.visible_ms.insert(offset, visible_ms);
            });
        }
    }

    /// Removes a message that is done.
    pub(super) fn remove(&mut self, offset: QueueOffset) {
        let Some(key) = self.key_by_offset.remove(&offset) else { return };
        self.change(key, |line| {
            let was_front = line.waiting.first() == Some(&offset);
            line.waiting.remove(&offset);
            line.visible_ms.remove(&offset);
            if was_front {
                line.is_blocked = false;
                line.wanted_by.clear();
            }
        });
        if self.lines.get(&key).is_some_and(|line| line.waiting.is_empty()) {
            self.lines.remove(&key);
        }
    }

    /// The line that has been ready for longest, for a consumer with this filter. Lines whose messages failed before come
    /// first.
    pub(super) fn first_ready(
        &self,
        now_ms: i64,
        filter: FilterId,
    ) -> Option<ReadyLine<impl Iterator<Item = QueueOffset> + '_>> {
        let sets = [None, Some(filter)].map(|key| self.ready.get(&key));
        let failed = (i64::MIN + 1, QueueOffset::FIRST, OrderingKey::Group(0));
        let again = sets.iter().flatten().filter_map(|set| set.range(failed..).next());
        let again = again.filter(|(ready_ms, _, _)| *ready_ms <= now_ms).min();
        let fresh = || sets.iter().flatten().filter_map(|set| set.range(..failed).next()).min();
        let (_, _, key) = again.or_else(fresh)?;
        let line = &self.lines[key];
        let offsets = line.waiting.iter().copied();
        Some(ReadyLine { key: *key, repeated_below: line.repeated_below, offsets })
    }

    /// Number of lines that may be handed out from, at most `max` of each kind.
    pub(super) fn ready_len(&self, now_ms: i64, filter: FilterId, max: usize) -> usize {
        let count = |key| {
            let ready = self.ready.get(&key).into_iter().flatten();
            ready.take_while(|(ready_ms, _, _)| *ready_ms <= now_ms).take(max).count()
        };
        count(None) + count(Some(filter))
    }

    /// Number of lines that only consumers with this filter may be handed out from.
    pub(super) fn kept_for_len(&self, filter: FilterId) -> usize {
        self.ready.get(&Some(filter)).map_or(0, BTreeSet::len)
    }

    /// When the next line becomes ready, if that is later than `now_ms`.
    pub(super) fn next_ready_ms(&self, now_ms: i64) -> Option<i64> {
        let after = |set: &BTreeSet<(i64, QueueOffset, OrderingKey)>| {
            let mut later =
                set.range((now_ms.saturating_add(1), QueueOffset::FIRST, OrderingKey::Group(0))..);
            later.next().map(|(ready_ms, _, _)| *ready_ms)
        };
        self.ready.values().filter_map(after).min()
    }

    /// Keeps the front of a line for consumers with these filters.
    pub(super) fn keep_for(&mut self, key: OrderingKey, filters: &[FilterId]) {
        self.change(key, |line| line.wanted_by = filters.to_vec());
    }

    /// Releases the messages that were kept for this filter alone: no member has it any longer.
    pub(super) fn forget_filter(&mut self, filter: FilterId) {
        #[expect(clippy::disallowed_methods, reason = "a set puts them in order")]
        let kept = self.lines.iter().filter(|(_, line)| line.wanted_by.contains(&filter));
        for key in kept.map(|(key, _)| *key).collect::<BTreeSet<_>>() {
            self.change(key, |line| line.wanted_by.retain(|known| *known != filter));
        }
        self.ready.remove(&Some(filter));
    }

    /// Whether a message is at the front of its line.
    pub(super) fn is_front(&self, offset: QueueOffset) -> bool {
        self.front_of(offset) == Some(offset)
    }

    /// The front of the line of a message.
    pub(super) fn front_of(&self, offset: QueueOffset) -> Option<QueueOffset> {
        self.key_of(offset).and_then(|key| self.lines[&key].waiting.first().copied())
    }

    /// Blocks the front of a line, and with it the line.
    pub(super) fn block(&mut self, key: OrderingKey) {
        self.change(key, |line| line.is_blocked = true);
    }

    /// Lets a blocked line go on.
    pub(super) fn unblock(&mut self, key: OrderingKey) {
        self.change(key, |line| line.is_blocked = false);
    }

    /// Number of messages in the line of a message.
    pub(super) fn line_len(&self, offset: QueueOffset) -> usize {
        self.key_of(offset).map_or(0, |key| self.lines[&key].waiting.len())
    }

    /// Changes a line and puts it where it belongs among the ready ones.
    fn change(&mut self, key: OrderingKey, act: impl FnOnce(&mut MessageGroupLine)) {
        let line = self.lines.entry(key).or_default();
        let (before, wanted_by) = (line.place(), line.wanted_by.clone());
        self.kept_len -= line.kept_len();
        act(line);
        self.kept_len += line.kept_len();
        let after = line.place();
        if before == after && wanted_by == line.wanted_by {
            return;
        }
        if let Some((ready_ms, front)) = before {
            for filter in ready_keys(&wanted_by) {
                if let Some(set) = self.ready.get_mut(&filter) {
                    set.remove(&(ready_ms, front, key));
                }
            }
        }
        if let Some((ready_ms, front)) = after {
            for filter in ready_keys(&line.wanted_by) {
                self.ready.entry(filter).or_default().insert((ready_ms, front, key));
            }
        }
    }
}
