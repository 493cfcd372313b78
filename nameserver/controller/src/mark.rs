//! What members know of the state that they acted upon, and what follows when the controller does not know it: it lost its data, or
//! was given an older copy of them.
//!
//! Every nameserver that begins to lead notes a random number, its tenure. A tenure and a version name one state and no other: a
//! copy that goes on has another tenure, and what members acted upon after the copy was taken is missing in its past. `history.rs` knows
//! that past.
//!
//! Then the members are asked instead. The newest in-sync set that one of them acted upon counts, when everybody in it is there: a later
//! set would have a master from it, and a master remembers a set before it goes by it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::command::{CommandRefusal, JoiningMember, RefusalReason};
use crate::history::{SetRelation, TenureState};
use crate::state::{GroupRecord, GroupTable};

/// The newest state of its group that a member acted upon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMark {
    /// Whose state it was, see [`GroupTable::cluster_id`].
    pub cluster_id: String,
    /// Of which record of the group it was.
    pub lineage: String,
    /// In which nameserver's time as leader it became so.
    pub tenure: String,
    /// Its version.
    pub version: u64,
    /// Epoch and version of the state that had the newest in-sync set first.
    pub set_of: (u32, u64),
    /// Tenure of that state; empty when the member does not know it.
    #[serde(default)]
    pub set_tenure: String,
    /// Incarnations of the members of that set.
    pub in_sync: BTreeSet<String>,
    /// What that set covers: whatever was acknowledged in these states, and those before them in their tenures, its members hold.
    /// Only the newest of them; none when the member does not know it.
    #[serde(default)]
    pub origins: Vec<TenureState>,
}

impl GroupTable {
    /// A nameserver begins to lead.
    pub(crate) fn begin_tenure(&mut self, tenure: String) {
        // Data of a program that knew of no tenures.
        let is_unmarked = self.cluster_id.is_empty() && self.iter().next().is_some();
        if is_unmarked {
            self.cluster_id.clone_from(&tenure);
        }
        for group in self.iter_mut() {
            group.close_tenure(&tenure);
            if is_unmarked {
                group.begin_lineage();
                group.version += 1;
            }
        }
        self.tenure = tenure;
    }

    /// Nameservers without data take the number that their members know.
    pub(crate) fn adopt_identity(&mut self, joiner: &JoiningMember) {
        if self.cluster_id.is_empty() {
            let known = joiner.mark.as_ref().map(|mark| mark.cluster_id.clone());
            self.cluster_id = known.filter(|known| !known.is_empty()).unwrap_or_else(|| self.tenure.clone());
        }
    }

    /// Members of other nameservers are refused: these know nothing of what they acknowledged.
    pub(crate) fn check_identity(&self, joiner: &JoiningMember) -> Result<(), CommandRefusal> {
        let theirs = joiner.mark.as_ref().map_or("", |mark| mark.cluster_id.as_str());
        if theirs.is_empty() || self.cluster_id.is_empty() || theirs == self.cluster_id {
            return Ok(());
        }
        let text = format!(
            "these nameservers have the cluster id {}, but the data folder of the broker {}:{} belongs to nameservers with the cluster \
             id {theirs}: they were given the data of other nameservers, or the broker the address of other ones. Give the \
             nameservers their own data back. If those are lost, empty the folders of all nameservers: the brokers tell them what \
             they need. To have these nameservers take the broker for good, stop it and remove controller from its member.json",
            self.cluster_id, joiner.host, joiner.port
        );
        Err(CommandRefusal::new(RefusalReason::Foreign, text))
    }
}

impl GroupRecord {
    /// The record of the group begins anew. Call it before the version that says so is counted.
    pub(crate) fn begin_lineage(&mut self) {
        self.lineage_version = self.version + 1;
        self.lineage = format!("{}-{}", self.tenure, self.lineage_version);
    }

