//! Topics without a reachable producer: their half messages are skipped, and one of them is tried now and then.

use std::collections::BTreeMap;

/// First pause after no producer of a topic could be asked, in milliseconds; every next pause is twice as long.
const PAUSE_MIN_MS: u64 = 1_000;
/// Longest pause. A producer that connects to this broker ends it at once; one that connects elsewhere waits for its end.
const PAUSE_MAX_MS: u64 = 8_000;

/// Topics without producers. Times are milliseconds of a clock that never runs backwards.
#[derive(Debug, Default)]
pub struct DesertedTopics {
    topics: BTreeMap<u32, Pause>,
}

#[derive(Debug)]
struct Pause {
    /// Position of a due half message, to try with.
    sample: u64,
    length_ms: u64,
    until_ms: u64,
}

impl DesertedTopics {
    /// Whether half messages of a topic are skipped.
    pub fn contains(&self, topic_id: u32) -> bool {
        self.topics.contains_key(&topic_id)
    }

    /// Records that no producer could be asked about the half message at `sample`.
    pub fn add(&mut self, topic_id: u32, sample: u64, now_ms: u64) {
        let first = Pause { sample, length_ms: PAUSE_MIN_MS / 2, until_ms: now_ms };
        let pause = self.topics.entry(topic_id).or_insert(first);
        pause.length_ms = (pause.length_ms * 2).min(PAUSE_MAX_MS);
        pause.until_ms = now_ms + pause.length_ms;
    }

    /// Removes a topic that has a producer, or no due half message.
    pub fn remove(&mut self, topic_id: u32) {
        self.topics.remove(&topic_id);
    }

    /// Topics to try at `now_ms`, each with its sample: those whose pause is over, and those with a producer as `has_producer`
    /// says.
    pub fn due(&self, now_ms: u64, has_producer: impl Fn(u32) -> bool) -> Vec<(u32, u64)> {
        let is_due =
            |(topic_id, pause): &(&u32, &Pause)| pause.until_ms <= now_ms || has_producer(**topic_id);
        self.topics.iter().filter(is_due).map(|(topic_id, pause)| (*topic_id, pause.sample)).collect()
    }

    /// When the first pause is over.
    pub fn next_ms(&self) -> Option<u64> {
        self.topics.values().map(|pause| pause.until_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_end_when_a_producer_appears() {
        let (mut deserted, mut now_ms) = (DesertedTopics::default(), 100);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            deserted.add(7, 100, now_ms);
            let until_ms = deserted.next_ms().expect("one topic");
            assert!(deserted.due(until_ms - 1, |_| false).is_empty());
            assert_eq!(deserted.due(until_ms, |_| false), [(7, 100)]);
            pauses.push(until_ms - now_ms);
            now_ms = until_ms;
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        deserted.add(8, 200, now_ms);
        assert_eq!(deserted.due(now_ms - 1, |topic_id| topic_id == 8), [(8, 200)], "both pauses go on");
        assert!(deserted.contains(7) && deserted.contains(8));
        deserted.remove(8);
        deserted.remove(7);
        assert_eq!((deserted.contains(7), deserted.next_ms()), (false, None));
    }
}
