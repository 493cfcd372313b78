//! The writer thread: proposals in, durable batches out.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;
use kerolox_log::{Frame, Log, NewFrame};

use crate::error::ProposeError;
use crate::store::{Completion, Shared};

/// Most records of one batch; enough to make the cost of a sync small for each.
const BATCH_RECORDS_MAX: usize = 8192;
/// Most bytes of one batch: keeps the wait of the first record short on slow disks.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// A record that somebody wants to be in the log.
pub(crate) struct Proposal {
    pub(crate) record: NewFrame,
    pub(crate) done: Completion,
}

/// Records that are durable now, with whoever waits for them.
pub(crate) struct Batch {
    pub(crate) records: Vec<(Frame, Completion)>,
}

/// What the writer needs beside the log.
pub(crate) struct Writer {
    pub(crate) log: Log,
    pub(crate) epoch: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) proposals: Receiver<Proposal>,
    pub(crate) batches: Sender<Batch>,
    pub(crate) last_ms: i64,
}

impl Writer {
    /// Runs until every sender of proposals is gone, then closes the log.
    pub(crate) fn run(mut self) {
        while let Ok(first) = self.proposals.recv() {
            let batch = self.collect(first);
            let bytes: usize = batch.iter().map(|proposal| proposal.record.body.len()).sum();
            self.commit(batch);
            self.shared.release_bytes(bytes);
        }
        // Closing batches first lets the indexer finish while the log syncs.
        let Self { log, shared, batches, .. } = self;
        drop(batches);
        if log.failure().is_none()
            && let Err(error) = log.close()
        {
            tracing::error!(%error, "the log could not be closed cleanly; it will be checked at the next start");
            shared.fail(&error.to_string());
        }
    }

    fn collect(&self, first: Proposal) -> Vec<Proposal> {
        let mut bytes = first.record.body.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(next) = self.proposals.try_recv()
        {
            bytes += next.record.body.len();
            batch.push(next);
        }
        batch
    }

    /// Appends and syncs a batch, and hands it on. A failure answers everybody in it and stays.
    fn commit(&mut self, batch: Vec<Proposal>) {
        if let Some(reason) = self.shared.failure() {
            return fail(batch.into_iter().map(|proposal| proposal.done), &reason);
        }
        // Store times never run backwards, so that "by time" look-ups can search by halving.
        let store_ms = self.shared.now_ms().max(self.last_ms);
        self.last_ms = store_ms;
        let (records, waiting): (Vec<NewFrame>, Vec<Completion>) =
            batch.into_iter().map(|proposal| (proposal.record, proposal.done)).unzip();
        let appended = self.log.append(&records, self.epoch, store_ms);
        let places = match appended.and_then(|places| self.log.sync().map(|()| places)) {
            Ok(places) => places,
            Err(error) => {
                tracing::error!(%error, "the log failed and is read-only until the broker is restarted");
                self.shared.fail(&error.to_string());
                return fail(waiting, &error.to_string());
            }
        };
        let records =
            records.into_iter().zip(places).zip(waiting).map(|((record, (position, len)), done)| {
                let frame = Frame {
                    position,
                    len,
                    kind: record.kind,
                    epoch: self.epoch,
                    store_ms,
                    body: Bytes::from(record.body),
                };
                (frame, done)
            });
        let batch = Batch { records: records.collect() };
        if let Err(lost) = self.batches.send(batch) {
            // The indexer stopped; it said why.
            let reason = self.shared.failure().unwrap_or_else(|| "the indexer stopped".to_owned());
            fail(lost.0.records.into_iter().map(|(_, done)| done), &reason);
        }
    }
}

fn fail(waiting: impl IntoIterator<Item = Completion>, reason: &str) {
    for done in waiting {
        done(Err(ProposeError::ReadOnly(reason.to_owned())));
    }
}
