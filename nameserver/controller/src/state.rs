//! What the nameservers agree on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::history::{PastTenure, TenureState};
use crate::mark::StateMark;

/// Number of a member within its group, from 1 on; never given twice. 0 stands for no member.
pub type MemberId = u64;

/// Names a broker group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupName {
    /// The cluster that it belongs to.
    pub cluster: String,
    /// The group's own name.
    pub group: String,
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cluster {}", self.group, self.cluster)
    }
}

/// A member of a group: one data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMemberRecord {
    /// Random number of the data folder.
    pub incarnation: String,
    /// The host at which clients reach it.
    pub host: String,
    /// The port at which clients reach it.
    pub port: u32,
    /// Where the other members reach it, `host:port`.
    pub replication_address: String,
}

/// What the election under way is to respect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionWishes {
    /// Not this one, unless it is the only one left.
    pub excluded: Option<MemberId>,
    /// This one, if nothing is lost by it.
    pub preferred: Option<MemberId>,
}

/// State of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its name.
    pub name: GroupName,
    /// Number of the epoch; during an election, of the epoch to come.
    pub epoch: u32,
    /// The master; 0 while an election is under way.
    pub master: MemberId,
    /// The process that was elected. One that was started since does not rule.
    pub master_process: String,
    /// Members that hold everything acknowledged. The master is one of them. Empty only in a recovery.
    pub in_sync: BTreeSet<MemberId>,
    /// All members.
    pub members: BTreeMap<MemberId, GroupMemberRecord>,
    /// Number of the next member.
    pub next_id: MemberId,
    /// Grows with every change.
    pub version: u64,
    /// Acknowledged means held by a majority of the in-sync set, not by all of it.
    pub quorum: bool,
    /// The master before this one gave up its leadership.
    pub released: bool,
    /// Wishes for the election under way.
    pub wishes: ElectionWishes,
    /// Set while the controller, which has lost its data, waits for the members of a group that is older than what it
    /// knows: their incarnations.
    pub recovery: Option<BTreeSet<String>>,
    /// Newest epoch whose master an operator chose although it may lack something; 0 for none.
    #[serde(default)]
    pub unclean_epoch: u32,
    /// Epoch and version of the newest in-sync set that the record began with; in a recovery that set is awaited.
    #[serde(default)]
    pub base_set: (u32, u64),
    /// The state that had that set first; unnamed when members did not tell.
    #[serde(default)]
    pub base_state: TenureState,
    /// The members of that set. A member that is elected holds what they hold.
    #[serde(default)]
    pub base_members: BTreeSet<String>,
    /// Version of the state in which the in-sync set, what acknowledged means in it, or the epoch became what it is.
    #[serde(default)]
    pub set_version: u64,
    /// Tenure of that state; empty in data of earlier programs.
    #[serde(default)]
    pub set_tenure: String,
    /// The recovery has two histories to choose from, each of which may hold what the other one lacks.
    #[serde(default)]
    pub is_split: bool,
    /// Members told of two histories, and it is not known yet whether one of them is without consequence.
    #[serde(default)]
    pub is_parted: bool,
    /// What members knew when they came in the recovery, by their incarnations.
    #[serde(default)]
    pub reports: BTreeMap<String, StateMark>,
    /// The newest state that had another master, or one with other rights, than the state before it.
    #[serde(default)]
    pub led: TenureState,
    /// Members that a master has seen to hold its log, or a part of it. Others have only reported.
    #[serde(default)]
    pub holders: BTreeSet<MemberId>,
    /// Incarnations that a member remembers to have held the log, of a time that the record knows nothing of.
    #[serde(default)]
    pub vouched: BTreeSet<String>,
    /// Members that had been asked when a master was appointed, or told when they came, with the version that this made.
    #[serde(default)]
    pub asked: BTreeMap<MemberId, u64>,
    /// Another one whenever the record of the group began anew.
    #[serde(default)]
    pub lineage: String,
    /// Version of the state in which it did.
    #[serde(default)]
    pub lineage_version: u64,
    /// The nameserver's time as leader in which the state became what it is.
    #[serde(default)]
    pub tenure: String,
    /// The times before that, the newest last.
    #[serde(default)]
    pub past: Vec<PastTenure>,
    /// States of versions up to this one count as covered: not all of their tenures are in [`GroupRecord::past`].
    #[serde(default)]
    pub forgotten: u64,
}

