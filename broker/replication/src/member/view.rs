//! The state of the group, as a member accepts it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{InSyncSet, MemberId, StateName};

/// Another member, as the controller knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Random number of its data folder.
    pub incarnation: String,
    /// Where other members reach it.
    pub address: String,
    /// Whether it holds the group's log, or a part of it. A member that has only reported can be dispensed with.
    pub holds: bool,
}

/// The state of the group as a controller reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupView {
    /// Name of the state.
    pub name: StateName,
    /// The nameserver's time as leader that the state comes from.
    pub tenure: String,
    /// Tenure and version of earlier states that the in-sync set covers: its members hold everything acknowledged in them, and in
    /// those before them of each tenure. The newest only, the oldest of them first.
    pub origins: Vec<(String, u64)>,
    /// Epoch of the leadership; while an election is under way, of the one to come.
    pub epoch: u32,
    /// The leader; 0 while an election is under way.
    pub leader: MemberId,
    /// The elected process. A process started since then does not lead.
    pub leader_process: String,
    /// Members that hold everything confirmed, the leader included.
    pub in_sync: BTreeSet<MemberId>,
    /// Version of the state in which the set or the epoch last changed; 0 when a controller does not report it.
    pub set_version: u64,
    /// Tenure of that state; empty when a controller does not report it.
    pub set_tenure: String,
    /// A majority of the set confirms, instead of all.
    pub quorum: bool,
    /// Set when the previous leader gave its lease up.
    pub released: bool,
    /// Newest epoch for which an operator accepted loss; 0 for none.
    pub unclean_epoch: u32,
    /// All members.
    pub members: BTreeMap<MemberId, PeerView>,
}

impl GroupView {
    /// The in-sync set as the leader counts it.
    pub fn in_sync_set(&self) -> InSyncSet {
        InSyncSet { members: self.in_sync.clone(), quorum: self.quorum, version: self.name.version }
    }

    /// What the in-sync set covers, this state included; nothing when a controller does not report it.
    pub(super) fn covered(&self) -> Vec<(String, u64)> {
        if self.set_tenure.is_empty() {
            return Vec::new();
        }
        let own = (self.tenure.clone(), self.name.version);
        self.origins.iter().cloned().chain([own]).collect()
    }

    /// Incarnations of the members whose numbers satisfy `is_wanted`.
    pub fn incarnations(&self, is_wanted: impl Fn(MemberId) -> bool) -> BTreeSet<String> {
        let wanted = self.members.iter().filter(|(id, _)| is_wanted(**id));
        wanted.map(|(_, peer)| peer.incarnation.clone()).collect()
    }

    /// Incarnations of the members that hold the log or a part of it.
    pub fn holders(&self) -> BTreeSet<String> {
        // Controllers of earlier versions do not report which members do.
        let is_told = self.members.values().any(|peer| peer.holds);
        self.incarnations(|id| !is_told || self.members.get(&id).is_some_and(|peer| peer.holds))
    }
}
