//! The leader's side: the positions of its followers, the confirmed positions that follow, and the in-sync set to
//! request.

use std::collections::{BTreeMap, BTreeSet};

use crate::MemberId;

/// The operator's limits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationPolicy {
    /// A member of the in-sync set leaves it when it has not held everything for this long.
    pub follower_timeout_ms: u64,
    /// How long the answer to a ping keeps the leader sure of its leadership.
    pub lease_ms: u64,
}

/// The in-sync set, as last reported by the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSyncSet {
    /// The members, the leader included.
    pub members: BTreeSet<MemberId>,
    /// A majority of the set confirms, instead of all.
    pub quorum: bool,
    /// Version of the group's state that defines the set.
    pub version: u64,
}

/// A change requested from the controller. Once requested, it is repeated unchanged until a newer version of the state
/// is known: before that its outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSyncChange {
    /// The requested set.
    pub members: BTreeSet<MemberId>,
    /// The requested rule.
    pub quorum: bool,
    /// Version that the change is based on.
    pub version: u64,
}

/// Positions up to which other members hold the log on their disks, as far as the leader needs them. The leader's own
/// position is not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmedPositions {
    /// Everything before it is held by the whole in-sync set.
    pub all: u64,
    /// Everything before it is held by a majority of the set, the leader included.
    pub quorum: u64,
    /// One of the two, by the group's rule. Elections preserve everything before it.
    pub high_watermark: u64,
}

/// A follower as the leader sees it, for administrators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerView {
    /// Its number.
    pub id: MemberId,
    /// End of its log on its disk.
    pub durable: u64,
    /// Milliseconds since its last sign of life.
    pub silent_ms: u64,
    /// Whether it is in the in-sync set.
    pub in_sync: bool,
}

/// A planned change of the in-sync set.
///
/// Once a change is planned, a record is confirmed only if both sets hold it. But a joining member may lack records that were
/// confirmed just before. So the driver publishes the stricter rule, reads the end of the log *then* ([`InSyncTracker::arm`]), and
/// the change is requested when every member of the new set holds the log up to there.
#[derive(Debug, Clone)]
struct PlannedChange {
    change: InSyncChange,
    armed: Option<u64>,
    is_sent: bool,
}

#[derive(Debug, Clone, Copy)]
struct TrackedFollower {
    durable: u64,
    heard: u64,
    /// The last moment at which it held everything that existed at some moment within the timeout.
    caught_up: u64,
    /// Position at which it counts as caught up, and since when that was the end of the log.
    target: (u64, u64),
    /// Moment until which it has promised nothing to a later leadership.
    granted: u64,
    is_leaving: bool,
}

/// A leader's knowledge of its leadership. Times are monotonic milliseconds of one clock.
#[derive(Debug, Clone)]
pub struct InSyncTracker {
    me: MemberId,
    policy: ReplicationPolicy,
    set: InSyncSet,
    plan: Option<PlannedChange>,
    wants_quorum: bool,
    followers: BTreeMap<MemberId, TrackedFollower>,
    /// End of the record that opened the leadership.
    opened: u64,
}

impl InSyncTracker {
    /// The leadership of `me` over a group with this in-sync set, which begins `now` with a record that ends at `opened`.
    pub fn new(me: MemberId, policy: ReplicationPolicy, set: InSyncSet, opened: u64, now: u64) -> Self {
        let mut leader = Self {
            me,
            policy,
            wants_quorum: set.quorum,
            set: InSyncSet { members: BTreeSet::new(), ..set.clone() },
            plan: None,
            followers: BTreeMap::new(),
            opened,
        };
        leader.adopt(set, now);
        leader
    }

    /// Number of members in the set.
    pub fn in_sync_len(&self) -> usize {
        self.set.members.len()
    }

    /// The set as last reported by the controller.
    pub fn in_sync(&self) -> &InSyncSet {
        &self.set
    }

    /// Sets whether the leader wants confirmation by majority.
    pub fn want_quorum(&mut self, wanted: bool) {
        self.wants_quorum = wanted;
    }

    /// Takes a state from the controller, if it is newer than the known one.
    pub fn on_state(&mut self, set: InSyncSet, now: u64) {
        if set.version > self.set.version {
            self.adopt(set, now);
        }
    }

    fn adopt(&mut self, set: InSyncSet, now: u64) {
        self.set = set;
        // The state answers the request, or is a reason to request another change.
        self.plan = None;
        // A member that has not connected yet gets the full timeout.
        for member in self.set.members.iter().filter(|member| **member != self.me) {
            self.followers.entry(*member).or_insert(TrackedFollower {
                durable: 0,
                heard: now,
                caught_up: now,
                target: (u64::MAX, now),
                granted: 0,
                is_leaving: false,
            });
        }
    }

