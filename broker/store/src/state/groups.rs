//! Consumer groups: few and frequently looked up, so they live in memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::record::SnapshotRecord;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::keys;
use crate::state::overlay::Overlay;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;

/// Consumer groups by name.
pub struct GroupTable {
    overlay: Overlay,
    by_name: BTreeMap<String, Arc<Group>>,
    ids: HashSet<u32>,
    /// Ids are never reused, so that no remains of a deleted group can be mistaken for a new one's.
    next_id: u32,
}

impl GroupTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        let overlay = Overlay::new(kv.clone());
        Self { overlay, by_name: BTreeMap::new(), ids: HashSet::new(), next_id: 1 }
    }

    /// The consumer group with a name.
    pub fn get(&self, name: &str) -> Option<Arc<Group>> {
        self.by_name.get(name).cloned()
    }

    /// Whether a group has this id.
    pub fn has(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// All consumer groups, by name.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.by_name.values().cloned().collect()
    }

    /// The id for the next new consumer group.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Ids of all groups, in their order.
    pub(super) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.ids.iter().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Adds a group, or replaces the one of its name, which has the same id.
    pub(super) fn put(&mut self, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        self.overlay.put(KeyFamily::Groups, keys::id(group.id), group.encode_to_vec());
        self.insert(group.clone());
        group
    }

    fn insert(&mut self, group: Arc<Group>) {
        self.ids.insert(group.id);
        self.by_name.insert(group.name.clone(), group);
        debug_assert_eq!(self.ids.len(), self.by_name.len(), "a group has one name and one id");
    }

    /// Marks ids up to this one as taken.
    pub(super) fn note_id(&mut self, id: u32) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }
}

impl StateTable for GroupTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Groups]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for group in keys::messages::<Group>(self.overlay.kv(), KeyFamily::Groups, "group")? {
            self.insert(Arc::new(group));
        }
        self.next_id = keys::state_u32(self.overlay.kv(), keys::NEXT_GROUP)?
            .ok_or_else(|| StoreError::Index("next group id".into()))?;
        Ok(())
    }

    fn write_snapshot_head(&self, head: &mut SnapshotRecord) {
        head.next_group = self.next_id;
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        self.by_name.values().for_each(|group| lists.message(tag::GROUPS, &**group));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.by_name.clear();
        for id in self.ids.drain() {
            self.overlay.delete(KeyFamily::Groups, keys::id(id));
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        if part.part == 0 {
            self.next_id = part.next_group;
        }
        for group in part.groups.drain(..) {
            self.put(group);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
        ops.push(keys::put_state(keys::NEXT_GROUP, &self.next_id.to_be_bytes()));
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }

    fn drop_group(&mut self, group_id: u32) {
        if self.ids.remove(&group_id) {
            self.by_name.retain(|_, group| group.id != group_id);
            self.overlay.delete(KeyFamily::Groups, keys::id(group_id));
        }
    }
}
