//! The lite topics that may hold messages for one client of one group.

use std::collections::{HashSet, VecDeque};

/// Number of receives whose lite topics are remembered, in case they are repeated.
const REPEATABLE_MAX: usize = 16;

/// Queues that may hold messages for one client, each at most once.
#[derive(Debug, Default)]
pub struct ReadyQueues {
    /// The queue that has waited longest comes first.
    order: VecDeque<u32>,
    known: HashSet<u32>,
    /// Attempt ids, each with the queues that served it.
    attempts: VecDeque<(String, Vec<u32>)>,
}

impl ReadyQueues {
    /// Whether no queue waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a queue that may hold messages.
    pub fn push(&mut self, queue: u32) {
        if self.known.insert(queue) {
            self.order.push_back(queue);
        }
        assert_eq!(self.order.len(), self.known.len(), "each queue stands here once");
    }

    /// Takes the queue that has waited longest.
    pub fn pop(&mut self) -> Option<u32> {
        let queue = self.order.pop_front()?;
        let was_known = self.known.remove(&queue);
        assert!(was_known, "queues in the order are known");
        Some(queue)
    }

    /// Records that a receive with this attempt id got messages of these queues.
    pub fn note_attempt(&mut self, attempt_id: &str, queues: Vec<u32>) {
        if self.attempts.len() == REPEATABLE_MAX {
            self.attempts.pop_front();
        }
        self.attempts.push_back((attempt_id.to_owned(), queues));
        assert!(self.attempts.len() <= REPEATABLE_MAX, "remembered receives are bounded");
    }

    /// Puts the queues of an earlier receive with this attempt id first: the receive is repeated.
    pub fn repeat(&mut self, attempt_id: &str) {
        let Some(place) = self.attempts.iter().position(|(id, _)| id == attempt_id) else { return };
        let Some((_, queues)) = self.attempts.remove(place) else { return };
        for queue in queues.into_iter().rev() {
            if !self.known.insert(queue) {
                self.order.retain(|known| *known != queue);
            }
            self.order.push_front(queue);
        }
        assert_eq!(self.order.len(), self.known.len(), "each queue stands here once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_receive_looks_first_where_it_got_messages() {
        let mut ready = ReadyQueues::default();
        ready.note_attempt("1", vec![5, 6]);
        [7, 6].into_iter().for_each(|queue| ready.push(queue));
        ready.repeat("1");
        ready.repeat("unknown");
        assert_eq!(std::iter::from_fn(|| ready.pop()).collect::<Vec<_>>(), [5, 6, 7]);
        assert!(ready.is_empty());
    }

    #[test]
    fn only_the_newest_attempts_are_remembered() {
        let mut ready = ReadyQueues::default();
        (0..=16).for_each(|attempt: u32| ready.note_attempt(&attempt.to_string(), vec![attempt]));
        ready.repeat("0");
        assert_eq!(ready.pop(), None);
        ready.repeat("1");
        assert_eq!(ready.pop(), Some(1));
    }
}
