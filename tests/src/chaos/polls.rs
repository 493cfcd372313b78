//! The receives and acknowledgements of all consumers, by consumer group and topic: whether a consumer asks for the messages that
//! are missing, and how long the others keep it busy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kerolox_client::{Event, Observer, Operation};

/// Counts them. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct PollNotes(Arc<Mutex<BTreeMap<(String, String), Polls>>>);

#[derive(Debug, Clone, Default)]
struct Polls {
    count: u64,
    last: Option<Instant>,
    last_with_messages: Option<Instant>,
    last_failure: Option<(Instant, String)>,
    acks: u32,
    /// Time that all acknowledgements took together.
    acking: Duration,
    longest_ack: Duration,
}

impl Polls {
    fn note(&mut self, event: &Event<'_>) {
        let now = Instant::now();
        match event.operation {
            Operation::Receive => {
                self.count += 1;
                self.last = Some(now);
                if event.messages > 0 {
                    self.last_with_messages = Some(now);
                }
            }
            Operation::Ack => {
                self.acks += 1;
                self.acking += event.took;
                self.longest_ack = self.longest_ack.max(event.took);
            }
            _ => return,
        }
        if let Some(error) = event.error {
            self.last_failure = Some((now, format!("{:?}: {error}", event.operation)));
        }
    }
}

impl Observer for PollNotes {
    fn observe(&self, event: &Event<'_>) {
        let Some(group) = event.group else { return };
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.entry((group.to_owned(), event.topic.to_owned())).or_default().note(event);
    }
}

impl PollNotes {
    /// What consumers of a group asked of a topic, in words.
    pub(super) fn of(&self, group: &str, topic: &str) -> String {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let polls = notes.get(&(group.to_owned(), topic.to_owned())).cloned().unwrap_or_default();
        let ago = |at: Option<Instant>| {
            at.map_or_else(|| "never".to_owned(), |at| format!("{:.1} s ago", at.elapsed().as_secs_f64()))
        };
        let failure = polls.last_failure;
        let error = failure.as_ref().map_or_else(String::new, |(_, error)| format!(", {error}"));
        format!(
            "{} receives, the last ended {}, the last with messages {}; {} acknowledgements of {} ms on average and {} ms at most; the last failure {}{}",
            polls.count,
            ago(polls.last),
            ago(polls.last_with_messages),
            polls.acks,
            polls.acking.as_millis() / u128::from(polls.acks.max(1)),
            polls.longest_ack.as_millis(),
            ago(failure.map(|(at, _)| at)),
            error
        )
    }

    /// Begins to count anew.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
