//! Inputs and effects of a member's machine.

use super::{
    CommitStatus, CommitUpdate, DutyOrder, FollowRefusal, FollowerLog, GroupView, LeaderAnswer, LogRepair,
    MemberRecord,
};
use crate::{InSyncChange, MemberId, ReplicationPolicy};

/// Settings of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSettings {
    /// Random number of the process.
    pub process: String,
    /// Limits of replication.
    pub policy: ReplicationPolicy,
    /// How long followers may take to confirm everything before a hand-over, in milliseconds.
    pub hand_over_ms: u64,
}

/// Ends of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEnds {
    /// End of the durable records.
    pub durable: u64,
    /// End of the written records.
    pub end: u64,
}

/// The controller's answer to a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOverAnswer {
    /// Another election is running.
    Accepted,
    /// The hand-over is refused, for this reason.
    Refused(String),
    /// The hand-over may still happen.
    Unknown(String),
}

/// An event for a member.
#[derive(Debug, Clone)]
pub enum MemberInput {
    /// The existing log is applied up to here, and its newest record is of this epoch.
    Recovered {
        /// Epoch of the newest record; 0 without one.
        epoch: u32,
        /// End of the applied records, which are thereby confirmed.
        applied: u64,
    },
    /// The controller reported the state of the group, and [`crate::GroupMember::judge`] accepted it.
    State {
        /// The member's number.
        me: MemberId,
        /// The state.
        view: GroupView,
    },
    /// The record with this version is durable.
    Saved(u64),
    /// The record could not be saved. The next input retries it.
    SaveFailed,
    /// The duty with this number ended, by itself or on order.
    Ended(u64),
    /// Every duty has to end until [`Self::Resumed`]: the driver needs the log.
    Interrupted,
    /// Duties may start again.
    Resumed,
    /// Time passes.
    Tick {
        /// Ends of the member's log.
        log: LogEnds,
        /// Whether confirmation by majority is wanted.
        wants_quorum: bool,
    },
    /// A follower's stream to the leader is about to begin with a hello.
    Greeting,
    /// The leader answered the hello of a follower with this log, `None` for none.
    Answered {
        /// The answer.
        answer: LeaderAnswer,
        /// The log.
        log: Option<FollowerLog>,
        /// Salt of the log; 0 for none.
        salt: u64,
    },
    /// A follower has everything before `durable` on its disk, and got this update since its last report.
    Copied {
        /// End of the durable records.
        durable: u64,
        /// The newest update that came with the records, or after them.
        update: Option<CommitUpdate>,
    },
    /// The record that opens the leadership of the duty with this number is durable and ends at `end`.
    Opened {
        /// Number of the duty.
        number: u64,
        /// Position behind the record.
        end: u64,
    },
    /// The record that opened the leadership is applied: clients can be served.
    Settled,
    /// The status that was published as a barrier has taken effect; the log ended at `end` afterwards.
    Published {
        /// End of the written records.
        end: u64,
    },
    /// A follower begins to copy.
    Follows(MemberId),
    /// A follower holds everything before `durable`, and answers a ping.
    Acked {
        /// Number of the follower.
        member: MemberId,
        /// End of the records that it holds.
        durable: u64,
        /// The ping.
        ping: u64,
        /// Ends of the leader's log.
        log: LogEnds,
    },
    /// A follower is about to stop.
    Leaves(MemberId),
    /// The controller answered a request for another in-sync set, or timed out. The new state is delivered separately.
    ChangeAnswered,
    /// The leadership has to be handed over, to a certain member if this is not 0.
    HandOver(MemberId),
    /// All calls of clients have ended.
    Drained,
    /// The controller answered the hand-over.
    HandOverAnswered(HandOverAnswer),
    /// The process is about to end: the record has to include the confirmed end of the log.
    NoteConfirmed,
}

/// An action of a driver for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEffect {
    /// Make this version of the record durable.
    Save {
        /// Version of the record.
        version: u64,
        /// The record.
        record: MemberRecord,
    },
    /// A promise is durable: report it at once.
    Promised(u32),
    /// Start another duty.
    Order(DutyOrder),
    /// Repair the log of a follower, and send another hello.
    Repair(LogRepair),
    /// A follower leaves its log unchanged and gives up for now.
    RefuseToFollow(FollowRefusal),
    /// The logs agree: start copying records.
    StartCopying,
    /// Tell the leader which records this member holds, and that it has promised nothing to a later epoch.
    SendAck {
        /// End of the records that it holds.
        durable: u64,
        /// The ping to answer.
        ping: u64,
    },
    /// Apply the log up to here.
    Apply(u64),
    /// Publish the confirmed positions, and the moment until which the leader is sure of its leadership.
    Publish {
        /// The confirmed positions.
        status: CommitStatus,
        /// Whether [`MemberInput::Published`] has to report that the status has taken effect.
        is_barrier: bool,
    },
    /// Ask the controller for another in-sync set.
    AskChange {
        /// Epoch of the leadership.
        epoch: u32,
        /// The leader.
        me: MemberId,
        /// The requested change.
        change: InSyncChange,
    },
    /// Admit no client, and wait for the running calls.
    Drain,
    /// Ask the controller to have another member elected.
    AskHandOver {
        /// Epoch of the leadership.
        epoch: u32,
        /// The leader.
        me: MemberId,
        /// Member to be elected; 0 for any.
        to: MemberId,
    },
    /// The requested hand-over is over. An error says why this member still leads; clients are admitted again.
    HandedOver(Result<(), String>),
}