    /// Processes the acknowledgement of a follower that holds everything before `durable` on its disk, and answers a ping
    /// sent at `pinged`. `end` is the end of the leader's log.
    pub fn on_ack(&mut self, member: MemberId, durable: u64, pinged: u64, end: u64, now: u64) {
        if member == self.me {
            return;
        }
        let follower = self.followers.entry(member).or_insert(TrackedFollower {
            durable,
            heard: now,
            // A member outside the set has to catch up first.
            caught_up: 0,
            target: (end, now),
            granted: 0,
            is_leaving: false,
        });
        follower.durable = durable;
        follower.heard = now;
        follower.granted = follower.granted.max(pinged + self.policy.lease_ms);
        if follower.target.0 == u64::MAX {
            follower.target = (end, now);
        }
        if durable >= follower.target.0 {
            follower.caught_up = follower.caught_up.max(follower.target.1);
            follower.target = (end, now);
        }
        if durable >= end {
            follower.caught_up = now;
        }
    }

    /// A follower is about to stop: it leaves the set without a timeout. It rejoins like any other.
    pub fn on_leaving(&mut self, member: MemberId) {
        if let Some(follower) = self.followers.get_mut(&member) {
            follower.is_leaving = true;
        }
    }

    /// A follower begins a stream.
    pub fn on_follows(&mut self, member: MemberId) {
        if let Some(follower) = self.followers.get_mut(&member) {
            follower.is_leaving = false;
        }
    }

    /// Positions up to which the log is confirmed.
    pub fn confirmed(&self) -> ConfirmedPositions {
        let mut confirmed = self.confirmed_by(&self.set.members, self.set.quorum);
        if let Some(PlannedChange { change, .. }) = &self.plan {
            let then = self.confirmed_by(&change.members, change.quorum);
            confirmed = ConfirmedPositions {
                all: confirmed.all.min(then.all),
                quorum: confirmed.quorum.min(then.quorum),
                high_watermark: confirmed.high_watermark.min(then.high_watermark),
            };
        }
        confirmed
    }

    fn confirmed_by(&self, members: &BTreeSet<MemberId>, by_majority: bool) -> ConfirmedPositions {
        let others = members.iter().filter(|member| **member != self.me);
        let mut held: Vec<u64> = others.map(|member| self.durable(*member)).collect();
        held.sort_unstable();
        let all = held.first().copied().unwrap_or(u64::MAX);
        // The leader is one of the majority; the rest are the members that are furthest ahead.
        let needed = majority(members.len()) - 1;
        let quorum = held.len().checked_sub(needed).and_then(|at| held.get(at)).copied().unwrap_or(u64::MAX);
        // A majority that has only records of earlier leaderships does not prevent the election of a member with others in
        // their place; a majority that has the record which opened this leadership does.
        let in_epoch = |position: u64| if position < self.opened { 0 } else { position };
        let (all, quorum) = (in_epoch(all), in_epoch(quorum));
        ConfirmedPositions { all, quorum, high_watermark: if by_majority { quorum } else { all } }
    }

    fn durable(&self, member: MemberId) -> u64 {
        self.followers.get(&member).map_or(0, |follower| follower.durable)
    }

