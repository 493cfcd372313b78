//! Answers on their way over one connection.
//!
//! Nothing says when a written answer has arrived: the other end may be a proxy, the line may be dead. The
//! sign of its arrival is a peer that is heard a while later, on the connection that carried it: whatever
//! breaks an answer breaks the connection, and the keepalive of HTTP/2 finds a dead line. So an answer is
//! remembered until then, and a connection that ends before says so to those whose answers it may have lost.
//! A client that closes its connection of its own will has what it wanted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A peer that is heard this long after an answer was written has got it.
const ARRIVED_AFTER: Duration = Duration::from_secs(5);
/// Most items in answers that are remembered at a time for one connection; beyond it the oldest ones count as arrived.
const ITEMS_MAX: usize = 65_536;

/// The action to take when an answer was lost.
pub type LostAnswer = Box<dyn FnOnce() + Send>;

/// The answers that were written to one connection and may not have arrived.
pub struct OpenAnswers {
    since: Instant,
    /// When the peer was heard last, milliseconds after `since`.
    heard_ms: AtomicU64,
    /// `None` once the connection has ended.
    open: Mutex<Option<Open>>,
}

/// The reader of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerReader {
    /// A client: it has what it wanted when it closes the connection of its own will.
    Client,
    /// A server that passed the call on. When it closes the connection, its clients may still wait.
    Server,
}

#[derive(Default)]
struct Open {
    answers: VecDeque<Answer>,
    items: usize,
}

struct Answer {
    written_ms: u64,
    items: usize,
    reader: AnswerReader,
    lost: LostAnswer,
}

impl Default for OpenAnswers {
    fn default() -> Self {
        Self { since: Instant::now(), heard_ms: AtomicU64::new(0), open: Mutex::new(Some(Open::default())) }
    }
}

impl fmt::Debug for OpenAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAnswers").field("since", &self.since).finish_non_exhaustive()
    }
}

impl OpenAnswers {
    /// An answer with so many items was handed to the connection. `lost` is carried out when the connection ends before it is
    /// known to have arrived, at once if it has ended.
    pub fn written(&self, items: usize, reader: AnswerReader, lost: LostAnswer) {
        let written_ms = self.now_ms();
        self.put(Answer { written_ms, items, reader, lost });
    }

    /// The peer was heard.
    pub(super) fn heard(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The connection has ended, closed by its peer with a goodbye or not.
    pub(super) fn end(&self, is_goodbye: bool) {
        let open = self.open.lock().take();
        let Some(mut open) = open else { return };
        open.forget_arrived(self.heard_ms.load(Ordering::Relaxed));
        let lost =
            open.answers.into_iter().filter(|answer| !(is_goodbye && answer.reader == AnswerReader::Client));
        lost.for_each(|answer| (answer.lost)());
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn put(&self, answer: Answer) {
        let mut open = self.open.lock();
        match &mut *open {
            Some(open) => {
                open.forget_arrived(self.heard_ms.load(Ordering::Relaxed));
                open.add(answer);
            }
            None => {
                drop(open);
                (answer.lost)();
            }
        }
    }
}

impl Open {
    fn forget_arrived(&mut self, heard_ms: u64) {
        let arrived =
            |answer: &Answer| answer.written_ms.saturating_add(ARRIVED_AFTER.as_millis() as u64) <= heard_ms;
        while self.answers.front().is_some_and(arrived) {
            self.forget_first();
        }
    }

    fn add(&mut self, answer: Answer) {
        self.items += answer.items;
        self.answers.push_back(answer);
        while self.items > ITEMS_MAX {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            self.items -= answer.items;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Numbers of the answers that were lost.
    type Seen = Arc<Mutex<Vec<u64>>>;

    fn write(answers: &OpenAnswers, seen: &Seen, at_ms: u64, items: usize) {
        let seen = seen.clone();
        let lost = Box::new(move || seen.lock().push(at_ms));
        answers.put(Answer { written_ms: at_ms, items, reader: AnswerReader::Client, lost });
    }

    #[test]
    fn an_answer_has_arrived_when_the_peer_is_heard_a_while_later() {
        let (answers, seen) = (OpenAnswers::default(), Seen::default());
        for at_ms in [1_000, 2_000, 3_000] {
            write(&answers, &seen, at_ms, 1);
        }
        answers.heard_ms.store(7_000, Ordering::Relaxed);
        answers.end(false);
        assert_eq!(*seen.lock(), [3_000], "the peer was not heard 5 s after it");
        write(&answers, &seen, 9_000, 1);
        assert_eq!(*seen.lock(), [3_000, 9_000], "the connection had ended");
        answers.end(false);
        assert_eq!(seen.lock().len(), 2, "each is lost once");
    }

    #[test]
    fn a_client_that_says_goodbye_has_its_answers_and_a_server_may_not() {
        let (answers, seen) = (OpenAnswers::default(), Seen::default());
        for reader in [AnswerReader::Client, AnswerReader::Server] {
            let seen = seen.clone();
            answers.written(1, reader, Box::new(move || seen.lock().push(reader as u64)));
        }
        answers.end(true);
        assert_eq!(*seen.lock(), [AnswerReader::Server as u64]);
    }

    #[test]
    fn a_connection_remembers_a_bounded_number_of_items() {
        let (answers, seen) = (OpenAnswers::default(), Seen::default());
        for at_ms in 0..4 {
            write(&answers, &seen, at_ms, ITEMS_MAX / 2);
        }
        answers.end(false);
        assert_eq!(*seen.lock(), [2, 3]);
    }
}
