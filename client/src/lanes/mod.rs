//! Which items go out together, and when: messages to be sent, acknowledgements. This file is pure: told the time by its caller, it
//! sends nothing; [`drive`] does.

mod drive;

pub(crate) use drive::{Event, drive};

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// What counts towards the size of a batch, in bytes.
pub(crate) trait Weight {
    fn bytes(&self) -> usize;
}

/// When a batch is full, and how long one that is not waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) linger: Duration,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Messages that wait, in lanes that do not wait for each other.
#[derive(Debug)]
pub(crate) struct Lanes<K, T> {
    limits: Limits,
    lanes: HashMap<K, Lane<T>>,
    /// Lanes with messages, by the time at which these have waited long enough.
    due: BTreeSet<(Instant, K)>,
    /// Lanes that may send now, each once.
    ready: VecDeque<K>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    bytes: usize,
    in_flight: usize,
    /// Most batches in flight.
    width: usize,
    /// Its entry in `due`.
    due_at: Option<Instant>,
    /// What waits has waited long enough.
    is_due: bool,
    is_ready: bool,
}

impl<T> Lane<T> {
    fn new(width: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            width,
            due_at: None,
            is_due: false,
            is_ready: false,
        }
    }

    fn may_send(&self, limits: &Limits) -> bool {
        let is_full = self.waiting.len() >= limits.messages || self.bytes >= limits.bytes;
        self.in_flight < self.width && !self.waiting.is_empty() && (is_full || self.is_due)
    }
}

impl<K: Clone + Eq + Hash + Ord, T: Weight> Lanes<K, T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), due: BTreeSet::new(), ready: VecDeque::new() }
    }

    /// Puts a message into a lane that may have `width` batches in flight.
    pub(crate) fn push(&mut self, key: K, item: T, width: usize, now: Instant) {
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(width));
        lane.bytes += item.bytes();
        lane.waiting.push_back(item);
        if !lane.is_due && lane.due_at.is_none() {
            let at = now + self.limits.linger;
            lane.due_at = Some(at);
            self.due.insert((at, key.clone()));
        }
        self.consider(&key);
    }

    /// Makes all lanes due now: waiting for company has ended.
    pub(crate) fn flush(&mut self) {
        let due: Vec<K> = std::mem::take(&mut self.due).into_iter().map(|(_, key)| key).collect();
        due.iter().for_each(|key| self.is_due(key));
    }

    /// A batch of the lane is no longer in flight.
    pub(crate) fn answered(&mut self, key: &K) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.in_flight -= 1;
            if lane.in_flight == 0 && lane.waiting.is_empty() {
                self.lanes.remove(key);
            }
        }
        self.consider(key);
    }

    /// The next batch to send at `now`, if any. It is in flight from then on.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(K, Vec<T>)> {
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.due.pop_first().expect("there is a first one");
            self.is_due(&key);
        }
        let key = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&key).expect("a lane stays while messages wait in it");
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = lane.waiting.front()
            && batch.len() < self.limits.messages
            && (batch.is_empty() || bytes + next.bytes() <= self.limits.bytes)
        {
            bytes += next.bytes();
            batch.extend(lane.waiting.pop_front());
        }
        lane.bytes -= bytes;
        lane.in_flight += 1;
        lane.is_ready = false;
        if lane.waiting.is_empty() {
            lane.is_due = false;
            if let Some(at) = lane.due_at.take() {
                self.due.remove(&(at, key.clone()));
            }
        }
        self.consider(&key);
        Some((key, batch))
    }

    /// When to look again, if nothing happens before.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether nothing waits or is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    fn is_due(&mut self, key: &K) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.due_at = None;
            lane.is_due = true;
        }
        self.consider(key);
    }

    fn consider(&mut self, key: &K) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !lane.is_ready
            && lane.may_send(&self.limits)
        {
            lane.is_ready = true;
            self.ready.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn lanes(linger_ms: u64) -> Lanes<&'static str, usize> {
        Lanes::new(Limits { linger: Duration::from_millis(linger_ms), messages: 3, bytes: 100 })
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn without_linger_what_comes_while_others_are_under_way_goes_together() {
        let now = Instant::now();
        let mut lanes = lanes(0);
        lanes.push("t", 1, 1, now);
        assert_eq!(lanes.take(now), Some(("t", vec![1])));
        for weight in [2, 3, 4, 5] {
            lanes.push("t", weight, 1, now);
        }
        assert_eq!(lanes.take(now), None, "one at a time");
        lanes.answered(&"t");
        assert_eq!(lanes.take(now), Some(("t", vec![2, 3, 4])), "no more than fit");
        lanes.answered(&"t");
        assert_eq!(lanes.take(now), Some(("t", vec![5])));
        lanes.answered(&"t");
        assert!(lanes.is_empty() && lanes.next_due().is_none());
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_its_first_message_waited_long_enough() {
        let start = Instant::now();
        let mut lanes = lanes(10);
        lanes.push("t", 1, 9, start);
        lanes.push("t", 2, 9, at(start, 9));
        assert_eq!((lanes.take(at(start, 9)), lanes.next_due()), (None, Some(at(start, 10))));
        assert_eq!(lanes.take(at(start, 10)), Some(("t", vec![1, 2])));
        for weight in [3, 4, 5] {
            lanes.push("t", weight, 9, at(start, 11));
        }
        assert_eq!(lanes.take(at(start, 11)), Some(("t", vec![3, 4, 5])), "as many as fit");
        lanes.push("t", 60, 9, at(start, 12));
        lanes.push("t", 60, 9, at(start, 12));
        assert_eq!(lanes.take(at(start, 12)), Some(("t", vec![60])), "as many bytes as fit");
        assert_eq!(lanes.take(at(start, 12)), None, "the other one waits for company");
        lanes.push("t", 500, 9, at(start, 13));
        assert_eq!(lanes.take(at(start, 13)), Some(("t", vec![60])));
        assert_eq!(lanes.take(at(start, 13)), Some(("t", vec![500])), "larger than a batch");
    }

    #[test]
    fn lanes_do_not_wait_for_each_other_and_a_flush_ends_all_waiting() {
        let now = Instant::now();
        let mut lanes = lanes(1000);
        for (lane, weight) in [("a", 1), ("b", 2), ("a", 3)] {
            lanes.push(lane, weight, 1, now);
        }
        assert_eq!(lanes.take(now), None);
        lanes.flush();
        let mut taken = [lanes.take(now).unwrap(), lanes.take(now).unwrap()];
        taken.sort_unstable();
        assert_eq!(taken, [("a", vec![1, 3]), ("b", vec![2])]);
        lanes.push("a", 4, 1, now);
        lanes.flush();
        assert_eq!(lanes.take(now), None, "behind its earlier batch");
        lanes.answered(&"a");
        assert_eq!(lanes.take(now), Some(("a", vec![4])));
    }
}
