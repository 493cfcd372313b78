//! A sync on another thread, while appends to the log continue.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use crate::error::LogError;
use crate::segment::{Segment, Shared};

/// Makes the records durable that were appended before [`crate::Log::sync_elsewhere`] returned it. A task that is
/// dropped without being run counts as failed: the durable end is then unknown.
#[must_use = "the log waits for it"]
pub struct SyncTask {
    segment: Segment,
    until: u64,
    shared: Arc<Shared>,
    outcome: Sender<Result<(), String>>,
}

impl SyncTask {
    /// The task that syncs everything before `until`, and the receiver of its outcome.
    pub(crate) fn new(segment: Segment, until: u64, shared: Arc<Shared>) -> (Self, Outcome) {
        let (outcome, receiver) = channel();
        (Self { segment, until, shared, outcome }, Outcome(receiver))
    }

    /// Syncs. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is read-only from then on.
    pub fn run(self) -> Result<(), LogError> {
        let synced = self.segment.sync();
        if synced.is_ok() {
            self.shared.set_durable(self.until);
        }
        let outcome = match &synced {
            Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        // A log that was dropped does not need the outcome.
        let _ = self.outcome.send(outcome);
        synced
    }
}

/// The outcome of a [`SyncTask`].
pub(crate) struct Outcome(Receiver<Result<(), String>>);

impl Outcome {
    /// Waits for the outcome. An error says why the sync failed.
    pub(crate) fn wait(&self) -> Result<(), String> {
        self.0.recv().unwrap_or_else(|_| Err(given_up()))
    }

    /// Returns the outcome without waiting; `None` while the sync runs.
    pub(crate) fn look(&self) -> Option<Result<(), String>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(given_up())),
        }
    }
}

fn given_up() -> String {
    "a sync of the log was given up".to_owned()
}
