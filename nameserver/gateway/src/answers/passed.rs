//! Answers to calls that other servers passed on.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use kerolox_runtime::listen::LostAnswer;
use parking_lot::Mutex;

/// How long a server that passed a call on may take to say that it broke: longer than it takes that one to find a dead line.
const REMEMBERED: Duration = Duration::from_secs(70);
/// Most items in answers that are remembered at a time; beyond it the oldest ones count as arrived.
const ITEMS_MAX: usize = 262_144;

/// The answers of this process that went to servers which had passed the calls on, by the numbers of the calls.
#[derive(Default)]
pub struct PassedAnswers(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    by_number: HashMap<String, (usize, LostAnswer)>,
    /// In the order in which they were sent.
    sent: VecDeque<(Instant, String)>,
    items: usize,
}

impl fmt::Debug for PassedAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassedAnswers").finish_non_exhaustive()
    }
}

impl PassedAnswers {
    /// The call of this number broke at the server that had passed it on.
    pub fn broke(&self, number: &str) {
        let lost = self.0.lock().take(number);
        if let Some(lost) = lost {
            lost();
        }
    }

    /// An answer was sent.
    pub(super) fn sent(&self, number: String, items: usize, lost: LostAnswer) {
        let mut remembered = self.0.lock();
        let now = Instant::now();
        remembered.items += items;
        remembered.sent.push_back((now, number.clone()));
        remembered.by_number.insert(number, (items, lost));
        remembered.forget_old(now);
    }
}

impl Remembered {
    fn take(&mut self, number: &str) -> Option<LostAnswer> {
        let (items, lost) = self.by_number.remove(number)?;
        self.items -= items;
        Some(lost)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((sent, _)) = self.sent.front()
            && (self.items > ITEMS_MAX || now.saturating_duration_since(*sent) > REMEMBERED)
            && let Some((_, number)) = self.sent.pop_front()
        {
            drop(self.take(&number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_call_that_broke_loses_its_answer_once() {
        let (answers, seen) = (PassedAnswers::default(), Arc::new(Mutex::new(Vec::new())));
        for number in ["one", "two"] {
            let seen = seen.clone();
            answers.sent(number.to_owned(), 1, Box::new(move || seen.lock().push(number)));
        }
        answers.broke("two");
        answers.broke("two");
        answers.broke("three");
        assert_eq!(*seen.lock(), ["two"]);
        answers.sent("many".to_owned(), ITEMS_MAX, Box::new(|| {}));
        answers.broke("one");
        assert_eq!(seen.lock().len(), 1, "a bounded number is remembered");
        assert_eq!(answers.0.lock().items, ITEMS_MAX);
    }
}
