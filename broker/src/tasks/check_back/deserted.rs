//! Topics of which no producer can be reached: their half messages are left alone, and one of them is tried now and then.
//!
//! Plain state, told the time by its caller.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First pause after nobody could be asked about a topic; every next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause. A producer that connects to this broker ends it at once, one that connects elsewhere waits for its end.
const PAUSE_MAX: Duration = Duration::from_secs(8);

#[derive(Debug, Default)]
pub(super) struct Deserted {
    topics: HashMap<u32, Pause>,
}

#[derive(Debug)]
struct Pause {
    /// Position of a half message that is due: the one to try with.
    sample: u64,
    length: Duration,
    until: Instant,
}

impl Deserted {
    pub(super) fn contains(&self, topic_id: u32) -> bool {
        self.topics.contains_key(&topic_id)
    }

    /// Notes that nobody could be asked about the half message at `sample`.
    pub(super) fn add(&mut self, topic_id: u32, sample: u64, now: Instant) {
        let pause =
            self.topics.entry(topic_id).or_insert(Pause { sample, length: PAUSE_MIN / 2, until: now });
        pause.length = (pause.length * 2).min(PAUSE_MAX);
        pause.until = now + pause.length;
    }

    pub(super) fn remove(&mut self, topic_id: u32) {
        self.topics.remove(&topic_id);
    }

    /// Topics to try now, each with its sample: those whose pause is over, and those of which `has_producer` knows one.
    pub(super) fn due(&self, now: Instant, has_producer: impl Fn(u32) -> bool) -> Vec<(u32, u64)> {
        let is_due = |(topic_id, pause): &(&u32, &Pause)| pause.until <= now || has_producer(**topic_id);
        self.topics.iter().filter(is_due).map(|(topic_id, pause)| (*topic_id, pause.sample)).collect()
    }

    /// When the first pause is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.topics.values().map(|pause| pause.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_end_when_a_producer_appears() {
        let (mut deserted, mut now) = (Deserted::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..6 {
            deserted.add(7, 100, now);
            let until = deserted.next().expect("one topic");
            assert!(deserted.due(until - Duration::from_millis(1), |_| false).is_empty());
            assert_eq!(deserted.due(until, |_| false), [(7, 100)]);
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
        deserted.add(8, 200, now);
        let before = now - Duration::from_millis(1);
        assert_eq!(deserted.due(before, |topic_id| topic_id == 8), [(8, 200)], "both pauses go on");
        assert!(deserted.contains(7) && deserted.contains(8));
        deserted.remove(8);
        deserted.remove(7);
        assert_eq!((deserted.contains(7), deserted.next()), (false, None));
    }
}
