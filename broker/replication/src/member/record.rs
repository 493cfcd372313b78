//! The durable memory of a member beside its log, and the part of it that is already durable.

use std::collections::{BTreeSet, VecDeque};

use super::GroupView;
use crate::{ConfirmedMark, StateName, sabotage};

/// The facts that a member must not forget. Each is durable before the member acts on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Random number of the data folder.
    pub incarnation: String,
    /// Set once the member may have told others that it holds records: without its log, the data folder then counts as
    /// another member.
    pub has_held: bool,
    /// The member follows no leader of an earlier epoch than this.
    pub promised: u32,
    /// Epoch of the newest leader to which it granted a lease; 0 when it has led itself since.
    pub granted: u32,
    /// Incarnations of the last known members of the group.
    pub members: BTreeSet<String>,
    /// Confirmed end of its log, as known about a second ago.
    pub confirmed: ConfirmedMark,
    /// The newest accepted state of the group.
    pub memory: Option<StateMemory>,
}

/// The parts of a group's state that a controller needs after it lost its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateMemory {
    /// Name of the state.
    pub name: StateName,
    /// The nameserver's time as leader from which the state comes.
    pub tenure: String,
    /// Epoch of the state that had the newest in-sync set first.
    pub set_epoch: u32,
    /// Version of that state.
    pub set_version: u64,
    /// Tenure of that state; empty when no controller reported it.
    pub set_tenure: String,
    /// Incarnations of the members of that set, and of those that this member, as leader, is about to add.
    pub in_sync: BTreeSet<String>,
    /// Tenure and version of the states that the set covers, see [`GroupView::origins`], the newest accepted one among them.
    pub origins: Vec<(String, u64)>,
}

impl StateMemory {
    /// The memory after `view`. While an election is under way, the set before it counts.
    pub fn after(before: Option<&Self>, view: &GroupView) -> Self {
        let mut memory = Self {
            name: view.name.clone(),
            tenure: view.tenure.clone(),
            ..before.cloned().unwrap_or_default()
        };
        let in_sync = view.incarnations(|id| view.in_sync.contains(&id));
        // Within one set, members about to be added stay remembered until a newer set shows the outcome.
        let is_newer = match view.set_version {
            // Controllers of earlier versions do not report it.
            0 => (view.epoch, &in_sync) != (memory.set_epoch, &memory.in_sync),
            version => {
                let is_renamed = !memory.set_tenure.is_empty() && memory.set_tenure != view.set_tenure;
                is_renamed || (view.epoch, version) != (memory.set_epoch, memory.set_version)
            }
        };
        // A recovery has no set, and says nothing of what the one before it covers.
        if in_sync.is_empty() {
            return memory;
        }
        memory.set_tenure.clone_from(&view.set_tenure);
        memory.origins = view.covered();
        if is_newer {
            let version = if view.set_version > 0 { view.set_version } else { view.name.version };
            (memory.set_epoch, memory.set_version) = (view.epoch, version);
            memory.in_sync = in_sync;
        }
        memory
    }
}

impl MemberRecord {
    /// The record with which a process begins. A data folder whose log is gone (`is_blank`) belongs to another member than its
    /// record: the records which that member promised to hold are missing. A member that never held anything lacks nothing, and its
    /// group may have elected it: it keeps its identity.
    pub fn at_start(found: Option<Self>, is_blank: bool, fresh: impl FnOnce() -> String) -> Self {
        match found {
            Some(found) if !is_blank => Self { has_held: true, ..found },
            Some(found) if !found.has_held && !sabotage::is("blank-identity-not-kept") => found,
            Some(found) if sabotage::is("blank-disk-counts") => found,
            _ => Self { incarnation: fresh(), ..Self::default() },
        }
    }

    /// Whether the group had other members.
    pub fn has_others(&self) -> bool {
        let set = self.memory.iter().flat_map(|memory| &memory.in_sync);
        self.granted > 0 || self.members.iter().chain(set).any(|known| *known != self.incarnation)
    }

