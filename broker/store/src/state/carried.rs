//! Visible messages whose record was carried forward, because it was still needed when its segment was removed.

use std::collections::HashSet;
use std::sync::Arc;

use kerolox_core::record::{KeptMessage, SnapshotRecord, TrimRecord};

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::queues::{QueueEntry, decode_entry, encode_entry};
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;

/// Positions of message records that were carried forward, by queue and offset.
pub struct CarriedTable {
    overlay: Overlay,
}

impl CarriedTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { overlay: Overlay::new(kv.clone()) }
    }

    /// The entry of a message whose record was carried forward.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn get(&self, topic_id: u32, queue: u32, offset: u64) -> Result<Option<QueueEntry>, StoreError> {
        let stored = self.overlay.get(KeyFamily::Kept, &keys::block(topic_id, queue, offset))?;
        stored.map(|bytes| decode_entry(&bytes)).transpose()
    }

    pub(super) fn put(&mut self, topic_id: u32, queue: u32, offset: u64, entry: &QueueEntry) {
        let key = keys::block(topic_id, queue, offset);
        self.overlay.put(KeyFamily::Kept, key, encode_entry(entry).to_vec());
    }

    fn each(&self, mut visit: impl FnMut(KeptMessage)) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(KeyFamily::Kept) {
            let (key, value) = pair?;
            let (topic_id, queue, offset) = keys::parse_block(&key)?;
            let QueueEntry { position, len, tag_hash, visible_ms } = decode_entry(&value)?;
            visit(KeptMessage { topic_id, queue, offset, position, len, tag_hash, visible_ms });
        }
        Ok(())
    }

    fn forget(&mut self, is_gone: impl Fn(&KeptMessage) -> bool) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        self.each(|kept| {
            if is_gone(&kept) {
                gone.push(keys::block(kept.topic_id, kept.queue, kept.offset));
            }
        })?;
        gone.into_iter().for_each(|key| self.overlay.delete(KeyFamily::Kept, key));
        Ok(())
    }
}

impl StateTable for CarriedTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Kept]
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.each(|kept| lists.message(tag::KEPT, &kept))
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.forget(|_| true)
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        for kept in part.kept.drain(..) {
            let KeptMessage { topic_id, queue, offset, position, len, tag_hash, visible_ms } = kept;
            self.put(topic_id, queue, offset, &QueueEntry { position, len, tag_hash, visible_ms });
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }

    fn drop_queues(&mut self, topic_id: u32, queues: &[u32], _group_ids: &[u32]) -> Result<(), StoreError> {
        let queues: HashSet<u32> = queues.iter().copied().collect();
        self.forget(|kept| kept.topic_id == topic_id && queues.contains(&kept.queue))
    }

    /// Records carried forward into a segment that is removed now are not needed any more, or were carried forward once
    /// more.
    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        self.forget(|kept| kept.position < trim.before)
    }
}