    /// Plans a change of the set, or replaces a plan that was not requested yet. `own` is the end of the leader's own log on
    /// disk. True when a plan waits for [`Self::arm`].
    pub fn plan(&mut self, own: u64, now: u64) -> bool {
        if self.plan.as_ref().is_none_or(|plan| !plan.is_sent) {
            let wanted = InSyncChange {
                members: self.wanted_members(own, now),
                quorum: self.wants_quorum,
                version: self.set.version,
            };
            let is_change = wanted.members != self.set.members || wanted.quorum != self.set.quorum;
            if !is_change {
                self.plan = None;
            } else if self.plan.as_ref().is_none_or(|plan| plan.change != wanted) {
                self.plan = Some(PlannedChange { change: wanted, armed: None, is_sent: false });
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

    /// The change to request from the controller now, if any.
    pub fn request(&mut self) -> Option<InSyncChange> {
        let PlannedChange { change, armed: Some(end), .. } = self.plan.as_ref()? else { return None };
        // If all members confirm, the remaining ones already held every confirmed record.
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
        let high_watermark = self.confirmed_by(&self.set.members, self.set.quorum).high_watermark.min(own);
        let is_late = |follower: &TrackedFollower| {
            follower.is_leaving || now.saturating_sub(follower.caught_up) > self.policy.follower_timeout_ms
        };
        let stays = |member: MemberId| match self.followers.get(&member) {
            Some(follower) if member != self.me => !is_late(follower),
            _ => true,
        };
        let mut members: BTreeSet<MemberId> =
            self.set.members.iter().copied().filter(|member| stays(*member)).collect();
        // If a majority confirms, a remaining member may lack records that only the leaver and the leader hold.
        let lacks = |member: &MemberId| *member != self.me && self.durable(*member) < high_watermark;
        if self.set.quorum && members.len() < self.set.members.len() && members.iter().any(lacks) {
            members.clone_from(&self.set.members);
        }
        for (id, follower) in &self.followers {
            let is_there = now.saturating_sub(follower.heard) <= self.policy.follower_timeout_ms;
            // It holds every confirmed record and the record that opened the leadership: it follows this leader and no
            // other.
            let holds = follower.durable >= high_watermark && follower.durable >= self.opened;
            if is_there && holds && !is_late(follower) {
                members.insert(*id);
            }
        }
        members
    }

    /// Moment until which this leader is sure that no other member leads; `None` without limit, when it is alone in the
    /// set.
    pub fn lease_until(&self) -> Option<u64> {
        let planned = self.plan.iter().flat_map(|plan| plan.change.members.iter());
        let others = self.set.members.iter().chain(planned).filter(|member| **member != self.me);
        others.map(|member| self.followers.get(member).map_or(0, |follower| follower.granted)).min()
    }

    /// The known followers, for administrators.
    pub fn followers(&self, now: u64) -> Vec<FollowerView> {
        let view = |(id, follower): (&MemberId, &TrackedFollower)| FollowerView {
            id: *id,
            durable: follower.durable,
            silent_ms: now.saturating_sub(follower.heard),
            in_sync: self.set.members.contains(id),
        };
        self.followers.iter().map(view).collect()
    }
}

/// The smallest number of members at which any two such selections share one.
fn majority(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: ReplicationPolicy = ReplicationPolicy { follower_timeout_ms: 1_000, lease_ms: 1_500 };

    fn set(members: &[MemberId], quorum: bool, version: u64) -> InSyncSet {
        InSyncSet { members: members.iter().copied().collect(), quorum, version }
    }

    fn leader(members: &[MemberId], quorum: bool) -> InSyncTracker {
        InSyncTracker::new(1, POLICY, set(members, quorum, 1), 100, 0)
    }

    /// Plans and requests at once, as if every member held the log up to `end`.
    fn wanted(leader: &mut InSyncTracker, end: u64, now: u64) -> Option<InSyncChange> {
        if leader.plan(end, now) {
            leader.arm(end);
        }
        leader.request()
    }

    #[test]
    fn alone_everything_is_confirmed_and_the_leadership_has_no_end() {
        let mut leader = leader(&[1], false);
        assert_eq!(
            leader.confirmed(),
            ConfirmedPositions { all: u64::MAX, quorum: u64::MAX, high_watermark: u64::MAX }
        );
        assert_eq!((leader.lease_until(), wanted(&mut leader, 500, 9_999)), (None, None));
    }

    #[test]
    fn all_or_a_majority_confirm() {
        let mut leader = leader(&[1, 2, 3], false);
        assert_eq!(leader.confirmed().all, 0);
        leader.on_ack(2, 300, 0, 300, 10);
        leader.on_ack(3, 200, 0, 300, 10);
        assert_eq!(leader.confirmed(), ConfirmedPositions { all: 200, quorum: 300, high_watermark: 200 });
        leader.want_quorum(true);
        let change = wanted(&mut leader, 300, 20).expect("the rule changes");
        assert!(change.quorum && change.members.len() == 3);
        assert_eq!(leader.confirmed().high_watermark, 200, "both rules while it is under way");
        leader.on_state(set(&[1, 2, 3], true, 2), 30);
        assert_eq!(leader.confirmed().high_watermark, 300);
        assert_eq!((majority(1), majority(2), majority(3), majority(4), majority(5)), (1, 2, 2, 3, 3));
    }

    #[test]
    fn a_follower_that_falls_behind_leaves_and_comes_back() {
        let mut leader = leader(&[1, 2], false);
        for now in (0..900).step_by(100) {
            leader.on_ack(2, 300, now, 300, now);
        }
        // The follower answers, but makes no progress.
        for now in (900..1_900).step_by(100) {
            leader.on_ack(2, 300, now, 400 + now, now);
        }
        assert_eq!(wanted(&mut leader, 2_000, 1_800), None, "the timeout has not passed");
        let change = wanted(&mut leader, 2_000, 2_000).expect("it is late");
        assert_eq!(change.members, [1].into());
        assert_eq!(leader.confirmed().all, 300, "the controller has not said so");
        assert_eq!(wanted(&mut leader, 2_000, 2_100), Some(change), "asked again, the same");
        leader.on_state(set(&[1], false, 2), 2_200);
        assert_eq!(leader.confirmed().all, u64::MAX);
        leader.on_ack(2, 1_000, 2_300, 2_400, 2_300);
        assert_eq!(wanted(&mut leader, 2_400, 2_300), None, "still behind");
        leader.on_ack(2, 2_400, 2_400, 2_400, 2_400);
        let back = wanted(&mut leader, 2_400, 2_400).expect("caught up");
        assert_eq!(back.members, [1, 2].into());
        assert_eq!(leader.confirmed().all, 2_400, "needed from the moment it is asked for");
    }

    /// A follower that always lags by a little is in sync: it held the whole log of a moment ago.
    #[test]
    fn under_load_a_follower_is_always_a_little_behind() {
        let mut leader = leader(&[1, 2], false);
        for now in (0..10_000_u64).step_by(100) {
            leader.on_ack(2, now.saturating_sub(100), now, now, now);
            assert_eq!(wanted(&mut leader, now, now), None);
        }
    }

    /// Records confirmed between the check of a follower and the stricter rule may be missing on that follower.
    #[test]
    fn a_newcomer_has_everything_that_was_confirmed_without_it() {
        let mut leader = leader(&[1], false);
        leader.on_ack(2, 400, 0, 400, 10);
        assert!(leader.plan(400, 20), "it looks caught up");
        assert_eq!(leader.confirmed().all, 400, "needed from here on");
        leader.arm(450);
        assert_eq!(leader.request(), None, "but 450 was confirmed meanwhile");
        leader.on_ack(2, 450, 20, 450, 30);
        assert!(!leader.plan(450, 40), "the same plan");
        assert_eq!(leader.request().map(|change| change.members), Some([1, 2].into()));
        assert!(!leader.plan(450, 50_000), "once asked for, it stays until the controller says something");
        assert!(leader.request().is_some());
    }

    #[test]
    fn who_says_goodbye_leaves_at_once() {
        let mut leader = leader(&[1, 2], false);
        leader.on_ack(2, 300, 10, 300, 10);
        leader.on_leaving(2);
        assert_eq!(wanted(&mut leader, 300, 20).map(|change| change.members), Some([1].into()));
        leader.on_state(set(&[1], false, 2), 30);
        leader.on_ack(2, 300, 40, 300, 40);
        assert_eq!(wanted(&mut leader, 300, 50), None);
        leader.on_follows(2);
        assert!(wanted(&mut leader, 300, 60).is_some());
    }

    #[test]
    fn a_plan_that_was_not_asked_for_is_given_up_when_things_change() {
        let mut leader = leader(&[1], false);
        leader.on_ack(2, 400, 0, 400, 10);
        assert!(leader.plan(400, 20));
        leader.arm(450);
        assert!(!leader.plan(450, 5_000), "the follower is gone again");
        assert_eq!((leader.request(), leader.confirmed().all), (None, u64::MAX));
    }

    #[test]
    fn a_majority_group_keeps_a_silent_member_while_the_others_lack_something() {
        let mut leader = leader(&[1, 2, 3], true);
        leader.on_ack(3, 600, 400, 600, 400);
        leader.on_ack(2, 500, 900, 500, 900);
        assert_eq!(leader.confirmed().high_watermark, 600);
        assert_eq!(wanted(&mut leader, 600, 1_500), None, "member 2 lacks what 1 and 3 confirmed");
        leader.on_ack(2, 600, 1_500, 600, 1_500);
        assert_eq!(wanted(&mut leader, 600, 1_600).map(|change| change.members), Some([1, 2].into()));
    }

    #[test]
    fn the_lease_is_what_the_whole_set_granted() {
        let mut leader = leader(&[1, 2, 3], false);
        assert_eq!(leader.lease_until(), Some(0));
        leader.on_ack(2, 300, 100, 300, 150);
        leader.on_ack(3, 300, 40, 300, 160);
        assert_eq!(leader.lease_until(), Some(1_540));
        leader.on_ack(3, 300, 20, 300, 170);
        assert_eq!(leader.lease_until(), Some(1_540), "an older ping takes nothing away");
    }
}
