//! Order within message groups: what of one queue may be handed out without overtaking.
//!
//! Every message that was looked at and is not done stands in the lane of its message group; a message without a group has
//! a lane of its own. A lane gives out messages from its front. While one of them is out with a consumer, nobody else gets
//! any of the lane.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::members::FilterId;

/// Which messages keep an order among each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// The message group with this hash. Groups with the same hash wait for each other, which costs speed and no order.
    Group(u64),
    /// The message at this offset, which belongs to no group.
    Alone(u64),
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Offsets that are not done, front first.
    waiting: BTreeSet<u64>,
    /// When those that were handed out become visible again.
    out: BTreeMap<u64, i64>,
    /// Whose filters the front is kept for; nobody's in particular if there are none.
    wanted_by: Vec<FilterId>,
    /// The front used up its attempts and stays.
    blocked: bool,
    /// What is in front of this offset was handed out before: one behind it is done.
    repeated_below: u64,
}

impl State {
    /// From when on the front may be handed out; `None` while it may not.
    fn ready_ms(&self) -> Option<i64> {
        if self.blocked || self.waiting.is_empty() {
            return None;
        }
        Some(self.out.values().copied().max().unwrap_or(i64::MIN))
    }

    /// Its place among the ready ones: when, and its front.
    fn place(&self) -> Option<(i64, u64)> {
        let front = *self.waiting.first()?;
        self.ready_ms().map(|ready_ms| (ready_ms, front))
    }

    /// Messages that stand here while the front is kept for somebody.
    fn kept_len(&self) -> usize {
        if self.wanted_by.is_empty() { 0 } else { self.waiting.len() }
    }
}

/// Under which keys a lane stands among the ready ones.
fn keys(wanted_by: &[FilterId]) -> impl Iterator<Item = Option<FilterId>> {
    let anybody = wanted_by.is_empty().then_some(None);
    anybody.into_iter().chain(wanted_by.iter().copied().map(Some))
}

/// The lanes of one queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    lanes: HashMap<Lane, State>,
    of: BTreeMap<u64, Lane>,
    /// `(ready_ms, front offset, lane)` by whom the front is kept for.
    ready: BTreeMap<Option<FilterId>, BTreeSet<(i64, u64, Lane)>>,
    /// Messages in lanes whose front is kept for somebody.
    kept: usize,
}

impl Lanes {
    /// Takes up a message behind all that are known.
    pub(super) fn add(&mut self, offset: u64, lane: Lane) {
        self.change(lane, |state| {
            state.waiting.insert(offset);
        });
        self.of.insert(offset, lane);
    }

    pub(super) fn lane_of(&self, offset: u64) -> Option<Lane> {
        self.of.get(&offset).copied()
    }

