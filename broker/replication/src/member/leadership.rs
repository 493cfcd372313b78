//! The leader's side of a leadership: publishing confirmed positions, requesting in-sync sets, and handing over.

use super::{GroupView, HandOverAnswer, LogEnds};
use crate::{ClockReading, CommitUpdate, InSyncChange, InSyncTracker, MemberId, ReplicationPolicy, sabotage};

/// Positions up to which members hold the log, as the leader counts them, and the moment until which it is sure to be
/// the only leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStatus {
    /// The whole in-sync set holds everything before this position; `u64::MAX` when the leader is alone in it.
    pub all: u64,
    /// Enough members hold everything before this position for an election to preserve it.
    pub high_watermark: u64,
    /// Moment until which no other member leads, on the clock of leases; `u64::MAX` without limit.
    pub lease_until: u64,
}

impl CommitStatus {
    /// The status of a leader that is no member of a replicated group.
    pub const ALONE: Self = Self { all: u64::MAX, high_watermark: u64::MAX, lease_until: u64::MAX };
    /// The status of a leader that has heard of no follower.
    pub const UNHEARD: Self = Self { all: 0, high_watermark: 0, lease_until: 0 };

    /// Whether the leader is sure that no other member leads.
    pub fn holds_lease(&self, now: ClockReading) -> bool {
        self.lease_until == u64::MAX || now.lease_ms() < self.lease_until || sabotage::is("no-lease")
    }

    /// The update for followers of a leader whose own log is durable up to `durable`.
    pub fn update(&self, durable: u64, now: ClockReading) -> CommitUpdate {
        CommitUpdate { high_watermark: self.high_watermark.min(durable), ping: now.lease_ms() }
    }
}

/// How long a hand-over without an answer may still happen: twice the time limit of the call.
const DOUBT_MS: u64 = 4_000;

/// Progress of a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HandOver {
    No,
    /// No client is admitted, and running calls end.
    Draining {
        to: MemberId,
    },
    /// All stored records have to be confirmed, until this moment at most.
    Confirming {
        to: MemberId,
        until: u64,
    },
    /// The controller has been asked.
    Asking,
    /// The hand-over may still happen, and the next leader would not wait for leases then.
    Doubtful {
        until: u64,
        reason: String,
    },
    /// Another member leads.
    Done,
}

/// The next step of a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HandOverStep {
    Wait,
    /// Ask the controller, for this member or any.
    Ask(MemberId),
    /// The hand-over is over; an error says why this member still leads.
    Over(Result<(), String>),
}

/// One leadership of this member.
#[derive(Debug, Clone)]
pub(super) struct Leadership {
    pub(super) epoch: u32,
    pub(super) me: MemberId,
    pub(super) tracker: InSyncTracker,
    /// Everything up to the record that opened it is applied, and clients are served.
    pub(super) is_open: bool,
    /// The last published status.
    status: CommitStatus,
    /// Set while a stricter rule is published but has not taken effect everywhere.
    awaits_barrier: bool,
    /// Set while the controller has not answered the request for another set.
    pub(super) is_asking: bool,
    hand_over: HandOver,
    hand_over_ms: u64,
}

impl Leadership {
    /// Begins a leadership whose opening record ends at `opened`.
    pub(super) fn new(
        (epoch, me): (u32, MemberId),
        policy: ReplicationPolicy,
        hand_over_ms: u64,
        view: &GroupView,
        (opened, now): (u64, ClockReading),
    ) -> Self {
        let counts_from = if sabotage::is("confirm-without-epoch-record") { 0 } else { opened };
        let mut leadership = Self {
            epoch,
            me,
            tracker: InSyncTracker::new(me, policy, view.in_sync_set(), counts_from, now.mono_ms),
            is_open: false,
            status: CommitStatus::default(),
            awaits_barrier: false,
            is_asking: false,
            hand_over: HandOver::No,
            hand_over_ms,
        };
        leadership.status = leadership.count();
        leadership
    }

    fn count(&self) -> CommitStatus {
        let confirmed = self.tracker.confirmed();
        // Once it has asked to be replaced, its successor does not wait for the lease to end.
        let lease_until = match self.hand_over {
            HandOver::No | HandOver::Draining { .. } | HandOver::Confirming { .. } => {
                self.tracker.lease_until().unwrap_or(u64::MAX)
            }
            HandOver::Asking | HandOver::Doubtful { .. } | HandOver::Done => 0,
        };
        CommitStatus { all: confirmed.all, high_watermark: confirmed.high_watermark, lease_until }
    }

