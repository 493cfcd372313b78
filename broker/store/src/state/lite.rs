//! Lite topics: the queues of a parent and their names.

use std::sync::Arc;

use kerolox_core::lite::{FIRST_LITE_QUEUE, is_lite};
use kerolox_core::record::{LiteTopic, SnapshotRecord};
use prost::Message;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;

/// Lite topics that are read at a time.
const PAGE: usize = 1_000;

/// Lite topics by parent and name. Their queues are among the others.
pub struct LiteTable {
    overlay: Overlay,
    /// The number for the next lite topic.
    next_queue: u32,
}

impl LiteTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { overlay: Overlay::new(kv.clone()), next_queue: FIRST_LITE_QUEUE }
    }

    /// The lite topic with a name.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn get(&self, topic_id: u32, name: &str) -> Result<Option<LiteTopic>, StoreError> {
        let stored = self.overlay.get(KeyFamily::Lites, &keys::lite(topic_id, name))?;
        stored.map(|bytes| decode(&bytes)).transpose()
    }

    /// Up to `max` lite topics of a parent, by name, beginning after `after`; an empty `after` begins with the first.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn page(&self, topic_id: u32, after: &str, max: usize) -> Result<Vec<LiteTopic>, StoreError> {
        self.with_prefix(topic_id, "", after, max)
    }

    /// [`Self::page`] of those whose names begin with `prefix`.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn with_prefix(
        &self,
        topic_id: u32,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<LiteTopic>, StoreError> {
        let own = keys::lite(topic_id, prefix);
        // The smallest key behind that of `after`.
        let behind = || [keys::lite(topic_id, after), vec![0]].concat();
        let from = if after.is_empty() { own.clone() } else { own.clone().max(behind()) };
        let found = self.overlay.scan(KeyFamily::Lites, &from, max)?;
        let own = found.iter().take_while(|(key, _)| key.starts_with(&own));
        own.map(|(_, value)| decode(value)).collect()
    }

    /// The queue number for the next new lite topic.
    pub fn next_queue(&self) -> u32 {
        self.next_queue
    }

    /// Adds a lite topic, whose queue is or will be among the others.
    pub(super) fn put(&mut self, lite: &LiteTopic) {
        assert!(is_lite(lite.queue), "a lite topic has one of the numbers that are theirs");
        self.next_queue = self.next_queue.max(lite.queue.saturating_add(1));
        self.overlay.put(KeyFamily::Lites, keys::lite(lite.topic_id, &lite.name), lite.encode_to_vec());
    }

    pub(super) fn remove(&mut self, topic_id: u32, name: &str) {
        self.overlay.delete(KeyFamily::Lites, keys::lite(topic_id, name));
    }

    pub(super) fn all(&self) -> Result<Vec<LiteTopic>, StoreError> {
        self.overlay.pairs(KeyFamily::Lites).map(|pair| decode(&pair?.1)).collect()
    }
}

impl StateTable for LiteTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Lites]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        // Absent in an index from before there were lite topics.
        self.next_queue = keys::state_u32(self.overlay.kv(), keys::NEXT_LITE)?.unwrap_or(FIRST_LITE_QUEUE);
        Ok(())
    }

    fn write_snapshot_head(&self, head: &mut SnapshotRecord) {
        // Absent before the first one: logs without lite topics look as they always did.
        head.next_lite = if self.next_queue == FIRST_LITE_QUEUE { 0 } else { self.next_queue };
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(KeyFamily::Lites) {
            lists.stored(tag::LITES, &pair?.1);
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        for old in self.all()? {
            self.remove(old.topic_id, &old.name);
        }
        self.next_queue = FIRST_LITE_QUEUE;
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        if part.part == 0 {
            self.next_queue = self.next_queue.max(part.next_lite);
        }
        for lite in part.lites.drain(..) {
            self.overlay.put(KeyFamily::Lites, keys::lite(lite.topic_id, &lite.name), lite.encode_to_vec());
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
        ops.push(keys::put_state(keys::NEXT_LITE, &self.next_queue.to_be_bytes()));
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let page = self.page(topic_id, &after, PAGE)?;
            for lite in &page {
                self.remove(topic_id, &lite.name);
            }
            match page.into_iter().last() {
                Some(last) => after = last.name,
                None => return Ok(()),
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Result<LiteTopic, StoreError> {
    LiteTopic::decode(bytes).map_err(|_| StoreError::Index("lite topic".into()))
}
