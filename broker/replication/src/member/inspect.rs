//! What others read of a member.

use super::{CommitStatus, DutyOrder, FollowerLog, GroupMember, GroupView, MemberRecord, MemberRole, Phase};
use crate::handshake::FollowRequest;
use crate::{ClockReading, ConfirmedMark, FollowerView, MemberId};

impl GroupMember {
    /// What the member is to others at this moment.
    pub fn role(&self) -> MemberRole {
        match &self.phase {
            Phase::Idle | Phase::Ending => MemberRole::Waiting,
            Phase::Following(follower) => {
                MemberRole::Follower { epoch: follower.target.epoch, leader: follower.target.leader }
            }
            Phase::Opening { epoch, .. } => MemberRole::Candidate { epoch: *epoch },
            Phase::Leading(leadership) => {
                let epoch = leadership.epoch;
                match (leadership.is_open, leadership.is_resigning()) {
                    (false, _) => MemberRole::Candidate { epoch },
                    (true, true) => MemberRole::Resigning { epoch },
                    (true, false) => MemberRole::Leader { epoch },
                }
            }
        }
    }

    /// The duty that was ordered last.
    pub fn order_now(&self) -> &DutyOrder {
        &self.order
    }

    /// The newest promise that is durable: what reports say.
    pub fn promised(&self) -> u32 {
        self.record.promised()
    }

    /// The record as it is to become.
    pub fn record(&self) -> &MemberRecord {
        self.record.now()
    }

    /// Up to where this member heard that the log is confirmed.
    pub fn known(&self) -> ConfirmedMark {
        self.known
    }

    /// The member's number and the state that it goes by.
    pub fn view(&self) -> Option<&(MemberId, GroupView)> {
        self.view.as_ref()
    }

    /// What a leader published last, with the number of members in sync.
    pub fn commit_status(&self) -> Option<(CommitStatus, usize)> {
        match &self.phase {
            Phase::Leading(leadership) => Some((leadership.status(), leadership.tracker.in_sync_len())),
            _ => None,
        }
    }

    /// The followers that a leader heard of.
    pub fn followers(&self, now: ClockReading) -> Vec<FollowerView> {
        match &self.phase {
            Phase::Leading(leadership) => leadership.tracker.followers(now.mono_ms),
            _ => Vec::new(),
        }
    }

    /// Milliseconds after which a member that waits for leases to end is to be given a tick; `None` for one that does not. A leader
    /// is given ticks all the time.
    pub fn wakes_after(&self, now: ClockReading) -> Option<u64> {
        let left = self.grants.left(now.mono_ms);
        (matches!(self.phase, Phase::Idle) && left > 0).then_some(left)
    }

    /// Whether the group can do without this member, whose process is about to end.
    pub fn may_leave(&self) -> bool {
        let Some((me, view)) = &self.view else { return true };
        match &self.phase {
            Phase::Leading(leadership) => leadership.tracker.in_sync_len() == 1,
            // Another member has to lead first: clients that wait here are passed on to it.
            _ => {
                view.leader != 0 && view.leader != *me && !view.in_sync.contains(me)
                    || view.members.len() == 1
            }
        }
    }

    /// What a follower says of its log; `None` for none.
    pub fn hello(log: Option<(u64, FollowerLog)>) -> FollowRequest {
        match log {
            Some((salt, log)) => FollowRequest { salt, end: log.end, last_epoch: log.last_epoch },
            None => FollowRequest { salt: 0, end: 0, last_epoch: 0 },
        }
    }
}