    /// The status to publish, which may be lower than before.
    pub(super) fn publish(&mut self) -> CommitStatus {
        self.status = self.count();
        self.status
    }

    pub(super) fn status(&self) -> CommitStatus {
        self.status
    }

    /// Plans another in-sync set; true when the next published status is a stricter rule whose effect has to be
    /// reported.
    pub(super) fn plan(&mut self, log: LogEnds, wants_quorum: bool, now: u64) -> bool {
        if self.awaits_barrier {
            return false;
        }
        self.tracker.want_quorum(wants_quorum);
        if !self.tracker.plan(log.durable, now) {
            return false;
        }
        self.awaits_barrier = true;
        if sabotage::is("newcomer-without-barrier") {
            self.tracker.arm(0);
        }
        true
    }

    /// The stricter rule has taken effect; the log ended at `end` afterwards.
    pub(super) fn on_barrier(&mut self, end: u64) {
        if std::mem::take(&mut self.awaits_barrier) {
            self.tracker.arm(end);
        }
    }

    /// The change to request, once the previous request is answered.
    pub(super) fn wanted_change(&mut self) -> Option<InSyncChange> {
        let is_late = matches!(self.hand_over, HandOver::Asking | HandOver::Doubtful { .. } | HandOver::Done);
        if self.is_asking || is_late { None } else { self.tracker.request() }
    }

    /// Whether a hand-over is under way.
    pub(super) fn is_resigning(&self) -> bool {
        self.hand_over != HandOver::No
    }

    /// Begins to hand over; true when client calls have to end first. A hand-over that is under way continues, and its end is that
    /// of both.
    ///
    /// # Errors
    /// Why no hand-over is possible.
    pub(super) fn resign(&mut self, to: MemberId) -> Result<bool, String> {
        if !self.is_open {
            return Err("this member does not rule".into());
        }
        match self.hand_over {
            HandOver::No if self.tracker.in_sync_len() == 1 => Err("no other member is in sync".into()),
            HandOver::No | HandOver::Draining { .. } => {
                self.hand_over = HandOver::Draining { to };
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn on_drained(&mut self, now: u64) {
        if let HandOver::Draining { to } = self.hand_over {
            self.hand_over = HandOver::Confirming { to, until: now + self.hand_over_ms };
        }
    }

    /// Checks the progress of the hand-over.
    pub(super) fn hand_over_step(&mut self, log: LogEnds, now: u64) -> HandOverStep {
        match &self.hand_over {
            HandOver::Confirming { to, .. } if self.status.high_watermark.min(log.durable) >= log.end => {
                let to = *to;
                self.hand_over = HandOver::Asking;
                HandOverStep::Ask(to)
            }
            HandOver::Confirming { until, .. } if now >= *until => {
                let reason =
                    format!("the slaves did not confirm all stored records within {} ms", self.hand_over_ms);
                self.stay(reason)
            }
            HandOver::Doubtful { until, reason } if now >= *until => {
                let reason = reason.clone();
                self.stay(reason)
            }
            _ => HandOverStep::Wait,
        }
    }

    pub(super) fn on_hand_over_answer(&mut self, answer: HandOverAnswer, now: u64) -> HandOverStep {
        if self.hand_over != HandOver::Asking {
            return HandOverStep::Wait;
        }
        match answer {
            HandOverAnswer::Accepted => {
                self.hand_over = HandOver::Done;
                HandOverStep::Over(Ok(()))
            }
            HandOverAnswer::Refused(reason) => self.stay(reason),
            HandOverAnswer::Unknown(reason) => {
                self.hand_over = HandOver::Doubtful { until: now + DOUBT_MS, reason };
                HandOverStep::Wait
            }
        }
    }

    /// Keeps the leadership.
    fn stay(&mut self, reason: String) -> HandOverStep {
        self.hand_over = HandOver::No;
        HandOverStep::Over(Err(reason))
    }

    /// Ends the leadership; returns the result of a hand-over that is under way.
    pub(super) fn end(&mut self, is_succeeded: bool) -> Option<Result<(), String>> {
        match std::mem::replace(&mut self.hand_over, HandOver::Done) {
            HandOver::No | HandOver::Done => None,
            _ if is_succeeded => Some(Ok(())),
            _ => Some(Err("the leadership ended before it was handed over".into())),
        }
    }
}
