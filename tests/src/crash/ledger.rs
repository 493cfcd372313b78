//! What the writers know about each message: the other side of the comparison.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What must have become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The broker acknowledged it: delivered, once.
    Delivered,
    /// Never committed: not delivered.
    Never,
    /// The answer was lost: delivered once or not at all.
    Open,
}

/// One message of a writer.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) fate: Fate,
    /// Id of the message, when the broker acknowledged that it is stored.
    pub(super) stored: Option<String>,
    /// Offset that the broker answered, for messages that are visible at once.
    pub(super) offset: Option<i64>,
}

/// All messages by their label, which is also the beginning of their body. Cheap to clone; clones share the content.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    entries: HashMap<String, Entry>,
    acknowledged: usize,
    last_error: String,
}

impl Ledger {
    pub(super) fn note(&self, label: String, entry: Entry) {
        let mut content = self.lock();
        content.acknowledged += usize::from(entry.stored.is_some());
        content.entries.insert(label, entry);
    }

    pub(super) fn note_error(&self, error: impl ToString) {
        self.lock().last_error = error.to_string();
    }

    /// Number of messages that the broker acknowledged as stored.
    pub(super) fn acknowledged(&self) -> usize {
        self.lock().acknowledged
    }

    pub(super) fn last_error(&self) -> String {
        self.lock().last_error.clone()
    }

    pub(super) fn entries(&self) -> HashMap<String, Entry> {
        self.lock().entries.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Every change is one statement, so the content is whole even when a writer panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
