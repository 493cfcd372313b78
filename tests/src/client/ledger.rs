//! What producers and consumers learnt.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerolox_harness::{MessageIntent, MessageLedger, SentMessage};

/// Everything that was sent and received, and what clients met besides. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientLedger {
    pub(super) messages: MessageLedger,
    notes: Arc<Mutex<ClientNotes>>,
}

/// What a history of messages does not say.
#[derive(Debug, Default)]
pub(super) struct ClientNotes {
    /// Transactions of which not even the half message was stored for sure.
    pub(super) not_begun: usize,
    /// Sends that failed for good.
    pub(super) failures: Vec<String>,
    /// The longest that a send took.
    pub(super) slowest: Duration,
    /// By queue: where the pull consumer has come to.
    pub(super) read_to: BTreeMap<String, i64>,
    /// What it should not have seen.
    pub(super) misread: Vec<String>,
    /// Acknowledgements that failed.
    pub(super) failed_acks: usize,
}

impl ClientLedger {
    pub(super) fn notes(&self) -> MutexGuard<'_, ClientNotes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was acknowledged, or failed, after `took`.
    pub(super) fn sent_one<T>(
        &self,
        message: SentMessage,
        body: &str,
        took: Duration,
        result: &kerolox_client::Result<T>,
    ) {
        self.messages.note_sent(body, SentMessage { is_acknowledged: result.is_ok(), ..message });
        let mut notes = self.notes();
        notes.slowest = notes.slowest.max(took);
        if let Err(error) = result {
            notes.failures.push(format!("{body} after {took:?}: {error}"));
        }
    }

    /// Messages that consumers are to get so far.
    pub(super) fn sent(&self) -> usize {
        let sent = self.messages.history().sent;
        sent.values().filter(|sent| sent.is_acknowledged && sent.intent == MessageIntent::Deliver).count()
    }
}
