//! The lite topics in which there may be something for one client of one group.

use std::collections::{HashSet, VecDeque};

/// Receives whose lite topics are remembered, for when they are repeated.
const REPEATABLE_MAX: usize = 16;

/// Queues that may hold something for one client; each stands here once.
#[derive(Debug, Default)]
pub struct ReadyQueues {
    /// The queue that has waited longest comes first.
    order: VecDeque<u32>,
    known: HashSet<u32>,
    /// Attempt ids, and the queues that they got messages of.
    attempts: VecDeque<(String, Vec<u32>)>,
}

impl ReadyQueues {
    /// Whether no queue waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// There may be something in a queue.
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
        assert!(was_known, "what stands in the order is known");
        Some(queue)
    }

    /// A receive with this attempt id got messages of these queues.
    pub fn note_attempt(&mut self, attempt_id: &str, queues: Vec<u32>) {
        if self.attempts.len() == REPEATABLE_MAX {
            self.attempts.pop_front();
        }
        self.attempts.push_back((attempt_id.to_owned(), queues));
        assert!(self.attempts.len() <= REPEATABLE_MAX, "what is remembered is bounded");
    }

    /// The receive with this attempt id is repeated: the queues that it got messages of come first.
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
