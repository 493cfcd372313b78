//! The master's side: what its slaves hold, what is therefore confirmed, and which in-sync set to ask for.

use std::collections::{BTreeMap, BTreeSet};

use crate::MemberId;

/// Limits that an operator can set. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A member of the in-sync set that has not held everything for so long is to leave it.
    pub slave_timeout_ms: u64,
    /// How long the answer to a ping keeps the master sure of its reign.
    pub lease_ms: u64,
}

/// The in-sync set, as the controller said it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSync {
    /// The members, the master included.
    pub members: BTreeSet<MemberId>,
    /// A majority of the set confirms, instead of all.
    pub quorum: bool,
    /// Version of the group's state that says so.
    pub version: u64,
}

/// A change that the controller is asked for. Once it was asked for, it is asked again, the same, until a newer version of the
/// state is known: nobody knows before what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The set that is wanted.
    pub members: BTreeSet<MemberId>,
    /// The rule that is wanted.
    pub quorum: bool,
    /// Version that the change is based on.
    pub version: u64,
}

/// Up to where other members hold the log on their disks, as far as the master needs them. What the master holds itself is
/// for it to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Held by the whole in-sync set.
    pub all: u64,
    /// Held by a majority of it, the master included.
    pub quorum: u64,
    /// What the group's rule says: one of the two. Elections preserve this.
    pub safe: u64,
}

/// A slave as the master sees it, for administrators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlaveView {
    /// Its number.
    pub id: MemberId,
    /// What it has on its disk.
    pub durable: u64,
    /// Milliseconds since it was heard of.
    pub silent_ms: u64,
    /// Whether it is in the in-sync set.
    pub in_sync: bool,
}

/// A change on its way.
///
/// From when it is planned, what is confirmed needs both sets. But what was confirmed just before may be missing in a member
/// that comes in. So whoever drives this lets the stricter rule take effect, looks where the log ends *then* ([`Master::arm`]), and the
/// change is asked for when everybody in the wanted set has that.
#[derive(Debug, Clone)]
struct Plan {
    change: Change,
    armed: Option<u64>,
    is_sent: bool,
}

#[derive(Debug, Clone, Copy)]
struct Slave {
    durable: u64,
    heard: u64,
    /// The last moment at which it held everything that there was at some moment within the timeout.
    caught_up: u64,
    /// What it has to hold to count as caught up, and since when that was the end.
    target: (u64, u64),
    /// Until when it said that it has promised nothing to a later reign.
    granted: u64,
    is_leaving: bool,
}

/// What a master knows of its reign. Times are monotonic milliseconds of one clock.
#[derive(Debug, Clone)]
pub struct Master {
    me: MemberId,
    policy: Policy,
    set: InSync,
    plan: Option<Plan>,
    wants_quorum: bool,
    slaves: BTreeMap<MemberId, Slave>,
    /// End of the record that opened the reign.
    opened: u64,
}

impl Master {
    /// The reign of `me` over a group with this in-sync set, which begins `now` with a record that ends at `opened`.
    pub fn new(me: MemberId, policy: Policy, set: InSync, opened: u64, now: u64) -> Self {
        let mut master = Self {
            me,
            policy,
            wants_quorum: set.quorum,
            set: InSync { members: BTreeSet::new(), ..set.clone() },
            plan: None,
            slaves: BTreeMap::new(),
            opened,
        };
        master.adopt(set, now);
        master
    }

    /// Number of members in the set.
    pub fn in_sync_len(&self) -> usize {
        self.set.members.len()
    }

    /// The set as the controller said it last.
    pub fn in_sync(&self) -> &InSync {
        &self.set
    }

    /// Whether confirming by majority is wanted from here on.
    pub fn want_quorum(&mut self, wanted: bool) {
        self.wants_quorum = wanted;
    }

    /// Takes what the controller says, if it is newer than what is known.
    pub fn on_state(&mut self, set: InSync, now: u64) {
        if set.version > self.set.version {
            self.adopt(set, now);
        }
    }

    fn adopt(&mut self, set: InSync, now: u64) {
        self.set = set;
        // An answer to what was asked, or a reason to ask for something else.
        self.plan = None;
        // Who has not connected yet has as long as anybody else.
        for member in self.set.members.iter().filter(|member| **member != self.me) {
            self.slaves.entry(*member).or_insert(Slave {
                durable: 0,
                heard: now,
                caught_up: now,
                target: (u64::MAX, now),
                granted: 0,
                is_leaving: false,
            });
        }
    }