    /// A message of a lane was done before it was looked at.
    pub(super) fn repeat_below(&mut self, lane: Lane, offset: u64) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.repeated_below = state.repeated_below.max(offset);
        }
    }

    /// Those in front of a message in its lane, not done.
    pub(super) fn in_front(&self, lane: Lane, offset: u64) -> impl Iterator<Item = u64> + '_ {
        let state = self.lanes.get(&lane).into_iter();
        state.flat_map(move |state| state.waiting.range(..offset).copied())
    }

    /// Messages that are known and not done.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Those of them that stand in lanes whose front is kept for members with certain filters.
    pub(super) fn kept_len(&self) -> usize {
        self.kept
    }

    /// Offsets that are known and not done.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.of.keys().copied()
    }

    /// A message was handed out, or waits for its next attempt, until `visible_ms`.
    pub(super) fn out(&mut self, offset: u64, visible_ms: i64) {
        if let Some(lane) = self.lane_of(offset) {
            self.change(lane, |state| {
                state.out.insert(offset, visible_ms);
            });
        }
    }

    /// A message is done.
    pub(super) fn remove(&mut self, offset: u64) {
        let Some(lane) = self.of.remove(&offset) else { return };
        self.change(lane, |state| {
            let front = state.waiting.first() == Some(&offset);
            state.waiting.remove(&offset);
            state.out.remove(&offset);
            if front {
                state.blocked = false;
                state.wanted_by.clear();
            }
        });
        if self.lanes.get(&lane).is_some_and(|state| state.waiting.is_empty()) {
            self.lanes.remove(&lane);
        }
    }

    /// The lane that may be handed out from and has waited longest, for a consumer with this filter: before which offset
    /// everything was handed out before, and its offsets in order.
    /// Lanes whose messages failed before come first.
    pub(super) fn front(
        &self,
        now_ms: i64,
        filter: FilterId,
    ) -> Option<(Lane, u64, impl Iterator<Item = u64> + '_)> {
        let sets = [None, Some(filter)].map(|key| self.ready.get(&key));
        let failed = (i64::MIN + 1, 0, Lane::Group(0));
        let again = sets.iter().flatten().filter_map(|set| set.range(failed..).next());
        let again = again.filter(|(ready_ms, _, _)| *ready_ms <= now_ms).min();
        let fresh = || sets.iter().flatten().filter_map(|set| set.range(..failed).next()).min();
        let (_, _, lane) = again.or_else(fresh)?;
        let state = &self.lanes[lane];
        Some((*lane, state.repeated_below, state.waiting.iter().copied()))
    }

    /// Lanes that may be handed out from, at most `max`.
    pub(super) fn ready_len(&self, now_ms: i64, filter: FilterId, max: usize) -> usize {
        let count = |key| {
            let ready = self.ready.get(&key).into_iter().flatten();
            ready.take_while(|(ready_ms, _, _)| *ready_ms <= now_ms).take(max).count()
        };
        count(None) + count(Some(filter))
    }

    /// Lanes that only consumers with this filter may be handed out from.
    pub(super) fn kept_for_len(&self, filter: FilterId) -> usize {
        self.ready.get(&Some(filter)).map_or(0, BTreeSet::len)
    }

    /// When the first lane that waits may be handed out from, if it is later than `now_ms`.
    pub(super) fn next_ready_ms(&self, now_ms: i64) -> Option<i64> {
        let after = |set: &BTreeSet<(i64, u64, Lane)>| {
            set.range((now_ms.saturating_add(1), 0, Lane::Group(0))..)
                .next()
                .map(|(ready_ms, _, _)| *ready_ms)
        };
        self.ready.values().filter_map(after).min()
    }

    /// The front of a lane is kept for consumers with these filters.
    pub(super) fn keep_for(&mut self, lane: Lane, filters: &[FilterId]) {
        self.change(lane, |state| state.wanted_by = filters.to_vec());
    }

    /// Nobody has this filter any more: what was kept for it alone is for everybody.
    pub(super) fn forget_filter(&mut self, filter: FilterId) {
        let kept = self.lanes.iter().filter(|(_, state)| state.wanted_by.contains(&filter));
        for lane in kept.map(|(lane, _)| *lane).collect::<Vec<_>>() {
            self.change(lane, |state| state.wanted_by.retain(|known| *known != filter));
        }
        self.ready.remove(&Some(filter));
    }

    /// Whether a message is at the front of its lane.
    pub(super) fn is_front(&self, offset: u64) -> bool {
        self.of.get(&offset).is_some_and(|lane| self.lanes[lane].waiting.first() == Some(&offset))
    }

    /// The front of the lane of a message.
    pub(super) fn front_of(&self, offset: u64) -> Option<u64> {
        self.of.get(&offset).and_then(|lane| self.lanes[lane].waiting.first().copied())
    }

    /// The front of a lane stays where it is, and the lane with it.
    pub(super) fn block(&mut self, lane: Lane) {
        self.change(lane, |state| state.blocked = true);
    }

    /// Lets a blocked lane go on.
    pub(super) fn unblock(&mut self, lane: Lane) {
        self.change(lane, |state| state.blocked = false);
    }

    /// Messages in the lane of a message.
    pub(super) fn waiting_with(&self, offset: u64) -> usize {
        self.of.get(&offset).map_or(0, |lane| self.lanes[lane].waiting.len())
    }

    /// Changes a lane and puts it where it belongs among the ready ones.
    fn change(&mut self, lane: Lane, act: impl FnOnce(&mut State)) {
        let state = self.lanes.entry(lane).or_default();
        let (before, wanted_by) = (state.place(), state.wanted_by.clone());
        self.kept -= state.kept_len();
        act(state);
        self.kept += state.kept_len();
        let after = state.place();
        if before == after && wanted_by == state.wanted_by {
            return;
        }
        if let Some((ready_ms, front)) = before {
            for key in keys(&wanted_by) {
                if let Some(set) = self.ready.get_mut(&key) {
                    set.remove(&(ready_ms, front, lane));
                }
            }
        }
        if let Some((ready_ms, front)) = after {
            for key in keys(&state.wanted_by) {
                self.ready.entry(key).or_default().insert((ready_ms, front, lane));
            }
        }
    }
}
