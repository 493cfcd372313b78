//! The members of a group that can be elected, from their reports.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::state::{GroupRecord, MemberId};
use crate::watch::{ElectionPolicy, MemberSighting, MemberWatch};

/// A group, and who of it is there.
pub(crate) struct Scene<'a> {
    pub(crate) group: &'a GroupRecord,
    pub(crate) watch: &'a MemberWatch,
    pub(crate) now: u64,
    pub(crate) policy: &'a ElectionPolicy,
}

/// An election's outcome.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Winner {
    pub(crate) master: MemberId,
    pub(crate) process: String,
    pub(crate) in_sync: BTreeSet<MemberId>,
}

impl<'a> Scene<'a> {
    /// What a member said, if it is there.
    pub(crate) fn live(&self, member: MemberId) -> Option<&'a MemberSighting> {
        self.watch.live(self.group, member, self.now, self.policy)
    }

    /// Members of the in-sync set that are there.
    pub(crate) fn live_in_sync(&self) -> impl Iterator<Item = (MemberId, &'a MemberSighting)> + '_ {
        self.group.in_sync.iter().filter_map(|id| self.live(*id).map(|sighting| (*id, sighting)))
    }

    /// Largest epoch that any member was heard to know.
    pub(crate) fn newest_epoch(&self) -> u32 {
        let heard = self.group.members.keys().filter_map(|id| self.watch.sighting(&self.group.name, *id));
        heard.map(|sighting| sighting.promised.max(sighting.last_epoch)).max().unwrap_or(0)
    }

    /// Whether the others of the in-sync set can elect one of them without this member.
    pub(crate) fn can_do_without(&self, member: MemberId) -> bool {
        let others: Vec<&MemberSighting> =
            self.live_in_sync().filter(|(id, _)| *id != member).map(|(_, said)| said).collect();
        others.len() >= self.group.needed() && others.iter().any(|said| said.unfit.is_empty())
    }

    /// Members of the in-sync set that are there and take part in the election: they follow no older epoch any more.
    fn heard(&self) -> Vec<(MemberId, &'a MemberSighting)> {
        self.live_in_sync().filter(|(_, said)| said.promised == self.group.epoch).collect()
    }

    /// Whether a live member may still answer soon.
    fn is_worth_waiting(&self) -> bool {
        let is_young = self.watch.election_age(self.group, self.now) < self.policy.election_patience;
        is_young && self.heard().len() < self.live_in_sync().count()
    }

    /// Members whose silence counts, because the data may be an older copy and they may know of later ones: the in-sync set, and whom
    /// one of it knows. `None` when that need not be feared, or an operator decided.
    pub(crate) fn unheard(&self) -> Option<BTreeSet<MemberId>> {
        if self.now >= self.policy.cautious_until || self.group.unclean_epoch == self.group.epoch {
            return None;
        }
        let heard = |id: &MemberId| self.watch.sighting(&self.group.name, *id);
        let known = self.group.in_sync.iter().filter_map(heard).flat_map(|said| &said.in_sync);
        let known = known.filter_map(|incarnation| self.group.member_of(incarnation));
        let awaited = self.group.in_sync.iter().copied().chain(known);
        Some(awaited.filter(|id| heard(id).is_none()).collect())
    }

    /// Whether a member must not win because of its identity. No member is excluded for ever: the group would stand
    /// still.
    fn is_excluded(&self, member: MemberId) -> bool {
        let is_alone = self.group.in_sync.len() == 1;
        let is_stuck = self.watch.election_age(self.group, self.now) > self.policy.master_timeout;
        self.group.wishes.excluded == Some(member) && !is_alone && !is_stuck
    }

    /// The member that is to be appointed, if the election can end.
    pub(crate) fn winner(&self) -> Option<Winner> {
        if self.group.recovery.is_some() {
            return self.recovered();
        }
        if self.is_worth_waiting() || self.unheard().is_some_and(|unheard| !unheard.is_empty()) {
            return None;
        }
        let heard = self.heard();
        let is_candidate =
            |(id, said): &&(MemberId, &MemberSighting)| said.unfit.is_empty() && !self.is_excluded(*id);
        let candidates: Vec<_> = heard.iter().filter(is_candidate).copied().collect();
        let (best, best_said) =
            *candidates.iter().max_by_key(|(id, said)| (said.progress(), Reverse(*id)))?;
        let not_ahead = heard.iter().filter(|(_, said)| said.progress() <= best_said.progress());
        if self.group.quorum && not_ahead.count() < self.group.needed() {
            return None;
        }
        let preferred = candidates.iter().find(|(id, said)| {
            let loses_nothing = !self.group.quorum || said.progress() == best_said.progress();
            self.group.wishes.preferred == Some(*id) && loses_nothing
        });
        let (master, said) = *preferred.unwrap_or(&(best, best_said));
        let in_sync = if self.group.quorum {
            self.group.in_sync.clone()
        } else {
            heard.iter().map(|(id, _)| *id).collect()
        };
        Some(Winner { master, process: said.process.clone(), in_sync })
    }

    /// The awaited members of a recovery that are there and have promised the coming epoch.
    pub(crate) fn returned(&self) -> Vec<(MemberId, &'a MemberSighting)> {
        let awaited = self.group.recovery.iter().flatten();
        let joined = awaited.filter_map(|incarnation| self.group.member_of(incarnation));
        let there = joined.filter_map(|id| self.live(id).map(|said| (id, said)));
        there.filter(|(_, said)| said.promised == self.group.epoch).collect()
    }

    /// The highest confirmed position that a live member heard of, if none of them holds it: another member must.
    pub(crate) fn beyond_reach(&self) -> Option<(MemberId, u64)> {
        let there = self.group.members.keys().filter_map(|id| self.live(*id).map(|said| (*id, said)));
        // What an operator gave up counts no more.
        let counts = |(_, said): &(MemberId, &MemberSighting)| said.confirmed.0 >= self.group.unclean_epoch;
        let heard = there.filter(counts).map(|(id, said)| (id, said.confirmed.1));
        let (id, confirmed) = heard.max_by_key(|(_, confirmed)| *confirmed)?;
        let held = self.returned().iter().map(|(_, said)| said.end).max().unwrap_or(0);
        (held < confirmed).then_some((id, confirmed))
    }

    /// The member with the most, once all that there were are there.
    fn recovered(&self) -> Option<Winner> {
        if self.group.is_split || self.group.is_parted {
            return None;
        }
        let returned = self.returned();
        if returned.len() < self.group.recovery.as_ref()?.len() {
            return None;
        }
        if self.beyond_reach().is_some() {
            return None;
        }
        let most = returned.iter().map(|(_, said)| said.progress()).max()?;
        let mut best = returned.iter().filter(|(_, said)| said.progress() == most && said.unfit.is_empty());
        let (master, said) = best.next()?;
        Some(Winner { master: *master, process: said.process.clone(), in_sync: BTreeSet::from([*master]) })
    }
}
