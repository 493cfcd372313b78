//! What producers and consumers learnt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Everything that was sent and received. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Notes>>);

/// The notes of a [`Ledger`]. Messages go by their bodies.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By topic: what was acknowledged, or committed.
    pub(super) sent: BTreeMap<&'static str, BTreeSet<String>>,
    /// What was rolled back.
    pub(super) rolled_back: BTreeSet<String>,
    /// Transactions of which not even the half message was stored for sure.
    pub(super) not_begun: usize,
    /// Sends that failed for good.
    pub(super) failures: Vec<String>,
    /// The longest that a send took.
    pub(super) slowest: Duration,
    /// By consumer: how often it got which message.
    pub(super) received: BTreeMap<&'static str, BTreeMap<String, u32>>,
    /// By message group: the numbers in the order in which they were done.
    pub(super) order: BTreeMap<String, Vec<u64>>,
    /// By queue: where the pull consumer has come to.
    pub(super) read_to: BTreeMap<String, i64>,
    /// What it should not have seen.
    pub(super) misread: Vec<String>,
    /// Acknowledgements that failed.
    pub(super) failed_acks: usize,
}

impl Ledger {
    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of `topic` was acknowledged, or failed, after `took`.
    pub(super) fn sent_one<T>(
        &self,
        topic: &'static str,
        body: String,
        took: Duration,
        result: &kerolox_client::Result<T>,
    ) {
        let mut notes = self.notes();
        notes.slowest = notes.slowest.max(took);
        match result {
            Ok(_) => {
                notes.sent.entry(topic).or_default().insert(body);
            }
            Err(error) => notes.failures.push(format!("{body} after {took:?}: {error}")),
        }
    }

    pub(super) fn received_one(&self, consumer: &'static str, body: &str) {
        let mut notes = self.notes();
        *notes.received.entry(consumer).or_default().entry(body.to_owned()).or_default() += 1;
    }

    /// Messages that were sent so far.
    pub(super) fn sent(&self) -> usize {
        self.notes().sent.values().map(BTreeSet::len).sum()
    }

    /// What of `topic` `consumer` has not got.
    pub(super) fn missing(&self, topic: &str, consumer: &str) -> Vec<String> {
        let notes = self.notes();
        let received = notes.received.get(consumer);
        let is_missing = |body: &&String| received.is_none_or(|received| !received.contains_key(*body));
        notes.sent.get(topic).into_iter().flatten().filter(is_missing).cloned().collect()
    }
}