    /// A slave has this on its disk, and answers a ping that was sent at `pinged`. `end` is where the master's log ends.
    pub fn on_held(&mut self, member: MemberId, durable: u64, pinged: u64, end: u64, now: u64) {
        if member == self.me {
            return;
        }
        let slave = self.slaves.entry(member).or_insert(Slave {
            durable,
            heard: now,
            // One that is not in the set has to catch up first.
            caught_up: 0,
            target: (end, now),
            granted: 0,
            is_leaving: false,
        });
        slave.durable = durable;
        slave.heard = now;
        slave.granted = slave.granted.max(pinged + self.policy.lease_ms);
        if slave.target.0 == u64::MAX {
            slave.target = (end, now);
        }
        if durable >= slave.target.0 {
            slave.caught_up = slave.caught_up.max(slave.target.1);
            slave.target = (end, now);
        }
        if durable >= end {
            slave.caught_up = now;
        }
    }

    /// A slave is about to stop: it leaves the set without a timeout. It comes back like any other.
    pub fn on_leaving(&mut self, member: MemberId) {
        if let Some(slave) = self.slaves.get_mut(&member) {
            slave.is_leaving = true;
        }
    }

    /// A slave follows, from the beginning of a stream.
    pub fn on_follows(&mut self, member: MemberId) {
        if let Some(slave) = self.slaves.get_mut(&member) {
            slave.is_leaving = false;
        }
    }

    /// Up to where the log is confirmed.
    pub fn confirmed(&self) -> Confirmed {
        let mut confirmed = self.confirmed_by(&self.set.members, self.set.quorum);
        if let Some(Plan { change, .. }) = &self.plan {
            let then = self.confirmed_by(&change.members, change.quorum);
            confirmed = Confirmed {
                all: confirmed.all.min(then.all),
                quorum: confirmed.quorum.min(then.quorum),
                safe: confirmed.safe.min(then.safe),
            };
        }
        confirmed
    }

    fn confirmed_by(&self, members: &BTreeSet<MemberId>, by_majority: bool) -> Confirmed {
        let others = members.iter().filter(|member| **member != self.me);
        let mut held: Vec<u64> = others.map(|member| self.durable(*member)).collect();
        held.sort_unstable();
        let all = held.first().copied().unwrap_or(u64::MAX);
        // The master is one of the majority; of the others the best are as many as are needed.
        let needed = majority(members.len()) - 1;
        let quorum = held.len().checked_sub(needed).and_then(|at| held.get(at)).copied().unwrap_or(u64::MAX);
        // A majority that has records of an earlier reign does not keep one from being elected that has others in their
        // place; one that has the record which opened this reign does.
        let in_reign = |position: u64| if position < self.opened { 0 } else { position };
        let (all, quorum) = (in_reign(all), in_reign(quorum));
        Confirmed { all, quorum, safe: if by_majority { quorum } else { all } }
    }

    fn durable(&self, member: MemberId) -> u64 {
        self.slaves.get(&member).map_or(0, |slave| slave.durable)
    }

    /// Plans a change of the set, or another one in place of one that was not asked for yet. `own` is what the master itself has
    /// on disk. True when there is one that waits for [`Self::arm`].
    pub fn plan(&mut self, own: u64, now: u64) -> bool {
        if self.plan.as_ref().is_none_or(|plan| !plan.is_sent) {
            let wanted = Change {
                members: self.wanted_members(own, now),
                quorum: self.wants_quorum,
                version: self.set.version,
            };
            let is_change = wanted.members != self.set.members || wanted.quorum != self.set.quorum;
            if !is_change {
                self.plan = None;
            } else if self.plan.as_ref().is_none_or(|plan| plan.change != wanted) {
                self.plan = Some(Plan { change: wanted, armed: None, is_sent: false });
            }
        }
        self.plan.as_ref().is_some_and(|plan| plan.armed.is_none())
    }

    /// [`Self::confirmed`] has taken effect since the change was planned; the log ends at `end`.
    pub fn arm(&mut self, end: u64) {
        if let Some(plan) = &mut self.plan {
            plan.armed.get_or_insert(end);
        }
    }

    /// The change to ask the controller for at this moment, if any.
    pub fn request(&mut self) -> Option<Change> {
        let Plan { change, armed: Some(end), .. } = self.plan.as_ref()? else { return None };
        // Who only stays had to have everything all along, where all confirm.
        let only_shrinks = change.members.is_subset(&self.set.members);
        let is_certain = only_shrinks && !self.set.quorum;
        let has = |member: &MemberId| *member == self.me || self.durable(*member) >= *end;
        if !is_certain && !change.members.iter().all(has) {
            return None;
        }
        let plan = self.plan.as_mut()?;
        plan.is_sent = true;
        Some(plan.change.clone())
    }