    /// What a member knows that this state lacks, and that no operator has decided about since.
    fn lacking<'a>(&self, joiner: &'a JoiningMember) -> Option<&'a StateMark> {
        let mark = joiner.mark.as_ref()?;
        // Of a stranger it says nothing about this group.
        let known = joiner.known_members.iter().chain(&mark.in_sync).chain([&joiner.incarnation]);
        let is_related =
            self.recovery.is_some() || known.into_iter().any(|one| self.member_of(one).is_some());
        (is_related && self.lacks(mark)).then_some(mark)
    }

    /// Whether `joiner` knows something that a recovery has to go by, or that calls for one.
    pub(crate) fn is_behind(&self, joiner: &JoiningMember) -> bool {
        self.lacking(joiner).is_some() || self.waits_for_more(joiner) || self.awaits_report(joiner)
    }

    /// Whether a recovery has to wait for members that only `joiner` knows of, or for an operator because of what it knows.
    fn waits_for_more(&self, joiner: &JoiningMember) -> bool {
        let Some(awaited) = &self.recovery else { return false };
        match joiner.known_set() {
            Some(_) if self.is_split || self.is_parted => false,
            Some(mark) => match self.relation(mark) {
                SetRelation::Newer | SetRelation::Apart => true,
                SetRelation::Same => !mark.in_sync.is_subset(awaited),
                SetRelation::Covered => false,
            },
            // A member that knows no set, after others that knew none: all members that it knows of are awaited.
            None => {
                self.base_set == (0, 0) && joiner.knows_others() && !joiner.group_known().is_subset(awaited)
            }
        }
    }

    /// Learns what a member knows. The state goes by its members from then on, if it lacks something. True when anything changed
    /// but the version.
    ///
    /// # Errors
    /// There are no more epochs.
    pub(crate) fn learn(&mut self, joiner: &JoiningMember) -> Result<bool, CommandRefusal> {
        if !self.is_behind(joiner) {
            return Ok(false);
        }
        let newest = joiner.promised.max(joiner.last_epoch);
        // A refusal must not come in the middle.
        self.clone().raise_epoch(newest)?;
        if let Some(mark) = self.lacking(joiner) {
            // What an operator gave up calls for nothing.
            let is_open = self.recovery.is_none() && newest >= self.unclean_epoch;
            if is_open && self.lacks_set(mark) && !self.has_asked_set(mark) {
                // Its master may have acknowledged something that the members of that set never heard of.
                self.is_split = !mark.covers(&self.led);
                self.begin_recovery(newest, joiner.group_known())?;
                self.note_covered(mark);
            }
            // The election under way may have had its outcome in a state that is lost: no epoch has two leaders.
            if self.master == 0 && newest >= self.epoch {
                self.raise_epoch(newest)?;
            }
            self.note_heard(mark);
            // Members take the state for newer than what they have.
            self.version = self.version.max(mark.version);
        }
        if self.waits_for_more(joiner) {
            self.await_more(joiner);
        }
        self.note_report(joiner);
        if self.recovery.is_some() && newest >= self.epoch {
            self.raise_epoch(newest)?;
        }
        Ok(true)
    }

    /// Whether a set that this record does not come from was without consequence: it had no other master than this record.
    ///
    /// Its master would have been one of the set, and would have acted upon a state with that set or a later one. All of the set
    /// have been asked since the two histories parted, and a master was elected here from what they said: a member that had acted
    /// upon such a state would have called for a recovery. What was acknowledged before the set came about each of its members
    /// holds (a majority, with quorum), or the election would have missed a master that it asked.
    fn has_asked_set(&self, mark: &StateMark) -> bool {
        let Some(shared) = self.shared_with(mark) else { return false };
        let asked_since = |incarnation: &String| {
            let asked = self.member_of(incarnation).and_then(|id| self.asked.get(&id));
            asked.is_some_and(|version| *version > shared)
        };
        !mark.in_sync.is_empty() && mark.in_sync.iter().all(asked_since)
    }

    /// Forgets who is in sync, and asks the members.
    fn begin_recovery(&mut self, above: u32, awaited: BTreeSet<String>) -> Result<(), CommandRefusal> {
        self.raise_epoch(above)?;
        self.begin_lineage();
        self.master = 0;
        self.master_process.clear();
        self.in_sync.clear();
        self.released = false;
        self.base_members.clone_from(&awaited);
        self.recovery = Some(awaited);
        self.base_set = (0, 0);
        self.base_state = TenureState::default();
        self.led = TenureState::default();
        self.asked.clear();
        self.forget_reports();
        Ok(())
    }

    /// A recovery awaits whom `joiner` knows.
    pub(crate) fn await_more(&mut self, joiner: &JoiningMember) {
        match joiner.known_set().map(|mark| (self.relation(mark), mark)) {
            Some((SetRelation::Newer, mark)) => {
                self.recovery = Some(mark.in_sync.clone());
                self.begin_with(mark);
            }
            Some((SetRelation::Apart, mark)) => {
                self.is_parted = true;
                self.note_covered(mark);
            }
            Some((_, mark)) => self.recovery.get_or_insert_default().extend(mark.in_sync.iter().cloned()),
            None => self.recovery.get_or_insert_default().extend(joiner.group_known()),
        }
        self.base_members = self.recovery.clone().unwrap_or_default();
    }

    /// The record begins with this set.
    pub(crate) fn begin_with(&mut self, mark: &StateMark) {
        self.base_set = mark.set_of;
        self.base_state = mark.set_state();
        self.base_members.clone_from(&mark.in_sync);
        self.note_covered(mark);
    }

    /// In a recovery, whom members remember counts as holding something; otherwise only a member that has records and remembers
    /// another one that does. True when that is news.
    pub(crate) fn vouch(&mut self, joiner: &JoiningMember) -> bool {
        let before = self.vouched.len();
        let of_set = joiner.mark.iter().flat_map(|mark| &mark.in_sync);
        let known: BTreeSet<String> = joiner.known_members.iter().chain(of_set).cloned().collect();
        let holds = |known: &String| {
            *known != joiner.incarnation && self.member_of(known).is_some_and(|id| self.holds(id))
        };
        if self.recovery.is_some() {
            self.vouched.extend(known);
        } else if joiner.last_epoch > 0 && known.iter().any(holds) {
            self.vouched.insert(joiner.incarnation.clone());
        }
        self.vouched.len() > before
    }

    /// The record of a group begins with what its first member knows, which may be more than nothing.
    pub(crate) fn begin_record(&mut self, joiner: &JoiningMember) {
        if let Some(mark) = &joiner.mark {
            self.version = mark.version;
            self.note_heard(mark);
            self.begin_with(mark);
        }
        self.begin_lineage();
    }
}

impl JoiningMember {
    /// Incarnations of all members that it knew, and its own.
    pub(crate) fn group_known(&self) -> BTreeSet<String> {
        let of_set = self.mark.iter().flat_map(|mark| &mark.in_sync);
        self.known_members.iter().chain(of_set).chain([&self.incarnation]).cloned().collect()
    }

    pub(crate) fn knows_others(&self) -> bool {
        self.group_known().iter().any(|known| *known != self.incarnation)
    }

    /// Whether others may hold what it lacks.
    pub(crate) fn needs_others(&self) -> bool {
        match self.known_set() {
            Some(mark) => mark.in_sync.iter().any(|known| *known != self.incarnation),
            None => self.knows_others(),
        }
    }

    /// The mark of a member that acted upon an in-sync set.
    fn known_set(&self) -> Option<&StateMark> {
        self.mark.as_ref().filter(|mark| !mark.in_sync.is_empty())
    }
}
