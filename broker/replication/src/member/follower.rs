//! The follower's side of a leadership: where its log is cut, what it says that it holds, and what it may apply.

use super::FollowTarget;
use crate::handshake::{self, FollowRequest};
use crate::{ConfirmedMark, sabotage};

/// What a leader tells all the time, with records or without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitUpdate {
    /// Everything before this position is confirmed, as far as the leader holds it.
    pub high_watermark: u64,
    /// When the leader said so, on the clock of its lease.
    pub ping: u64,
}

impl CommitUpdate {
    /// The newer of two updates in each respect.
    pub fn merge(self, other: Self) -> Self {
        Self {
            high_watermark: self.high_watermark.max(other.high_watermark),
            ping: self.ping.max(other.ping),
        }
    }
}

/// What a follower's log is, when the leader's answer to its hello comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerLog {
    /// Where its oldest segment begins.
    pub start: u64,
    /// Where its records end.
    pub end: u64,
    /// Epoch of its last record; 0 when it has none.
    pub last_epoch: u32,
}

/// The leader's answer to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderAnswer {
    /// The logs agree up to the end of the follower's; records follow.
    Start,
    /// The logs differ, or may.
    Diverged {
        /// Epoch of the leader's last record whose epoch is not above the follower's last one, and where such records end.
        theirs: (u32, u64),
        /// Both for the follower's own records whose epoch is not above that.
        own: (u32, u64),
    },
    /// The follower has nothing, or what it would need next is gone there: it begins with the leader's oldest segment.
    Begin {
        /// What the checksums of the leader's log begin with.
        salt: u64,
        /// Where that segment begins.
        base: u64,
    },
}

/// What a follower does to its log before it says hello again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRepair {
    /// Gives up everything from this position on.
    Truncate(u64),
    /// Gives up everything.
    Discard,
    /// Gives up everything, and goes on with the segment of the leader's log that begins at `base`.
    BeginAnew {
        /// What the checksums of the leader's log begin with.
        salt: u64,
        /// Where the segment begins.
        base: u64,
    },
    /// Says hello with this instead of what it has: how a broken follower lies.
    Pretend(FollowRequest),
}

/// Why a follower leaves its log as it is, and does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowRefusal {
    /// The leader lacks what was confirmed; only an operator can accept that.
    LosesConfirmed {
        /// Where the logs part.
        to: u64,
        /// Where the follower's log ends.
        end: u64,
        /// Up to where it heard that the log was confirmed.
        confirmed: u64,
    },
    /// The leader no longer has what the follower, which is in sync, would need next. It has to leave the in-sync set first.
    InSync,
}

/// One leadership that is followed.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    pub(super) target: FollowTarget,
    /// The logs agree, and records come.
    pub(super) is_streaming: bool,
    durable: u64,
    heard: CommitUpdate,
    /// The newest ping is not answered.
    owes_ack: bool,
}

/// What a follower's answers depend on beside the stream.
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

    /// What to do about an answer that is no start.
    pub(super) fn repair(
        &self,
        answer: &LeaderAnswer,
        log: Option<&FollowerLog>,
        salt: u64,
    ) -> Result<Option<LogRepair>, FollowRefusal> {
        match (*answer, log) {
            (LeaderAnswer::Start, _) => Ok(None),
            // A log that does not exist differs from nothing: the leader is asked once more.
            (LeaderAnswer::Diverged { .. }, None) => Ok(Some(LogRepair::Discard)),
            (LeaderAnswer::Diverged { theirs, own }, Some(log)) => {
                let to = handshake::cut_at(theirs, own);
                if sabotage::is("skip-truncation-check") {
                    return Ok(Some(LogRepair::Pretend(FollowRequest {
                        salt,
                        end: to,
                        last_epoch: theirs.0,
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

    /// A stream begins, maybe after another one that was lost.
    pub(super) fn greet(&mut self) {
        self.is_streaming = false;
        self.owes_ack = false;
        self.durable = 0;
    }

    /// Everything before `durable` is on the disk, and this was heard since the last time.
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

    /// The ack that is owed, as position and ping.
    pub(super) fn take_ack(&mut self) -> Option<(u64, u64)> {
        (self.is_streaming && std::mem::take(&mut self.owes_ack)).then_some((self.durable, self.heard.ping))
    }

    /// Up to where the log may be applied.
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

    const LOG: FollowerLog = FollowerLog { start: 100, end: 900, last_epoch: 3 };

    fn repair(guard: &CutGuard, answer: LeaderAnswer) -> Result<Option<LogRepair>, FollowRefusal> {
        guard.repair(&answer, Some(&LOG), 7)
    }

    #[test]
    fn a_follower_gives_up_what_the_leader_does_not_have_unless_it_was_confirmed() {
        let answer = LeaderAnswer::Diverged { theirs: (2, 500), own: (2, 600) };
        assert_eq!(repair(&guard(500, true), answer), Ok(Some(LogRepair::Truncate(500))));
        let refused = FollowRefusal::LosesConfirmed { to: 500, end: 900, confirmed: 501 };
        assert_eq!(repair(&guard(501, true), answer), Err(refused));
        let nothing = LeaderAnswer::Diverged { theirs: (1, 80), own: (0, 100) };
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
        assert!(repair(&guard(900, false), behind).is_err(), "what was confirmed lies behind it");
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
