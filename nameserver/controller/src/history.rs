//! Which states of a group the record comes from, by the tenures in which they came about.
//!
//! An in-sync set covers a state when its members hold everything that was acknowledged in it: the states before it in the record, and, after
//! a recovery, those that the awaited set covered. A record covers what its own set covers.
//!
//! - A set that a member acted upon counts as known when the record covers the state that had it first. Otherwise there may have been
//!   a master of that set, of whom the record knows nothing, and the members are asked.
//! - Their answer is enough when that set covers the newest state of the record that had a master. Otherwise that master and those of
//!   the set may both have acknowledged what the other side lacks, and an operator decides.
//!
//! Both go by names of states only, so it does not matter how many nameservers led on either side since the two parted.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::mark::StateMark;
use crate::state::{GroupRecord, MemberId};

/// Past tenures that are kept for each group. A mark of an earlier one counts as known when its version is not newer.
const PAST_KEPT: usize = 256;

/// Past tenures that members are told. Tenures without a change are left out.
pub(crate) const ORIGINS_TOLD: usize = 32;

/// Names one state of a group, and no other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenureState {
    /// Random number of the nameserver's time as leader in which it came about.
    pub tenure: String,
    /// Its version.
    pub version: u64,
}

/// A time in which one nameserver led, as one group saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastTenure {
    /// Its random number.
    pub tenure: String,
    /// Newest version of the group that belongs to it and that this record covers; 0 for none.
    pub version: u64,
    /// Newest version of it that a member acted upon and that this record has caught up with.
    pub heard: u64,
    /// The newest version of it whose in-sync set a member goes by, and that this record has caught up with.
    #[serde(default = "everything")]
    pub heard_set: u64,
    /// Nothing changed in it.
    #[serde(default)]
    pub is_idle: bool,
}

/// Earlier programs took a set for heard with the tenure's newest state.
const fn everything() -> u64 {
    u64::MAX
}

/// How an in-sync set stands to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetRelation {
    /// It covers the other one.
    Newer,
    /// The two are one, perhaps with members that were about to be taken in.
    Same,
    /// The other one covers it.
    Covered,
    /// Neither covers the other one: masters of both may have acknowledged something.
    Apart,
}

/// What decides who may acknowledge: the epoch, the in-sync set, and whether a majority of it is enough.
pub(crate) type SetTerms = (u32, BTreeSet<MemberId>, bool);

impl StateMark {
    /// The state that had the newest in-sync set first.
    pub(crate) fn set_state(&self) -> TenureState {
        let (_, version) = self.set_of;
        // Brokers of earlier versions do not say in which tenure it came about.
        let tenure = if self.set_tenure.is_empty() { &self.tenure } else { &self.set_tenure };
        TenureState { tenure: tenure.clone(), version }
    }

    fn state(&self) -> TenureState {
        TenureState { tenure: self.tenure.clone(), version: self.version }
    }

    fn covered(&self) -> impl Iterator<Item = (&str, u64)> {
        let own = self.origins.is_empty().then_some((self.tenure.as_str(), self.version));
        self.origins.iter().map(|origin| (origin.tenure.as_str(), origin.version)).chain(own)
    }

    /// Whether the set that the member acted upon covers `state`.
    pub(crate) fn covers(&self, state: &TenureState) -> bool {
        self.covered().any(|(tenure, version)| tenure == state.tenure && version >= state.version)
    }
}

impl GroupRecord {
    /// The terms, and the master.
    pub(crate) fn terms(&self) -> (SetTerms, MemberId) {
        ((self.epoch, self.in_sync.clone(), self.quorum), self.master)
    }

    /// Notes which state had its terms first, and which one its master. To be called after each change.
    pub(crate) fn note_terms(&mut self, before: Option<&(SetTerms, MemberId)>) {
        let now = self.terms();
        if before.is_none_or(|before| before.0 != now.0) {
            self.set_version = self.version;
            self.set_tenure.clone_from(&self.tenure);
        }
        if self.master != 0 && before != Some(&now) {
            self.led = TenureState { tenure: self.tenure.clone(), version: self.version };
        }
    }

    /// The time of another leader begins.
    pub(crate) fn close_tenure(&mut self, next: &str) {
        let tenure = std::mem::replace(&mut self.tenure, next.to_owned());
        if tenure.is_empty() {
            return;
        }
        let version = self.version;
        // Data of a program that did not note it: there may have been a master until now.
        if self.led.tenure.is_empty() && self.recovery.is_none() {
            self.led = TenureState { tenure: tenure.clone(), version };
        }
        let is_idle = self.past.iter().any(|past| past.version == version);
        self.note_past(PastTenure { tenure, version, heard: version, heard_set: version, is_idle });
    }

    /// A member acted upon a state that this record does not come from, and is caught up with.
    pub(crate) fn note_heard(&mut self, mark: &StateMark) {
        let (newest, set) = (mark.state(), mark.set_state());
        self.change_past(&newest.tenure, |past| past.heard = past.heard.max(newest.version));
        self.change_past(&set.tenure, |past| past.heard_set = past.heard_set.max(set.version));
    }

