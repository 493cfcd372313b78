//! The groups as far as the log has come, as the library wants them. Kept in memory; durable as the log and its snapshots.

use std::io::Cursor;
use std::sync::Arc;

use kerolox_controller::{CommandReply, GroupTable};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use super::log::blocking;
use super::store::{Store, StoreError};
use super::types::{Entry, LogId, SnapshotMeta, StorageError, StorageIoError, StoredMembership, Types};

/// The state that was applied so far.
#[derive(Default)]
struct Applied {
    upto: Option<LogId>,
    membership: StoredMembership,
    groups: Arc<GroupTable>,
}

/// Shared with the services that answer questions.
#[derive(Clone)]
pub(super) struct Machine {
    store: Arc<Store>,
    applied: Arc<RwLock<Applied>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Machine {
    /// As of the newest snapshot.
    pub(super) fn load(store: Arc<Store>) -> Result<Self, StoreError> {
        let applied = match store.snapshot::<SnapshotMeta>()? {
            Some((meta, bytes)) => Applied {
                upto: meta.last_log_id,
                membership: meta.last_membership,
                groups: Arc::new(serde_json::from_slice(&bytes)?),
            },
            None => Applied::default(),
        };
        Ok(Self { store, applied: Arc::new(RwLock::new(applied)), changes: watch::Sender::new(0) })
    }

    /// The groups as they are at the moment.
    pub(super) fn groups(&self) -> Arc<GroupTable> {
        Arc::clone(&self.read().groups)
    }

    /// Changes with every change of the groups.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Applied> {
        // A panic ends the process, so no other thread sees what it left behind.
        self.applied.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Applied> {
        self.applied.write()
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let applied = self.read();
        Ok((applied.upto, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<CommandReply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        {
            let mut applied = self.write();
            for entry in entries {
                applied.upto = Some(entry.log_id);
                replies.push(match entry.payload {
                    EntryPayload::Normal(Some(command)) => Arc::make_mut(&mut applied.groups).apply(command),
                    EntryPayload::Blank | EntryPayload::Normal(None) => CommandReply::Done,
                    EntryPayload::Membership(membership) => {
                        applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                        CommandReply::Done
                    }
                });
            }
        }
        self.changes.send_modify(|count| *count += 1);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let unreadable = |error| StorageIoError::read_snapshot(Some(meta.signature()), AnyError::new(&error));
        let groups: GroupTable = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let stored = meta.clone();
        let written = blocking(&self.store, move |store| store.put_snapshot(&stored, &bytes)).await;
        written.map_err(|error| unwritable(meta, &error))?;
        let membership = meta.last_membership.clone();
        *self.write() = Applied { upto: meta.last_log_id, membership, groups: Arc::new(groups) };
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let stored = self.store.snapshot::<SnapshotMeta>();
        let stored = stored.map_err(|error| StorageIoError::read_snapshot(None, AnyError::new(&error)))?;
        Ok(stored.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let (meta, bytes) = {
            let applied = self.read();
            let index = applied.upto.map_or(0, |upto| upto.index);
            let meta = SnapshotMeta {
                last_log_id: applied.upto,
                last_membership: applied.membership.clone(),
                snapshot_id: index.to_string(),
            };
            (meta, serde_json::to_vec(applied.groups.as_ref()))
        };
        let bytes = bytes.map_err(|error| unwritable(&meta, &error.into()))?;
        let (stored, copy) = (meta.clone(), bytes.clone());
        let written = blocking(&self.store, move |store| store.put_snapshot(&stored, &copy)).await;
        written.map_err(|error| unwritable(&meta, &error))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

fn unwritable(meta: &SnapshotMeta, error: &StoreError) -> StorageError {
    StorageIoError::write_snapshot(Some(meta.signature()), AnyError::new(error)).into()
}