impl GroupRecord {
    /// A group without members, whose first epoch is still to come.
    pub(crate) fn new(name: GroupName, tenure: &str) -> Self {
        Self {
            name,
            epoch: 0,
            master: 0,
            master_process: String::new(),
            in_sync: BTreeSet::new(),
            members: BTreeMap::new(),
            next_id: 1,
            version: 0,
            quorum: false,
            released: false,
            wishes: ElectionWishes::default(),
            recovery: None,
            unclean_epoch: 0,
            base_set: (0, 0),
            base_state: TenureState::default(),
            base_members: BTreeSet::new(),
            set_version: 0,
            set_tenure: String::new(),
            is_split: false,
            is_parted: false,
            reports: BTreeMap::new(),
            led: TenureState::default(),
            holders: BTreeSet::new(),
            vouched: BTreeSet::new(),
            asked: BTreeMap::new(),
            lineage: String::new(),
            lineage_version: 0,
            tenure: tenure.to_owned(),
            past: Vec::new(),
            forgotten: 0,
        }
    }

    /// The member with this data folder.
    pub fn member_of(&self, incarnation: &str) -> Option<MemberId> {
        self.members.iter().find(|(_, member)| member.incarnation == incarnation).map(|(id, _)| *id)
    }

    /// How many members of the in-sync set must be heard, none of them ahead of the one that is elected, so that it holds
    /// everything acknowledged. Without quorum each of the set holds that; with it every majority does together.
    pub fn needed(&self) -> usize {
        if !self.quorum {
            return 1;
        }
        let majority = self.in_sync.len() / 2 + 1;
        self.in_sync.len() - majority + 1
    }

    /// Whether a member holds the group's log or a part of it, as far as others say. One that has only reported does not.
    pub fn holds(&self, id: MemberId) -> bool {
        let is_vouched =
            || self.members.get(&id).is_some_and(|member| self.vouched.contains(&member.incarnation));
        self.holders.contains(&id) || self.in_sync.contains(&id) || is_vouched()
    }

    /// Members that a recovery waits for and that have not joined: their incarnations.
    pub fn missing(&self) -> Vec<&str> {
        let awaited = self.recovery.iter().flatten().map(String::as_str);
        awaited.filter(|incarnation| self.member_of(incarnation).is_none()).collect()
    }

    /// A member with its address, as people are told.
    pub(crate) fn label(&self, id: MemberId) -> String {
        match self.members.get(&id) {
            Some(member) => format!("member {id} ({}:{})", member.host, member.port),
            None => format!("member {id}"),
        }
    }
}

/// A set of members as people are told: `{1, 2}`.
pub(crate) fn set_text(ids: &BTreeSet<MemberId>) -> String {
    let ids: Vec<String> = ids.iter().map(MemberId::to_string).collect();
    format!("{{{}}}", ids.join(", "))
}

/// All groups, and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(into = "StoredGroups")]
pub struct GroupTable {
    pub(crate) cluster_id: String,
    pub(crate) tenure: String,
    groups: BTreeMap<GroupName, GroupRecord>,
}

impl GroupTable {
    /// Random number that the nameservers share with the members of their groups: of other nameservers they take no word. Empty
    /// until there is a member.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The group of this name.
    pub fn get(&self, name: &GroupName) -> Option<&GroupRecord> {
        self.groups.get(name)
    }

    /// All groups in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &GroupRecord> {
        self.groups.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut GroupRecord> {
        self.groups.values_mut()
    }

    pub(crate) fn get_mut(&mut self, name: &GroupName) -> Option<&mut GroupRecord> {
        self.groups.get_mut(name)
    }

    pub(crate) fn insert(&mut self, group: GroupRecord) {
        self.groups.insert(group.name.clone(), group);
    }
}

/// [`GroupTable`] as they are stored.
#[derive(Serialize, Deserialize)]
struct StoredGroups {
    cluster_id: String,
    tenure: String,
    groups: Vec<GroupRecord>,
}

impl From<GroupTable> for StoredGroups {
    fn from(GroupTable { cluster_id, tenure, groups }: GroupTable) -> Self {
        Self { cluster_id, tenure, groups: groups.into_values().collect() }
    }
}

impl From<StoredGroups> for GroupTable {
    fn from(StoredGroups { cluster_id, tenure, groups }: StoredGroups) -> Self {
        let groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
        Self { cluster_id, tenure, groups }
    }
}

/// Reads [`StoredGroups`]; in format version 1 there was a list of groups in their place.
impl<'de> Deserialize<'de> for GroupTable {
    fn deserialize<D: Deserializer<'de>>(stored: D) -> Result<Self, D::Error> {
        struct EitherFormat;
        impl<'de> Visitor<'de> for EitherFormat {
            type Value = StoredGroups;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the groups of a controller")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<StoredGroups, A::Error> {
                StoredGroups::deserialize(MapAccessDeserializer::new(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<StoredGroups, A::Error> {
                let groups = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(StoredGroups { cluster_id: String::new(), tenure: String::new(), groups })
            }
        }
        stored.deserialize_any(EitherFormat).map(Self::from)
    }
}