    fn wanted_members(&self, own: u64, now: u64) -> BTreeSet<MemberId> {
        let safe = self.confirmed_by(&self.set.members, self.set.quorum).safe.min(own);
        let is_late = |slave: &Slave| {
            slave.is_leaving || now.saturating_sub(slave.caught_up) > self.policy.slave_timeout_ms
        };
        let stays = |member: MemberId| match self.slaves.get(&member) {
            Some(slave) if member != self.me => !is_late(slave),
            _ => true,
        };
        let mut members: BTreeSet<MemberId> =
            self.set.members.iter().copied().filter(|member| stays(*member)).collect();
        // Where a majority confirms, who stays may lack something that only the leaver has besides the master.
        let lacks = |member: &MemberId| *member != self.me && self.durable(*member) < safe;
        if self.set.quorum && members.len() < self.set.members.len() && members.iter().any(lacks) {
            members.clone_from(&self.set.members);
        }
        for (id, slave) in &self.slaves {
            let is_there = now.saturating_sub(slave.heard) <= self.policy.slave_timeout_ms;
            // Everything that counts, and the record that opened the reign: it follows this master and no other.
            let holds = slave.durable >= safe && slave.durable >= self.opened;
            if is_there && holds && !is_late(slave) {
                members.insert(*id);
            }
        }
        members
    }

    /// Until when this master is sure that nobody else rules; `None` when it is alone in the set and so for good.
    pub fn rules_until(&self) -> Option<u64> {
        let planned = self.plan.iter().flat_map(|plan| plan.change.members.iter());
        let others = self.set.members.iter().chain(planned).filter(|member| **member != self.me);
        others.map(|member| self.slaves.get(member).map_or(0, |slave| slave.granted)).min()
    }

    /// The slaves that were heard of, for administrators.
    pub fn slaves(&self, now: u64) -> Vec<SlaveView> {
        let view = |(id, slave): (&MemberId, &Slave)| SlaveView {
            id: *id,
            durable: slave.durable,
            silent_ms: now.saturating_sub(slave.heard),
            in_sync: self.set.members.contains(id),
        };
        self.slaves.iter().map(view).collect()
    }
}