    /// The record goes on with what the set of a member holds, or an operator decides about it: it covers what that set covers.
    pub(crate) fn note_covered(&mut self, mark: &StateMark) {
        if mark.in_sync.is_empty() {
            return;
        }
        if mark.origins.len() > ORIGINS_TOLD {
            self.forgotten = self.forgotten.max(mark.origins[0].version);
        }
        for (tenure, version) in mark.covered() {
            self.change_past(tenure, |past| {
                past.is_idle &= version <= past.version;
                past.version = past.version.max(version);
                past.heard = past.heard.max(version);
            });
        }
    }

    fn change_past(&mut self, tenure: &str, change: impl FnOnce(&mut PastTenure)) {
        if tenure.is_empty() || tenure == self.tenure {
            return;
        }
        let unknown =
            || PastTenure { tenure: tenure.to_owned(), version: 0, heard: 0, heard_set: 0, is_idle: false };
        let mut past = self.past(tenure).cloned().unwrap_or_else(unknown);
        change(&mut past);
        self.note_past(past);
    }

    fn note_past(&mut self, past: PastTenure) {
        match self.past.iter_mut().find(|known| known.tenure == past.tenure) {
            Some(known) => *known = past,
            None => self.past.push(past),
        }
        let surplus = self.past.len().saturating_sub(PAST_KEPT);
        let forgotten = self.past.drain(..surplus).map(|past| past.version).max();
        self.forgotten = self.forgotten.max(forgotten.unwrap_or(0));
    }

    fn past(&self, tenure: &str) -> Option<&PastTenure> {
        self.past.iter().find(|past| past.tenure == tenure)
    }

    /// The newest version of a tenure that this record covers.
    fn covered(&self, tenure: &str) -> Option<u64> {
        if tenure == self.tenure {
            return Some(self.version);
        }
        self.past(tenure).map(|past| past.version).filter(|version| *version > 0)
    }

    /// What the record covers, of the newest earlier tenures in which something changed, the oldest of them first.
    pub fn origins(&self) -> Vec<TenureState> {
        let mut origins: Vec<TenureState> = self
            .past
            .iter()
            .filter(|past| past.version > 0 && !past.is_idle)
            .map(|past| TenureState { tenure: past.tenure.clone(), version: past.version })
            .collect();
        origins.sort_by_key(|origin| origin.version);
        origins.split_off(origins.len().saturating_sub(ORIGINS_TOLD))
    }

    /// Whether a member acted upon a state, or goes by a set, that this record has not caught up with. Who acted upon a state of a
    /// recovery may know an older set than others.
    pub(crate) fn lacks(&self, mark: &StateMark) -> bool {
        self.has_not_heard(&mark.state(), |past| past.heard)
            || self.has_not_heard(&mark.set_state(), |past| past.heard_set.max(past.version))
    }

    fn has_not_heard(&self, state: &TenureState, heard: impl Fn(&PastTenure) -> u64) -> bool {
        if state.tenure.is_empty() || state.tenure == self.tenure {
            return state.version > self.version;
        }
        match self.past(&state.tenure) {
            Some(past) => state.version > heard(past),
            None => {
                let forgotten = self.past.first().filter(|_| self.past.len() >= PAST_KEPT);
                forgotten.is_none_or(|oldest| state.version > oldest.heard)
            }
        }
    }

    /// Whether it acted upon an in-sync set that this record does not cover: who is in sync is not known then.
    pub(crate) fn lacks_set(&self, mark: &StateMark) -> bool {
        if mark.in_sync.is_empty() || self.is_covered(&mark.set_state()) {
            return false;
        }
        // It came about after this record began.
        let is_newer = self.shared_with(mark).is_some_and(|shared| shared >= self.lineage_version);
        if is_newer || mark.lineage == self.lineage {
            return true;
        }
        // All members that the record began with were asked: a master of that set would have been one of them.
        let was_asked = mark.in_sync.is_subset(&self.base_members);
        !was_asked && (!mark.set_tenure.is_empty() || mark.set_of > self.base_set)
    }

    /// Whether the record covers a state. Of states before all that it remembers it is assumed.
    fn is_covered(&self, TenureState { tenure, version }: &TenureState) -> bool {
        *version <= self.covered(tenure).unwrap_or(0).max(self.forgotten)
    }

    /// How the set of `mark` stands to the one that the recovery goes by so far.
    pub(crate) fn relation(&self, mark: &StateMark) -> SetRelation {
        let state = mark.set_state();
        // Epochs and versions tell it within one history; brokers of earlier versions say no more.
        let is_told = !mark.set_tenure.is_empty() && !self.base_state.tenure.is_empty();
        if self.base_set == (0, 0) || !is_told {
            return match mark.set_of.cmp(&self.base_set) {
                Ordering::Less => SetRelation::Covered,
                Ordering::Equal => SetRelation::Same,
                Ordering::Greater => SetRelation::Newer,
            };
        }
        if state == self.base_state {
            SetRelation::Same
        } else if self.is_covered(&state) {
            SetRelation::Covered
        } else if mark.covers(&self.base_state) {
            SetRelation::Newer
        } else {
            SetRelation::Apart
        }
    }

    /// Version of the newest state of this record that the set of `mark` covers as well; `None` when there is none, or it is not known.
    pub(crate) fn shared_with(&self, mark: &StateMark) -> Option<u64> {
        let both = |(tenure, version): (&str, u64)| self.covered(tenure).map(|known| known.min(version));
        mark.covered().filter_map(both).max()
    }
}
