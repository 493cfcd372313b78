//! What the clients know: what was sent, what was acknowledged and when, what was received and in which order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::label;

/// All messages by their label. Cheap to clone; clones share the content.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Content>>);

/// A message that somebody sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// The broker said that it is stored.
    pub(super) is_acknowledged: bool,
    /// Its transaction was committed, as the broker said; only for transactions.
    pub(super) is_committed: bool,
}

/// A message that a consumer got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Place of the first time among everything that was received.
    pub(super) turn: u64,
    pub(super) times: u64,
}

/// The content of a ledger.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) sent: HashMap<String, Sent>,
    pub(super) received: HashMap<String, Received>,
    /// Labels of messages that came with another body than they were sent with.
    pub(super) spoilt: Vec<String>,
    /// When acknowledgements came.
    pub(super) acknowledgements: Vec<Instant>,
    pub(super) last_error: String,
    turns: u64,
}

impl Content {
    /// Whether consumers must get a message sooner or later.
    pub(super) fn is_owed(label: &str, sent: Sent) -> bool {
        sent.is_acknowledged && label::is_visible(label)
    }

    /// Messages that are owed and did not come yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        self.sent
            .iter()
            .filter(|(label, sent)| Self::is_owed(label, **sent) && !self.received.contains_key(*label))
            .map(|(label, _)| label.as_str())
    }
}

impl Ledger {
    /// Before the message leaves.
    pub(super) fn on_send(&self, label: &str) {
        self.lock().sent.insert(label.to_owned(), Sent::default());
    }

    pub(super) fn on_acknowledged(&self, label: &str) {
        let mut content = self.lock();
        content.sent.entry(label.to_owned()).or_default().is_acknowledged = true;
        content.acknowledgements.push(Instant::now());
    }

    pub(super) fn on_committed(&self, label: &str) {
        self.lock().sent.entry(label.to_owned()).or_default().is_committed = true;
    }

    /// Before the message is acknowledged to the broker.
    pub(super) fn on_received(&self, body: &[u8]) {
        let label = label::of(body);
        let mut content = self.lock();
        if label::body(&label) != body {
            content.spoilt.push(label.clone());
        }
        content.turns += 1;
        let turn = content.turns;
        content.received.entry(label).or_insert(Received { turn, times: 0 }).times += 1;
    }

    pub(super) fn on_error(&self, error: impl ToString) {
        self.lock().last_error = error.to_string();
    }

    /// Messages that were acknowledged so far.
    pub(super) fn acknowledged(&self) -> usize {
        self.lock().acknowledgements.len()
    }

    /// Messages that came so far, each time counted.
    pub(super) fn receptions(&self) -> u64 {
        self.lock().turns
    }

    pub(super) fn missing(&self) -> usize {
        self.lock().missing().count()
    }

    pub(super) fn last_error(&self) -> String {
        self.lock().last_error.clone()
    }

    pub(super) fn content(&self) -> Content {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Every change leaves the content whole, also when a writer panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
