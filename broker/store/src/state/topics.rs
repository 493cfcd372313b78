//! Topics: few and frequently looked up, so they live in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kerolox_core::record::SnapshotRecord;
use kerolox_core::topic::Topic;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;

/// Topics by name and by id, and the permissions withheld from all of them.
pub struct TopicTable {
    overlay: Overlay,
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: HashMap<u32, Arc<Topic>>,
    /// Ids are never reused, so that no remains of a deleted topic can be mistaken for a new one's.
    next_id: u32,
    withheld: u32,
}

impl TopicTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self {
            overlay: Overlay::new(kv.clone()),
            by_name: BTreeMap::new(),
            by_id: HashMap::new(),
            next_id: 1,
            withheld: 0,
        }
    }

    /// The topic with a name.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.get(name).cloned()
    }

    /// The topic with an id.
    pub fn by_id(&self, id: u32) -> Option<Arc<Topic>> {
        self.by_id.get(&id).cloned()
    }

    /// Whether a topic has this id.
    pub fn has(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// All topics, by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.values().cloned().collect()
    }

    /// The id for the next new topic.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Permissions withheld from all topics, whatever their own: [`kerolox_core::topic::PERM_READ`] and
    /// [`kerolox_core::topic::PERM_WRITE`].
    pub fn withheld(&self) -> u32 {
        self.withheld
    }

    pub(super) fn withhold(&mut self, perm: u32) {
        self.withheld = perm;
    }

    /// The topic with an id, without a copy: every message needs it.
    pub(super) fn look_up(&self, id: u32) -> Option<&Topic> {
        self.by_id.get(&id).map(|topic| &**topic)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_id.keys().copied()
    }

    /// Adds a topic, or replaces the one of its name, which has the same id.
    pub(super) fn put(&mut self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.overlay.put(KeyFamily::Topics, keys::id(topic.id), topic.encode_to_vec());
        self.insert(topic.clone());
        topic
    }

    fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }

    /// Marks ids up to this one as taken.
    pub(super) fn note_id(&mut self, id: u32) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }
}

impl StateTable for TopicTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Topics]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for topic in keys::messages::<Topic>(self.overlay.kv(), KeyFamily::Topics, "topic")? {
            self.insert(Arc::new(topic));
        }
        self.next_id = keys::state_u32(self.overlay.kv(), keys::NEXT_TOPIC)?
            .ok_or_else(|| StoreError::Index("next topic id".into()))?;
        self.withheld = keys::state_u32(self.overlay.kv(), keys::WITHHELD)?.unwrap_or(0);
        Ok(())
    }

    fn write_snapshot_head(&self, head: &mut SnapshotRecord) {
        head.next_topic = self.next_id;
        head.withheld = self.withheld;
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.by_name.values().for_each(|topic| lists.message(tag::TOPICS, &**topic));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.by_name.clear();
        for id in std::mem::take(&mut self.by_id).into_keys() {
            self.overlay.delete(KeyFamily::Topics, keys::id(id));
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        if part.part == 0 {
            self.next_id = part.next_topic;
            self.withheld = part.withheld;
        }
        for topic in part.topics.drain(..) {
            self.put(topic);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
        ops.push(keys::put_state(keys::NEXT_TOPIC, &self.next_id.to_be_bytes()));
        // Absent as long as nothing is withheld, as in older indexes.
        ops.push(match self.withheld {
            0 => WriteOp::Delete(KeyFamily::State, keys::WITHHELD.to_vec()),
            perm => keys::put_state(keys::WITHHELD, &perm.to_be_bytes()),
        });
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        if let Some(topic) = self.by_id.remove(&topic_id) {
            self.by_name.remove(&topic.name);
            self.overlay.delete(KeyFamily::Topics, keys::id(topic_id));
        }
        Ok(())
    }
}
