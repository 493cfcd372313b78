//! Priorities: the queue whose turn it is, on a topic where each queue is a priority.
//!
//! # Priority
//!
//! A topic of type PRIORITY has a queue for each priority. The engine hands out from the highest queue that has
//! messages (`core/src/delivery/priorities.rs`); retries stay in their queue, so they keep their priority.

/// How strictly priorities count: of 100 messages that a group gets from a topic, this many come from the highest queue that
/// has messages, the others from all queues in turn, so that no queue starves. RocketMQ's `priority.factor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriorityFactor(u32);

impl PriorityFactor {
    /// A higher priority always comes first (the default).
    pub const STRICT: Self = Self(100);

    /// Reads a number from 0 (priorities do not count) to 100.
    ///
    /// # Errors
    /// A sentence that describes the error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let percent = text.parse().ok().filter(|percent| *percent <= Self::STRICT.0);
        percent.map(Self).ok_or_else(|| format!("{text:?} is no whole number from 0 to 100"))
    }
}

/// Deals out the turns of one subscription.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turns {
    /// Hundredths of a turn that are owed to all queues alike.
    owed: u32,
    /// Queue that the next turn of all queues tries first.
    next: u32,
}

impl Turns {
    /// The place in `open` (queues that may have something, ascending) of the queue whose turn it is.
    pub(super) fn choose(&self, factor: PriorityFactor, open: &[u32]) -> usize {
        if self.is_for_all(factor) {
            let place = open.partition_point(|queue| *queue < self.next);
            if place < open.len() { place } else { 0 }
        } else {
            open.len().saturating_sub(1)
        }
    }

    /// Records that the chosen queue handed out a message.
    pub(super) fn took(&mut self, factor: PriorityFactor, queue: u32) {
        if self.is_for_all(factor) {
            self.owed = self.owed_with(factor) - PriorityFactor::STRICT.0;
            self.next = queue + 1;
        } else {
            self.owed = self.owed_with(factor);
        }
    }

    /// Whether this turn completes a whole share for all queues; with 75, every fourth.
    fn is_for_all(&self, factor: PriorityFactor) -> bool {
        self.owed_with(factor) >= PriorityFactor::STRICT.0
    }

    fn owed_with(&self, factor: PriorityFactor) -> u32 {
        self.owed + PriorityFactor::STRICT.0 - factor.0
    }
}
