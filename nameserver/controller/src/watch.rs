//! What the leading nameserver has heard. Soft: the next leader begins with nothing and hears it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::{GroupName, GroupRecord, GroupTable, MemberId};

/// Times in milliseconds that elections go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionPolicy {
    /// A member that has been silent for longer is not there.
    pub master_timeout: u64,
    /// How long an election waits for members of the in-sync set that are there and have not promised its epoch.
    pub election_patience: u64,
    /// Until then an election waits for the whole in-sync set: the data may be an older copy, and a missing
    /// member may know of later states. A time of the clock that everything here goes by; 0 for data that
    /// cannot be a copy.
    pub cautious_until: u64,
}

/// What a member last said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSighting {
    /// When it said so.
    pub at: u64,
    /// Random number of its process.
    pub process: String,
    /// Largest epoch that it has promised.
    pub promised: u32,
    /// Epoch of the newest record in its log.
    pub last_epoch: u32,
    /// End of its durable log.
    pub end: u64,
    /// Up to where it heard that the log was confirmed, and in which epoch last.
    pub confirmed: (u32, u64),
    /// Incarnations of the members that it knows to have been in sync last, or that may have been.
    pub in_sync: BTreeSet<String>,
    /// Why it must not be elected; empty when it may.
    pub unfit: String,
}

impl MemberSighting {
    /// How complete its log is: of two logs of one group, the greater one holds all that the other one may have promised
    /// to keep.
    pub fn progress(&self) -> (u32, u64) {
        (self.last_epoch, self.end)
    }
}

/// Everything that one leader has heard since it leads.
#[derive(Debug, Clone)]
pub struct MemberWatch {
    since: u64,
    sightings: BTreeMap<GroupName, BTreeMap<MemberId, MemberSighting>>,
    /// Epoch of the election under way in each group, and when it was first seen.
    elections: BTreeMap<GroupName, (u32, u64)>,
}

impl MemberWatch {
    /// The empty watch of a nameserver that leads since `now`.
    pub fn new(now: u64) -> Self {
        Self { since: now, sightings: BTreeMap::new(), elections: BTreeMap::new() }
    }

    /// Notes what a member says. What it said earlier and comes in later is left out.
    pub fn saw(&mut self, name: &GroupName, member: MemberId, sighting: MemberSighting) {
        if !self.sightings.contains_key(name) {
            self.sightings.insert(name.clone(), BTreeMap::new());
        }
        let members = self.sightings.get_mut(name).expect("it is there since the line above");
        if members.get(&member).is_none_or(|known| known.at <= sighting.at) {
            members.insert(member, sighting);
        }
    }

    /// Until `now` this leader could not hear any member, so silence until then means nothing.
    pub fn was_deaf(&mut self, now: u64) {
        self.since = self.since.max(now);
    }

    /// What a member last said to this leader.
    pub fn sighting(&self, name: &GroupName, member: MemberId) -> Option<&MemberSighting> {
        self.sightings.get(name).and_then(|members| members.get(&member))
    }

    /// What a member said, if it is there.
    pub(crate) fn live(
        &self,
        group: &GroupRecord,
        member: MemberId,
        now: u64,
        policy: &ElectionPolicy,
    ) -> Option<&MemberSighting> {
        let sighting = self.sighting(&group.name, member)?;
        (now.saturating_sub(sighting.at) <= policy.master_timeout).then_some(sighting)
    }

    /// How long a member has been silent, as far as this leader can know.
    pub(crate) fn silence(&self, group: &GroupRecord, member: MemberId, now: u64) -> u64 {
        let seen = self.sighting(&group.name, member).map_or(self.since, |sighting| sighting.at);
        now.saturating_sub(seen.max(self.since))
    }

    /// How long the election under way has lasted.
    pub(crate) fn election_age(&self, group: &GroupRecord, now: u64) -> u64 {
        match self.elections.get(&group.name) {
            Some((epoch, began)) if *epoch == group.epoch => now.saturating_sub(*began),
            _ => 0,
        }
    }

    /// Notes which elections are under way, and forgets members that are gone.
    pub(crate) fn follow(&mut self, groups: &GroupTable, now: u64) {
        for group in groups.iter() {
            let noted = self.elections.get(&group.name).map(|(epoch, _)| *epoch);
            if group.master == 0 && noted != Some(group.epoch) {
                self.elections.insert(group.name.clone(), (group.epoch, now));
            }
        }
        for (name, members) in &mut self.sightings {
            let group = groups.get(name);
            members.retain(|id, _| group.is_some_and(|group| group.members.contains_key(id)));
        }
    }
}
