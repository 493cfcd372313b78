//! What every table of the state machine can do, so that the state machine names none of them when it loads, takes up or
//! writes a snapshot, flushes, or lets a topic go.
//!
//! A table owns its families of the key-value store, what of them it keeps in memory, and what is not flushed yet. Records
//! reach it through methods of its own: applying one costs no dynamic call.

use std::ops::Range;

use kerolox_core::record::{SnapshotRecord, TrimRecord};

use crate::error::StoreError;
use crate::kv::{KeyFamily, WriteOp};
use crate::state::snapshot::SnapshotLists;

/// A topic and a queue of it.
pub(super) type QueueId = (u32, u32);

/// One key of two stores that hold another value under it, or none.
pub(super) struct ComparedKey<'a> {
    pub(super) family: KeyFamily,
    /// See [`StateTable::whole_key`].
    pub(super) key: &'a [u8],
    /// What a replay of the log gives.
    pub(super) own: Option<&'a [u8]>,
    /// What the other store holds.
    pub(super) found: Option<&'a [u8]>,
}

/// Where a replay began: with the snapshot at this position.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplayBegin {
    pub(super) position: u64,
    /// Whether the log begins there.
    pub(super) is_log_begin: bool,
}

/// One table of the state machine. What a table has nothing to do with does nothing.
pub(super) trait StateTable: Sync {
    /// The families of the store that are the table's alone; single values of [`KeyFamily::State`] are not among them.
    fn families(&self) -> &'static [KeyFamily];

    /// Reads from the store what is kept in memory. The table is new.
    fn load(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Sets the fields of a snapshot that are no lists; they stand in its first part.
    fn write_snapshot_head(&self, _head: &mut SnapshotRecord) {}

    /// Writes the lists of a snapshot.
    fn write_snapshot(&self, _lists: &mut SnapshotLists) -> Result<(), StoreError> {
        Ok(())
    }

    /// Forgets what the whole snapshot says anew that is applied next.
    fn clear(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes the table's fields out of a part of a snapshot.
    fn apply_snapshot(&mut self, _part: &mut SnapshotRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Adds what changed since the last flush, in the order in which it is to be written.
    fn changes(&self, ops: &mut Vec<WriteOp>);

    /// The store has all [`Self::changes`].
    fn flushed(&mut self);

    /// Roughly how many keys the next flush writes.
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

    /// Gives up what lies before a log position, and before some offsets of queues.
    fn trim(&mut self, _trim: &TrimRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Ranges of keys that a trim removes at once, before the position moves on up to which the store stands.
    fn trimmed_ranges(&self, _trim: &TrimRecord) -> Vec<(KeyFamily, Range<Vec<u8>>)> {
        Vec::new()
    }

    /// The key that stands for everything of which `key` holds a piece: when the table was flushed decides what a piece is.
    fn whole_key(&self, _family: KeyFamily, key: Vec<u8>) -> Vec<u8> {
        key
    }

    /// A value in a form that shows no borders between pieces.
    fn plain_value(&self, _family: KeyFamily, value: Vec<u8>) -> Vec<u8> {
        value
    }

    /// Whether the values of a key differ only in what lies before the beginning of a replay, after which this table stands: a
    /// state that was there all the time may know it.
    fn differs_before(&self, _begin: ReplayBegin, _key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// The messages of a queue from offset `from` on stand `by` offsets further up than was thought.
    fn shift(&mut self, _queue: QueueId, _from: u64, _by: u64) -> Result<(), StoreError> {
        Ok(())
    }
}
