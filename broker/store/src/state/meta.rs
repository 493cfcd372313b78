//! Topics and consumer groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::topic::Topic;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{Family, Kv, pairs};
use crate::state::{StateMachine, keys};

/// Topics and groups are few and looked up all the time: they live in memory.
pub(super) struct Meta {
    pub(super) topics: BTreeMap<String, Arc<Topic>>,
    pub(super) topics_by_id: HashMap<u32, Arc<Topic>>,
    pub(super) groups: BTreeMap<String, Arc<Group>>,
    pub(super) group_ids: HashSet<u32>,
    /// Ids are never given twice, so that nothing left of a deleted topic can be taken for a new one's.
    pub(super) next_topic: u32,
    pub(super) next_group: u32,
    /// Permissions that all topics lack, whatever they have themselves.
    pub(super) withheld: u32,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            topics_by_id: HashMap::new(),
            groups: BTreeMap::new(),
            group_ids: HashSet::new(),
            next_topic: 1,
            next_group: 1,
            withheld: 0,
        }
    }
}

impl Meta {
    pub(super) fn load(kv: &dyn Kv) -> Result<Self, StoreError> {
        let mut meta = Self::default();
        for topic in load_all::<Topic>(kv, Family::Topics, "topic")? {
            meta.insert_topic(topic);
        }
        for group in load_all::<Group>(kv, Family::Groups, "group")? {
            meta.insert_group(group);
        }
        let next = |key: &[u8], what: &str| match kv.get(Family::State, key)? {
            Some(bytes) => keys::read_u32(&bytes, what),
            None => Err(StoreError::Index(what.to_owned())),
        };
        meta.next_topic = next(keys::NEXT_TOPIC, "next topic id")?;
        meta.next_group = next(keys::NEXT_GROUP, "next group id")?;
        if let Some(bytes) = kv.get(Family::State, keys::WITHHELD)? {
            meta.withheld = keys::read_u32(&bytes, "withheld permissions")?;
        }
        Ok(meta)
    }

    pub(super) fn insert_topic(&mut self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.topics.insert(topic.name.clone(), topic.clone());
        self.topics_by_id.insert(topic.id, topic.clone());
        topic
    }

    pub(super) fn insert_group(&mut self, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        self.group_ids.insert(group.id);
        self.groups.insert(group.name.clone(), group.clone());
        group
    }
}

fn load_all<M: Message + Default>(kv: &dyn Kv, family: Family, what: &str) -> Result<Vec<M>, StoreError> {
    pairs(|from, limit| kv.scan(family, from, limit))
        .map(|pair| M::decode(&*pair?.1).map_err(|_| StoreError::Index(what.to_owned())))
        .collect()
}

impl StateMachine {
    /// The topic of a name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.meta.topics.get(name).cloned()
    }

    /// The topic of an id.
    pub fn topic_by_id(&self, id: u32) -> Option<Arc<Topic>> {
        self.meta.topics_by_id.get(&id).cloned()
    }

    /// Permissions that are withheld from all topics: [`kerolox_core::topic::PERM_READ`] and
    /// [`kerolox_core::topic::PERM_WRITE`].
    pub fn withheld(&self) -> u32 {
        self.meta.withheld
    }

    /// The id that the next new topic gets.
    pub fn next_topic_id(&self) -> u32 {
        self.meta.next_topic
    }

    /// The id that the next new consumer group gets.
    pub fn next_group_id(&self) -> u32 {
        self.meta.next_group
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.meta.topics.values().cloned().collect()
    }

    /// The consumer group of a name.
    pub fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.meta.groups.get(name).cloned()
    }

    /// All consumer groups, by name.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.meta.groups.values().cloned().collect()
    }
}
