//! The log of the consensus, as the library wants it.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogId, RaftLogReader};

use super::store::{Store, StoreError, key};
use super::types::{Entry, LogId, StorageError, StorageIoError, Types, Vote};

/// Log and vote in the store.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) store: Arc<Store>,
}

/// Runs a write where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    write: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = Arc::clone(store);
    let outcome = tokio::task::spawn_blocking(move || write(&store)).await;
    outcome.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(StoreError::Io(Box::new(redb::Error::Io(std::io::Error::other(error))))),
    })
}

fn failed(kind: fn(AnyError) -> StorageIoError) -> impl FnOnce(StoreError) -> StorageError {
    move |error| kind(AnyError::new(&error)).into()
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        self.store.entries(range).map_err(failed(StorageIoError::read_logs))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let purged = self.store.get::<LogId>(key::PURGED).map_err(failed(StorageIoError::read_logs))?;
        let last = self.store.last_entry::<Entry>().map_err(failed(StorageIoError::read_logs))?;
        let last_log_id = last.map(|entry| *entry.get_log_id()).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let written = blocking(&self.store, move |store| store.put(key::VOTE, &vote)).await;
        written.map_err(failed(StorageIoError::write_vote))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.store.get(key::VOTE).map_err(failed(StorageIoError::read_vote))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let values: Result<Vec<_>, serde_json::Error> = entries
            .into_iter()
            .map(|entry| Ok((entry.get_log_id().index, serde_json::to_vec(&entry)?)))
            .collect();
        let values = values.map_err(StoreError::from).map_err(failed(StorageIoError::write_logs))?;
        let written = blocking(&self.store, move |store| store.append(&values)).await;
        written.map_err(failed(StorageIoError::write_logs))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let written = blocking(&self.store, move |store| store.truncate(from.index)).await;
        written.map_err(failed(StorageIoError::write_logs))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let written = blocking(&self.store, move |store| store.purge(upto.index, &upto)).await;
        written.map_err(failed(StorageIoError::write_logs))
    }
}
