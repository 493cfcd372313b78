//! The follower's side of a leadership: where it cuts its log, which records it reports as held, and which it may
//! apply.

use super::FollowTarget;
use crate::handshake::{FollowRequest, RecordMark};
use crate::{ConfirmedMark, sabotage};

/// A leader's regular message, with records or without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitUpdate {
    /// Everything before this position is confirmed, as far as the leader holds it.
    pub high_watermark: u64,
    /// When the leader sent it, on the clock of its lease.
    pub ping: u64,
}

impl CommitUpdate {
    /// Combines two updates: the newer value of each field.
    pub fn merge(self, other: Self) -> Self {
        Self {
            high_watermark: self.high_watermark.max(other.high_watermark),
            ping: self.ping.max(other.ping),
        }
    }
}

/// A follower's log when the leader's answer to its hello arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerLog {
    /// Base of its oldest segment.
    pub start: u64,
    /// End of its records.
    pub end: u64,
    /// Epoch of its last record; 0 without one.
    pub last_epoch: u32,
    /// That record; `None` when it is not known.
    pub last: Option<RecordMark>,
}

/// The leader's answer to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderAnswer {
    /// The logs agree up to the end of the follower's; records follow.
    Start,
    /// The logs differ, or may.
    Diverged {
        /// Epoch of the record behind which the leader's answer points.
        epoch: u32,
        /// Where this log has to be cut, see [`handshake::cut_at`](crate::handshake::cut_at).
        to: u64,
    },
    /// The follower has no record, or the leader has removed its next records: it begins with the leader's oldest
    /// segment.
    Begin {
        /// Salt of the leader's log.
        salt: u64,
        /// Base of that segment.
        base: u64,
    },
}

/// The change that a follower makes to its log before it sends another hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRepair {
    /// Removes everything from this position on.
    Truncate(u64),
    /// Removes everything.
    Discard,
    /// Removes everything, and continues with the segment of the leader's log that begins at `base`.
    BeginAnew {
        /// Salt of the leader's log.
        salt: u64,
        /// Base of the segment.
        base: u64,
    },
    /// Sends this hello instead of a true one: a broken follower that lies.
    Pretend(FollowRequest),
}

/// Why a follower leaves its log unchanged and does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowRefusal {
    /// The leader lacks confirmed records; only an operator can accept that.
    LosesConfirmed {
        /// Position at which the logs diverge.
        to: u64,
        /// End of the follower's log.
        end: u64,
        /// Confirmed end of the log, as the follower knows it.
        confirmed: u64,
    },
    /// The leader no longer has the next records for the follower, which is in sync. It has to leave the in-sync set first.
    InSync,
}

/// One leadership that this member follows.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    pub(super) target: FollowTarget,
    /// The logs agree, and records arrive.
    pub(super) is_streaming: bool,
    durable: u64,
    heard: CommitUpdate,
    /// Set while the newest ping is unanswered.
    owes_ack: bool,
}

/// A follower's limits for cuts, independent of the stream.
pub(super) struct CutGuard {
    pub(super) known: ConfirmedMark,
    /// Newest epoch for which an operator accepted loss.
    pub(super) accepted: u32,
    pub(super) is_in_sync: bool,
}

impl CutGuard {
    fn check(&self, to: u64, end: u64) -> Result<(), FollowRefusal> {
        if self.known.allows_cut(to, end, self.accepted) || sabotage::is("cut-confirmed") {
            return Ok(());
        }
        Err(FollowRefusal::LosesConfirmed { to, end, confirmed: self.known.position })
    }

    /// Decides how to repair the log after an answer other than a start.
    pub(super) fn repair(
        &self,
        answer: &LeaderAnswer,
        log: Option<&FollowerLog>,
        salt: u64,
    ) -> Result<Option<LogRepair>, FollowRefusal> {
        match (*answer, log) {
            (LeaderAnswer::Start, _) => Ok(None),
            // A missing log cannot diverge: the leader is asked once more.
            (LeaderAnswer::Diverged { .. }, None) => Ok(Some(LogRepair::Discard)),
            (LeaderAnswer::Diverged { epoch, to }, Some(log)) => {
                if sabotage::is("skip-truncation-check") {
                    return Ok(Some(LogRepair::Pretend(FollowRequest {
                        salt,
                        end: to,
                        last_epoch: epoch,
                        last: None,
                    })));
                }
                self.check(to, log.end)?;
                let is_empty = to <= log.start;
                Ok(Some(if is_empty { LogRepair::Discard } else { LogRepair::Truncate(to) }))
            }
            (LeaderAnswer::Begin { salt, base }, log) => {
                if log.is_some() && self.is_in_sync {
                    return Err(FollowRefusal::InSync);
                }
                if let Some(log) = log.filter(|log| log.last_epoch > 0) {
                    self.check(base, log.end)?;
                }
                Ok(Some(LogRepair::BeginAnew { salt, base }))
            }
        }
    }
}

