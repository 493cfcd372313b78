//! The interface of every table of the state machine, so that the state machine names none of them when it loads,
//! restores or writes a snapshot, flushes, or drops a topic.
//!
//! A table owns its families of the key-value store, their cached part in memory, and their unflushed changes. Records
//! reach it through its own methods: applying one costs no dynamic call.

use std::ops::Range;

use kerolox_core::record::{SnapshotRecord, TrimRecord};

use crate::error::StoreError;
use crate::kv::{KeyFamily, WriteOp};
use crate::state::snapshot::SnapshotLists;

/// A topic and a queue of it.
pub(super) type QueueId = (u32, u32);

/// One key with different values in two stores, or with none in one of them.
pub(super) struct ComparedKey<'a> {
    pub(super) family: KeyFamily,
    /// See [`StateTable::whole_key`].
    pub(super) key: &'a [u8],
    /// Value from a replay of the log.
    pub(super) own: Option<&'a [u8]>,
    /// Value in the other store.
    pub(super) found: Option<&'a [u8]>,
}

/// The beginning of a replay: the snapshot at this position.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplayBegin {
    pub(super) position: u64,
    /// Whether the log begins there.
    pub(super) is_log_begin: bool,
}

/// One table of the state machine. The default of a method does nothing.
pub(super) trait StateTable: Sync {
    /// The families of the store that belong to this table alone; single values of [`KeyFamily::State`] are not among
    /// them.
    fn families(&self) -> &'static [KeyFamily];

    /// Loads the cached part from the store. The table is new.
    fn load(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Sets the fields of a snapshot that are no lists; they are in its first part.
    fn write_snapshot_head(&self, _head: &mut SnapshotRecord) {}

    /// Writes the lists of a snapshot.
    fn write_snapshot(&self, _lists: &mut SnapshotLists) -> Result<(), StoreError> {
        Ok(())
    }

    /// Clears the content that the whole snapshot to be applied next replaces.
    fn clear(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes the table's fields out of a part of a snapshot.
    fn apply_snapshot(&mut self, _part: &mut SnapshotRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Adds the changes since the last flush, in writing order.
    fn changes(&self, ops: &mut Vec<WriteOp>);

    /// Called when the store has all [`Self::changes`].
    fn flushed(&mut self);

    /// Approximate number of keys that the next flush writes.
    fn pending_len(&self) -> usize;

    /// Forgets a topic. `group_ids` are the ids of all groups.
    fn drop_topic(&mut self, _topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Forgets some queues of a topic. `group_ids` are the ids of all groups.
    fn drop_queues(&mut self, _topic_id: u32, _queues: &[u32], _group_ids: &[u32]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Forgets a consumer group.
    fn drop_group(&mut self, _group_id: u32) {}

    /// Drops entries before a log position, and before some offsets of queues.
    fn trim(&mut self, _trim: &TrimRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Ranges of keys that a trim removes at once, before the position of the store advances.
    fn trimmed_ranges(&self, _trim: &TrimRecord) -> Vec<(KeyFamily, Range<Vec<u8>>)> {
        Vec::new()
    }

    /// The key for the whole of which `key` holds a piece: the times of flushes determine the pieces.
    fn whole_key(&self, _family: KeyFamily, key: Vec<u8>) -> Vec<u8> {
        key
    }

    /// A value in a form that shows no borders between pieces.
    fn plain_value(&self, _family: KeyFamily, value: Vec<u8>) -> Vec<u8> {
        value
    }

    /// Whether the values of a key differ only in entries from before the beginning of a replay, whose result this table is: a
    /// long-lived state may know them.
    fn differs_before(&self, _begin: ReplayBegin, _key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Moves the messages of a queue from offset `from` on up by `by` offsets.
    fn shift(&mut self, _queue: QueueId, _from: u64, _by: u64) -> Result<(), StoreError> {
        Ok(())
    }
}
