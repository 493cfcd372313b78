//! The role of a member: the decision that follows from the state of its group.

use super::GroupView;
use crate::{MemberId, sabotage};

/// The leader to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowTarget {
    /// Epoch of the leadership.
    pub epoch: u32,
    /// Number of the follower.
    pub me: MemberId,
    /// Number of the leader.
    pub leader: MemberId,
    /// Address of the leader.
    pub address: String,
}

/// A driver's work for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberDuty {
    /// No work.
    Idle,
    /// Calls the leader and copies its log.
    Follow(FollowTarget),
    /// Writes the record that opens a leadership, and leads.
    Lead {
        /// Epoch of the leadership.
        epoch: u32,
        /// Number of the leader.
        me: MemberId,
        /// No other member is in the in-sync set, so everything in the log is confirmed.
        is_alone: bool,
    },
}

/// A duty with its number, which grows with each one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DutyOrder {
    /// Identifies the duty in the driver's answers.
    pub number: u64,
    /// The duty.
    pub duty: MemberDuty,
}

/// The answer to "does this member lead": health, admission of clients, announcements and routes depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MemberRole {
    /// It neither leads nor follows: it just began, or an election or a change of roles is under way.
    #[default]
    Waiting,
    /// It follows the leader of this epoch.
    Follower {
        /// Epoch of the leadership.
        epoch: u32,
        /// The leader's number.
        leader: MemberId,
    },
    /// It was elected but does not serve clients yet: the record that opens its leadership is being written.
    Candidate {
        /// Epoch of the leadership.
        epoch: u32,
    },
    /// It leads.
    Leader {
        /// Epoch of the leadership.
        epoch: u32,
    },
    /// It leads, admits no client, and hands its leadership over.
    Resigning {
        /// Epoch of the leadership.
        epoch: u32,
    },
}

/// The next step of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NextStep {
    Stay,
    /// End the duty.
    End,
    /// Promise not to follow epochs before this one.
    Promise(u32),
    Follow(FollowTarget),
    /// Lead after this many milliseconds, in which another leader may still rely on this member's grant.
    Lead {
        epoch: u32,
        after_ms: u64,
    },
}

/// A member's promise, its identity, and the limits set by its grants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standpoint<'a> {
    pub(super) me: MemberId,
    pub(super) process: &'a str,
    pub(super) promised: u32,
    pub(super) grants_ms: u64,
}

pub(super) fn next_step(duty: &MemberDuty, own: Standpoint<'_>, view: &GroupView) -> NextStep {
    let is_process = view.leader_process == own.process || sabotage::is("resume-old-epoch");
    let leads = view.leader == own.me && is_process;
    let target = view.members.get(&view.leader).filter(|_| view.leader != own.me);
    let target = target.map(|leader| FollowTarget {
        epoch: view.epoch,
        me: own.me,
        leader: view.leader,
        address: leader.address.clone(),
    });
    match duty {
        MemberDuty::Lead { epoch, .. } if leads && view.epoch == *epoch => return NextStep::Stay,
        MemberDuty::Follow(current) if target.as_ref() == Some(current) => return NextStep::Stay,
        MemberDuty::Follow(_) if sabotage::is("ignore-epoch") && view.leader == 0 => {
            let is_news = view.epoch > own.promised;
            return if is_news { NextStep::Promise(view.epoch) } else { NextStep::Stay };
        }
        MemberDuty::Idle => {}
        _ => return NextStep::End,
    }
    if view.epoch > own.promised {
        return NextStep::Promise(view.epoch);
    }
    if view.epoch < own.promised {
        return NextStep::Stay;
    }
    if leads {
        let after_ms = if view.released { 0 } else { own.grants_ms };
        return NextStep::Lead { epoch: view.epoch, after_ms };
    }
    target.map_or(NextStep::Stay, NextStep::Follow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::PeerView;

    fn view(epoch: u32, leader: u64, process: &str) -> GroupView {
        let peer = |id: u64| (id, PeerView { address: format!("h:{id}"), ..PeerView::default() });
        GroupView {
            epoch,
            leader,
            leader_process: process.into(),
            members: [peer(1), peer(2)].into(),
            ..GroupView::default()
        }
    }

    fn step(duty: &MemberDuty, promised: u32, view: &GroupView) -> NextStep {
        next_step(duty, Standpoint { me: 1, process: "p", promised, grants_ms: 70 }, view)
    }

    fn leading(epoch: u32) -> MemberDuty {
        MemberDuty::Lead { epoch, me: 1, is_alone: false }
    }

    #[test]
    fn a_promise_comes_before_everything_else() {
        assert_eq!(step(&MemberDuty::Idle, 3, &view(4, 0, "")), NextStep::Promise(4));
        assert_eq!(step(&MemberDuty::Idle, 3, &view(4, 1, "p")), NextStep::Promise(4));
        assert_eq!(step(&leading(3), 3, &view(4, 0, "")), NextStep::End, "but not while it leads");
        assert_eq!(step(&MemberDuty::Idle, 5, &view(4, 2, "q")), NextStep::Stay, "old news");
    }

    #[test]
    fn only_the_process_that_was_elected_leads_and_after_its_grants() {
        assert_eq!(step(&MemberDuty::Idle, 4, &view(4, 1, "p")), NextStep::Lead { epoch: 4, after_ms: 70 });
        assert_eq!(step(&MemberDuty::Idle, 4, &view(4, 1, "earlier")), NextStep::Stay);
        let released = GroupView { released: true, ..view(4, 1, "p") };
        assert_eq!(step(&MemberDuty::Idle, 4, &released), NextStep::Lead { epoch: 4, after_ms: 0 });
        assert_eq!(step(&leading(4), 4, &view(4, 1, "p")), NextStep::Stay);
    }

    #[test]
    fn a_follower_follows_the_leader_of_the_moment() {
        let target = FollowTarget { epoch: 4, me: 1, leader: 2, address: "h:2".into() };
        let following = MemberDuty::Follow(target.clone());
        assert_eq!(step(&MemberDuty::Idle, 4, &view(4, 2, "q")), NextStep::Follow(target));
        assert_eq!(step(&following, 4, &view(4, 2, "q")), NextStep::Stay);
        assert_eq!(step(&following, 4, &view(5, 0, "")), NextStep::End);
        assert_eq!(step(&following, 4, &view(4, 1, "p")), NextStep::End);
    }
}