    /// Whether the member knows no other member.
    pub fn is_only_member(&self) -> bool {
        self.members.len() == 1 && self.members.contains(&self.incarnation)
    }

    fn remember(&mut self, view: &GroupView) {
        if !sabotage::is("forget-members") {
            self.members = view.holders();
            self.memory = Some(StateMemory::after(self.memory.as_ref(), view));
        }
    }
}

/// A record and its durable version. Versions count the changes.
#[derive(Debug, Clone)]
pub(super) struct DurableRecord {
    now: MemberRecord,
    durable: MemberRecord,
    /// Versions that are not known to be durable, with their content.
    saving: VecDeque<(u64, MemberRecord)>,
    version: u64,
    /// Newest version that the driver was asked to save.
    asked: u64,
}

impl DurableRecord {
    pub(super) fn new(found: MemberRecord) -> Self {
        Self { now: found.clone(), durable: found, saving: VecDeque::new(), version: 0, asked: 0 }
    }

    pub(super) fn now(&self) -> &MemberRecord {
        &self.now
    }

    pub(super) fn durable(&self) -> &MemberRecord {
        &self.durable
    }

    /// The newest promise that outlives the process.
    pub(super) fn promised(&self) -> u32 {
        if sabotage::is("promise-not-persisted") { self.now.promised } else { self.durable.promised }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_durable(&self, version: u64) -> bool {
        self.saving.front().is_none_or(|(first, _)| *first > version)
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut MemberRecord)) {
        let mut then = self.now.clone();
        change(&mut then);
        if then == self.now {
            return;
        }
        assert!(then.promised >= self.now.promised, "a promise is not taken back");
        self.version += 1;
        self.now = then.clone();
        if sabotage::is("promise-not-persisted") {
            then.promised = self.durable.promised;
        }
        self.saving.push_back((self.version, then));
    }

    pub(super) fn remember(&mut self, view: &GroupView) {
        self.change(|now| now.remember(view));
    }

    /// The record to save, returned once for each version.
    pub(super) fn next_save(&mut self) -> Option<(u64, MemberRecord)> {
        let (version, record) = self.saving.back()?;
        if *version <= self.asked {
            return None;
        }
        self.asked = *version;
        Some((*version, record.clone()))
    }

    pub(super) fn saved(&mut self, version: u64) {
        while let Some((first, _)) = self.saving.front()
            && *first <= version
        {
            self.durable = self.saving.pop_front().expect("looked at above").1;
        }
    }