impl Follower {
    pub(super) fn new(target: FollowTarget) -> Self {
        Self { target, is_streaming: false, durable: 0, heard: CommitUpdate::default(), owes_ack: false }
    }

    /// Begins a stream, possibly after a lost one.
    pub(super) fn greet(&mut self) {
        self.is_streaming = false;
        self.owes_ack = false;
        self.durable = 0;
    }

    /// Everything before `durable` is on the disk; `update` was received since the last call.
    pub(super) fn on_copied(&mut self, durable: u64, update: Option<CommitUpdate>) {
        assert!(
            durable >= self.durable,
            "{durable} is durable, and {} was: nothing is cut in a stream",
            self.durable
        );
        self.durable = durable;
        if let Some(update) = update {
            self.heard = self.heard.merge(update);
            self.owes_ack = true;
        }
    }

    /// The acknowledgement that is due, as position and ping.
    pub(super) fn take_ack(&mut self) -> Option<(u64, u64)> {
        (self.is_streaming && std::mem::take(&mut self.owes_ack)).then_some((self.durable, self.heard.ping))
    }

    /// Position up to which the log may be applied.
    pub(super) fn may_apply(&self) -> u64 {
        if sabotage::is("fold-unconfirmed") {
            self.durable
        } else {
            self.heard.high_watermark.min(self.durable)
        }
    }

    pub(super) fn high_watermark(&self) -> u64 {
        self.heard.high_watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(position: u64, is_in_sync: bool) -> CutGuard {
        CutGuard { known: ConfirmedMark { epoch: 3, position }, accepted: 0, is_in_sync }
    }

    const LOG: FollowerLog = FollowerLog { start: 100, end: 900, last_epoch: 3, last: None };

    fn repair(guard: &CutGuard, answer: LeaderAnswer) -> Result<Option<LogRepair>, FollowRefusal> {
        guard.repair(&answer, Some(&LOG), 7)
    }

    #[test]
    fn a_follower_gives_up_what_the_leader_does_not_have_unless_it_was_confirmed() {
        let answer = LeaderAnswer::Diverged { epoch: 2, to: 500 };
        assert_eq!(repair(&guard(500, true), answer), Ok(Some(LogRepair::Truncate(500))));
        let refused = FollowRefusal::LosesConfirmed { to: 500, end: 900, confirmed: 501 };
        assert_eq!(repair(&guard(501, true), answer), Err(refused));
        let nothing = LeaderAnswer::Diverged { epoch: 1, to: 100 };
        assert_eq!(repair(&guard(0, false), nothing), Ok(Some(LogRepair::Discard)));
        assert_eq!(repair(&guard(0, false), LeaderAnswer::Start), Ok(None));
    }

    #[test]
    fn a_member_in_sync_does_not_begin_anew() {
        let answer = LeaderAnswer::Begin { salt: 7, base: 950 };
        assert_eq!(repair(&guard(900, true), answer), Err(FollowRefusal::InSync));
        let anew = LogRepair::BeginAnew { salt: 7, base: 950 };
        assert_eq!(repair(&guard(900, false), answer), Ok(Some(anew)));
        assert_eq!(guard(900, true).repair(&answer, None, 0), Ok(Some(anew)), "it has nothing to lose");
        let behind = LeaderAnswer::Begin { salt: 7, base: 300 };
        assert!(repair(&guard(900, false), behind).is_err(), "confirmed records lie behind it");
    }

    #[test]
    fn an_ack_answers_the_newest_ping_with_what_is_durable() {
        let target = FollowTarget { epoch: 3, me: 1, leader: 2, address: String::new() };
        let mut follower = Follower::new(target);
        follower.on_copied(400, Some(CommitUpdate { high_watermark: 300, ping: 10 }));
        assert_eq!(follower.take_ack(), None, "the logs may differ");
        follower.is_streaming = true;
        follower.on_copied(500, Some(CommitUpdate { high_watermark: 600, ping: 20 }));
        assert_eq!(follower.take_ack(), Some((500, 20)));
        assert_eq!((follower.take_ack(), follower.may_apply()), (None, 500));
        follower.on_copied(600, None);
        assert_eq!((follower.take_ack(), follower.may_apply()), (None, 600));
    }
}
