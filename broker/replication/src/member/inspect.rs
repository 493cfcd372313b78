//! Read access to a member's machine.

use super::{CommitStatus, DutyOrder, FollowerLog, GroupMember, GroupView, MemberRecord, MemberRole, Phase};
use crate::handshake::FollowRequest;
use crate::{ClockReading, ConfirmedMark, FollowerView, MemberId};

impl GroupMember {
    /// The member's role at this moment.
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

    /// The last ordered duty.
    pub fn order_now(&self) -> &DutyOrder {
        &self.order
    }

    /// The newest durable promise, as reports carry it.
    pub fn promised(&self) -> u32 {
        self.record.promised()
    }

    /// The record with all pending changes.
    pub fn record(&self) -> &MemberRecord {
        self.record.now()
    }

    /// Confirmed end of the log, as this member knows it.
    pub fn known(&self) -> ConfirmedMark {
        self.known
    }

    /// The member's number and the accepted state.
    pub fn view(&self) -> Option<&(MemberId, GroupView)> {
        self.view.as_ref()
    }

    /// The last published status of a leader, with the number of members in sync.
    pub fn commit_status(&self) -> Option<(CommitStatus, usize)> {
        match &self.phase {
            Phase::Leading(leadership) => Some((leadership.status(), leadership.tracker.in_sync_len())),
            _ => None,
        }
    }

    /// The followers that a leader knows.
    pub fn followers(&self, now: ClockReading) -> Vec<FollowerView> {
        match &self.phase {
            Phase::Leading(leadership) => leadership.tracker.followers(now.mono_ms),
            _ => Vec::new(),
        }
    }

    /// Milliseconds after which a member that waits for leases to end needs a tick; `None` for other members. A leader gets ticks
    /// all the time.
    pub fn wakes_after(&self, now: ClockReading) -> Option<u64> {
        let left = self.grants.left(now.mono_ms);
        (matches!(self.phase, Phase::Idle) && left > 0).then_some(left)
    }

    /// Whether the group can do without this member, whose process is about to end.
    pub fn may_leave(&self) -> bool {
        let Some((me, view)) = &self.view else { return true };
        match &self.phase {
            Phase::Leading(leadership) => leadership.tracker.in_sync_len() == 1,
            // Another member has to lead first: waiting clients are passed on to it.
            _ => {
                view.leader != 0 && view.leader != *me && !view.in_sync.contains(me)
                    || view.members.len() == 1
            }
        }
    }

    /// A follower's description of its log; `None` for none.
    pub fn hello(log: Option<(u64, FollowerLog)>) -> FollowRequest {
        match log {
            Some((salt, FollowerLog { end, last_epoch, last, .. })) => {
                FollowRequest { salt, end, last_epoch, last }
            }
            None => FollowRequest { salt: 0, end: 0, last_epoch: 0, last: None },
        }
    }
}