    /// The driver could not save; the next call asks again.
    pub(super) fn save_failed(&mut self) {
        self.asked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::PeerView;

    fn view(epoch: u32, version: u64, in_sync: &[u64]) -> GroupView {
        let peer = |id: u64| (id, PeerView { incarnation: format!("m{id}"), ..PeerView::default() });
        GroupView {
            name: StateName { version, ..StateName::default() },
            epoch,
            in_sync: in_sync.iter().copied().collect(),
            members: [peer(1), peer(2)].into(),
            ..GroupView::default()
        }
    }

    #[test]
    fn the_memory_keeps_the_newest_set() {
        let then = StateMemory::after(None, &view(3, 8, &[1]));
        assert_eq!((then.set_epoch, then.set_version, then.in_sync.len()), (3, 8, 1));
        let then = StateMemory::after(Some(&then), &view(3, 9, &[1]));
        assert_eq!((then.name.version, then.set_version), (9, 8), "the set is not newer");
        let last = StateMemory::after(Some(&then), &view(4, 10, &[]));
        assert_eq!((last.name.version, last.set_epoch, last.set_version), (10, 3, 8));
        assert_eq!(last.in_sync, then.in_sync);
    }

    #[test]
    fn the_memory_keeps_what_its_set_covers() {
        let state = |version, tenure: &str, set_tenure: &str, in_sync: &[u64]| GroupView {
            tenure: tenure.into(),
            set_version: 8,
            set_tenure: set_tenure.into(),
            origins: vec![("a".into(), 7)],
            ..view(3, version, in_sync)
        };
        let mut memory = StateMemory::after(None, &state(9, "b", "b", &[1]));
        memory.in_sync.insert("m2".into());
        let covered = [("a".to_owned(), 7), ("b".to_owned(), 9)];
        assert_eq!((memory.set_tenure.as_str(), memory.origins.as_slice()), ("b", covered.as_slice()));
        let asked = StateMemory::after(Some(&memory), &state(12, "c", "c", &[]));
        assert_eq!((asked.tenure.as_str(), asked.set_tenure.as_str()), ("c", "b"));
        assert_eq!(asked.origins, covered, "a recovery decides about them only when it is over");
        let later = StateMemory::after(Some(&memory), &state(11, "c", "b", &[1]));
        assert_eq!((later.in_sync.len(), later.origins[1].clone()), (2, ("c".to_owned(), 11)));
        let other = StateMemory::after(Some(&memory), &state(11, "c", "c", &[1]));
        assert_eq!((other.in_sync.len(), other.set_tenure.as_str()), (1, "c"), "a set of another history");
        let untold = StateMemory::after(Some(&memory), &state(11, "c", "", &[1]));
        assert!(untold.set_tenure.is_empty() && untold.origins.is_empty(), "an older controller");
    }

    #[test]
    fn a_member_that_was_about_to_be_taken_in_is_remembered_until_a_newer_set_is_known() {
        let state =
            |version, set_version, in_sync: &[u64]| GroupView { set_version, ..view(3, version, in_sync) };
        let mut memory = StateMemory::after(None, &state(8, 8, &[1]));
        memory.in_sync.insert("m2".into());
        let then = StateMemory::after(Some(&memory), &state(9, 8, &[1]));
        assert_eq!((then.name.version, then.set_version, then.in_sync.len()), (9, 8, 2), "it may come about");
        let taken = StateMemory::after(Some(&then), &state(10, 10, &[1, 2]));
        assert_eq!((taken.set_version, taken.in_sync.len()), (10, 2), "this is a newer set");
        let refused = StateMemory::after(Some(&then), &state(10, 10, &[1]));
        assert_eq!((refused.set_version, refused.in_sync.len()), (10, 1));
    }

    #[test]
    fn a_folder_that_lost_its_log_is_another_member() {
        let found =
            MemberRecord { incarnation: "a".into(), has_held: true, promised: 7, ..MemberRecord::default() };
        assert_eq!(MemberRecord::at_start(Some(found.clone()), false, || "b".into()), found);
        let other = MemberRecord::at_start(Some(found), true, || "b".into());
        assert_eq!((other.incarnation.as_str(), other.promised, other.has_held), ("b", 0, false));
    }

    #[test]
    fn a_folder_that_never_held_anything_keeps_its_identity() {
        let begun = MemberRecord::at_start(None, true, || "a".into());
        let promised = MemberRecord { promised: 7, ..begun };
        let again = MemberRecord::at_start(Some(promised.clone()), true, || "b".into());
        assert_eq!(again, promised);
        let with_log = MemberRecord::at_start(Some(promised), false, || "b".into());
        assert!(with_log.has_held, "it may have reported records");
    }

    #[test]
    fn a_change_counts_when_it_is_durable() {
        let mut record = DurableRecord::new(MemberRecord::default());
        assert_eq!(record.next_save(), None);
        record.change(|now| now.promised = 3);
        record.change(|now| now.granted = 2);
        let (version, saved) = record.next_save().expect("there is something to save");
        assert_eq!((version, saved.promised, saved.granted), (2, 3, 2));
        assert_eq!(record.next_save(), None, "once is enough");
        assert_eq!(record.promised(), 0);
        record.save_failed();
        assert!(record.next_save().is_some(), "unless it failed");
        record.saved(1);
        assert_eq!((record.promised(), record.durable().granted), (3, 0));
        assert!(record.is_durable(1) && !record.is_durable(2));
        record.saved(2);
        assert!(record.is_durable(2));
    }
}
