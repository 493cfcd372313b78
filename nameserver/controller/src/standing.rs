//! Which of several histories a recovery goes by, once those who could have led in the others have told that they did not.
//!
//! A state can be without consequence: it was decided, some members heard of it, and none of its in-sync set acted upon it before the
//! nameservers lost it. Its master would have been one of that set. So two histories of which one ends with such a state are one, and
//! no operator has to choose.

use std::collections::BTreeSet;

use crate::command::JoiningMember;
use crate::history::{ORIGINS_TOLD, TenureState};
use crate::mark::StateMark;
use crate::state::GroupRecord;

impl GroupRecord {
    /// Whether a recovery has yet to note what `joiner` knew when it came. What it learns in the recovery itself does not count.
    pub(crate) fn awaits_report(&self, joiner: &JoiningMember) -> bool {
        self.recovery.is_some() && !self.reports.contains_key(&joiner.incarnation)
    }

    /// Notes what a member knew when it came. Of two histories the recovery goes by one as soon as nothing can have been acknowledged
    /// in the other one alone; when all have told and that is not so, an operator has to choose.
    pub(crate) fn note_report(&mut self, joiner: &JoiningMember) {
        if self.awaits_report(joiner) {
            // A broker that tells nothing may have acted upon anything.
            let untold = || StateMark {
                in_sync: BTreeSet::from([joiner.incarnation.clone()]),
                ..StateMark::default()
            };
            self.reports.insert(joiner.incarnation.clone(), joiner.mark.clone().unwrap_or_else(untold));
        }
        if !self.is_parted {
            return;
        }
        if let Some(mark) = self.common_history() {
            self.is_parted = false;
            let is_same = |told: &&StateMark| told.set_state() == mark.set_state();
            let awaited: BTreeSet<String> =
                self.reports.values().filter(is_same).flat_map(|told| told.in_sync.clone()).collect();
            self.begin_with(&mark);
            self.base_members.clone_from(&awaited);
            self.recovery = Some(awaited);
            return;
        }
        let awaited: BTreeSet<String> = self.reports.values().flat_map(|told| told.in_sync.clone()).collect();
        self.is_split |= awaited.iter().all(|one| self.reports.contains_key(one));
        self.recovery = Some(awaited);
    }

    /// The recovery is over, or begins again.
    pub(crate) fn forget_reports(&mut self) {
        self.is_parted = false;
        self.reports.clear();
    }

    /// The newest set that covers all others but those without consequence.
    fn common_history(&self) -> Option<StateMark> {
        let sets = || self.reports.values().filter(|mark| !mark.in_sync.is_empty());
        if sets().any(|mark| mark.set_tenure.is_empty()) {
            return None;
        }
        let (idle, led): (Vec<&StateMark>, Vec<&StateMark>) =
            sets().partition(|mark| self.is_without_consequence(mark));
        let covers_all = |one: &StateMark| {
            led.iter().all(|other| one.set_state() == other.set_state() || one.covers(&other.set_state()))
                && idle.iter().all(|other| one.covers_before(other))
        };
        led.iter().find(|one| covers_all(one)).map(|one| (*one).clone())
    }

    /// Whether each member of a set told what it knew, and none of them acted upon that set or a later one.
    fn is_without_consequence(&self, mark: &StateMark) -> bool {
        let set = mark.set_state();
        mark.in_sync.iter().all(|incarnation| {
            let told = self.reports.get(incarnation);
            told.is_some_and(|told| told.origins.len() < ORIGINS_TOLD && !told.covers(&set))
        })
    }
}

impl StateMark {
    /// Whether it covers everything that the set of `other` covers but the state which had that set first, and those after it.
    fn covers_before(&self, other: &Self) -> bool {
        let set = other.set_state();
        let is_earlier = |origin: &&TenureState| origin.tenure != set.tenure && origin.version < set.version;
        let earlier = || other.origins.iter().filter(is_earlier);
        let before = set.version.saturating_sub(1);
        // Versions go on from one tenure to the next.
        let is_first = earlier().map(|origin| origin.version).max() == Some(before);
        let previous = TenureState { tenure: set.tenure.clone(), version: before };
        earlier().all(|origin| self.covers(origin)) && (is_first || before == 0 || self.covers(&previous))
    }
}