/// The smallest number of members that any two such choices share one of.
fn majority(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { slave_timeout_ms: 1_000, lease_ms: 1_500 };

    fn set(members: &[MemberId], quorum: bool, version: u64) -> InSync {
        InSync { members: members.iter().copied().collect(), quorum, version }
    }

    fn master(members: &[MemberId], quorum: bool) -> Master {
        Master::new(1, POLICY, set(members, quorum, 1), 100, 0)
    }

    /// Plans and asks at once, as far as everybody has what the log holds up to `end`.
    fn wanted(master: &mut Master, end: u64, now: u64) -> Option<Change> {
        if master.plan(end, now) {
            master.arm(end);
        }
        master.request()
    }

    #[test]
    fn alone_everything_is_confirmed_and_the_reign_has_no_end() {
        let mut master = master(&[1], false);
        assert_eq!(master.confirmed(), Confirmed { all: u64::MAX, quorum: u64::MAX, safe: u64::MAX });
        assert_eq!((master.rules_until(), wanted(&mut master, 500, 9_999)), (None, None));
    }

    #[test]
    fn all_or_a_majority_confirm() {
        let mut master = master(&[1, 2, 3], false);
        assert_eq!(master.confirmed().all, 0);
        master.on_held(2, 300, 0, 300, 10);
        master.on_held(3, 200, 0, 300, 10);
        assert_eq!(master.confirmed(), Confirmed { all: 200, quorum: 300, safe: 200 });
        master.want_quorum(true);
        let change = wanted(&mut master, 300, 20).expect("the rule changes");
        assert!(change.quorum && change.members.len() == 3);
        assert_eq!(master.confirmed().safe, 200, "both rules while it is under way");
        master.on_state(set(&[1, 2, 3], true, 2), 30);
        assert_eq!(master.confirmed().safe, 300);
        assert_eq!((majority(1), majority(2), majority(3), majority(4), majority(5)), (1, 2, 2, 3, 3));
    }

    #[test]
    fn a_slave_that_falls_behind_leaves_and_comes_back() {
        let mut master = master(&[1, 2], false);
        for now in (0..900).step_by(100) {
            master.on_held(2, 300, now, 300, now);
        }
        // It answers, but does not get on.
        for now in (900..1_900).step_by(100) {
            master.on_held(2, 300, now, 400 + now, now);
        }
        assert_eq!(wanted(&mut master, 2_000, 1_800), None, "not for so long yet");
        let change = wanted(&mut master, 2_000, 2_000).expect("it is late");
        assert_eq!(change.members, [1].into());
        assert_eq!(master.confirmed().all, 300, "the controller has not said so");
        assert_eq!(wanted(&mut master, 2_000, 2_100), Some(change), "asked again, the same");
        master.on_state(set(&[1], false, 2), 2_200);
        assert_eq!(master.confirmed().all, u64::MAX);
        master.on_held(2, 1_000, 2_300, 2_400, 2_300);
        assert_eq!(wanted(&mut master, 2_400, 2_300), None, "still behind");
        master.on_held(2, 2_400, 2_400, 2_400, 2_400);
        let back = wanted(&mut master, 2_400, 2_400).expect("caught up");
        assert_eq!(back.members, [1, 2].into());
        assert_eq!(master.confirmed().all, 2_400, "needed from the moment it is asked for");
    }

    /// One that always lags by a little is in sync: it held what there was a moment ago.
    #[test]
    fn under_load_a_slave_is_always_a_little_behind() {
        let mut master = master(&[1, 2], false);
        for now in (0..10_000_u64).step_by(100) {
            master.on_held(2, now.saturating_sub(100), now, now, now);
            assert_eq!(wanted(&mut master, now, now), None);
        }
    }

    /// What was confirmed between looking at a slave and the stricter rule may not be on that slave.
    #[test]
    fn a_newcomer_has_everything_that_was_confirmed_without_it() {
        let mut master = master(&[1], false);
        master.on_held(2, 400, 0, 400, 10);
        assert!(master.plan(400, 20), "it looks caught up");
        assert_eq!(master.confirmed().all, 400, "needed from here on");
        master.arm(450);
        assert_eq!(master.request(), None, "but 450 was confirmed meanwhile");
        master.on_held(2, 450, 20, 450, 30);
        assert!(!master.plan(450, 40), "the same plan");
        assert_eq!(master.request().map(|change| change.members), Some([1, 2].into()));
        assert!(!master.plan(450, 50_000), "once asked for, it stays until the controller says something");
        assert!(master.request().is_some());
    }

    #[test]
    fn who_says_goodbye_leaves_at_once() {
        let mut master = master(&[1, 2], false);
        master.on_held(2, 300, 10, 300, 10);
        master.on_leaving(2);
        assert_eq!(wanted(&mut master, 300, 20).map(|change| change.members), Some([1].into()));
        master.on_state(set(&[1], false, 2), 30);
        master.on_held(2, 300, 40, 300, 40);
        assert_eq!(wanted(&mut master, 300, 50), None);
        master.on_follows(2);
        assert!(wanted(&mut master, 300, 60).is_some());
    }

    #[test]
    fn a_plan_that_was_not_asked_for_is_given_up_when_things_change() {
        let mut master = master(&[1], false);
        master.on_held(2, 400, 0, 400, 10);
        assert!(master.plan(400, 20));
        master.arm(450);
        assert!(!master.plan(450, 5_000), "the slave is gone again");
        assert_eq!((master.request(), master.confirmed().all), (None, u64::MAX));
    }

    #[test]
    fn a_majority_group_keeps_a_silent_member_while_the_others_lack_something() {
        let mut master = master(&[1, 2, 3], true);
        master.on_held(3, 600, 400, 600, 400);
        master.on_held(2, 500, 900, 500, 900);
        assert_eq!(master.confirmed().safe, 600);
        assert_eq!(wanted(&mut master, 600, 1_500), None, "member 2 lacks what 1 and 3 confirmed");
        master.on_held(2, 600, 1_500, 600, 1_500);
        assert_eq!(wanted(&mut master, 600, 1_600).map(|change| change.members), Some([1, 2].into()));
    }

    #[test]
    fn the_lease_is_what_the_whole_set_granted() {
        let mut master = master(&[1, 2, 3], false);
        assert_eq!(master.rules_until(), Some(0));
        master.on_held(2, 300, 100, 300, 150);
        master.on_held(3, 300, 40, 300, 160);
        assert_eq!(master.rules_until(), Some(1_540));
        master.on_held(3, 300, 20, 300, 170);
        assert_eq!(master.rules_until(), Some(1_540), "an older ping takes nothing away");
    }
}
