//! What goes into a member's machine, and what comes out of it.

use super::{
    CommitStatus, CommitUpdate, DutyOrder, FollowRefusal, FollowerLog, GroupView, LeaderAnswer, LogRepair,
    MemberRecord,
};
use crate::{InSyncChange, MemberId, ReplicationPolicy};

/// What a member is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSettings {
    /// Random number of the process.
    pub process: String,
    /// Limits of replication.
    pub policy: ReplicationPolicy,
    /// How long followers may take to confirm everything before a hand-over, in milliseconds.
    pub hand_over_ms: u64,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEnds {
    /// What is durable ends here.
    pub durable: u64,
    /// What was written ends here.
    pub end: u64,
}

/// How the controller answered a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOverAnswer {
    /// Another election is under way.
    Accepted,
    /// It is not carried out, for this reason.
    Refused(String),
    /// It may be carried out yet.
    Unknown(String),
}

/// What happens to a member.
#[derive(Debug, Clone)]
pub enum MemberInput {
    /// The log that was found is applied up to here, and its newest record is of this epoch.
    Recovered {
        /// Epoch of the newest record; 0 when there is none.
        epoch: u32,
        /// What is applied, and so confirmed.
        applied: u64,
    },
    /// The controller says how the group stands; [`crate::GroupMember::judge`] has let it pass.
    State {
        /// The member's number.
        me: MemberId,
        /// The state.
        view: GroupView,
    },
    /// The record with this version is durable.
    Saved(u64),
    /// The record could not be saved. The next input has it tried again.
    SaveFailed,
    /// The duty with this number is over, by itself or as it was ordered.
    Ended(u64),
    /// Every duty is to end until [`Self::Resumed`]: the driver needs the log for itself.
    Interrupted,
    /// Duties are taken up again.
    Resumed,
    /// Time passes.
    Tick {
        /// Ends of the member's log.
        log: LogEnds,
        /// Whether confirming by majority is wanted.
        wants_quorum: bool,
    },
    /// A follower's stream to the leader is about to begin with a hello.
    Greeting,
    /// The leader answered the hello of a follower that has this log, `None` for none.
    Answered {
        /// The answer.
        answer: LeaderAnswer,
        /// The log.
        log: Option<FollowerLog>,
        /// What the checksums of the log begin with; 0 for none.
        salt: u64,
    },
    /// A follower has everything before `durable` on its disk, and heard this since it said so last.
    Copied {
        /// What is durable ends here.
        durable: u64,
        /// The newest update that came with the records, or after them.
        update: Option<CommitUpdate>,
    },
    /// The record that opens the leadership of the duty with this number is durable and ends at `end`.
    Opened {
        /// Number of the duty.
        number: u64,
        /// Behind the record.
        end: u64,
    },
    /// The record that opened the leadership is applied: clients can be served.
    Settled,
    /// The status that was published as a barrier has taken effect; the log ended at `end` after that.
    Published {
        /// What was written ends here.
        end: u64,
    },
    /// A follower begins to copy.
    Follows(MemberId),
    /// A follower holds everything before `durable`, and answers a ping.
    Acked {
        /// Its number.
        member: MemberId,
        /// What it holds ends here.
        durable: u64,
        /// The ping.
        ping: u64,
        /// Ends of the leader's log.
        log: LogEnds,
    },
    /// A follower is about to stop.
    Leaves(MemberId),
    /// The controller answered a request for another in-sync set, or did not in time. The state that it told comes by itself.
    ChangeAnswered,
    /// The leadership is to be handed over, to a certain member if this is not 0.
    HandOver(MemberId),
    /// No client is inside any more.
    Drained,
    /// The controller answered the hand-over.
    HandOverAnswered(HandOverAnswer),
    /// The process is about to end: the record is to say up to where the log is confirmed.
    NoteConfirmed,
}

/// What a driver does for a member.
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
    /// Another duty.
    Order(DutyOrder),
    /// Repair the log of a follower, and say hello again.
    Repair(LogRepair),
    /// A follower leaves its log as it is and gives up for now.
    RefuseToFollow(FollowRefusal),
    /// The logs agree: copy what comes.
    StartCopying,
    /// Tell the leader what is held, and that nothing was promised to a later epoch.
    SendAck {
        /// What is held ends here.
        durable: u64,
        /// The ping that this answers.
        ping: u64,
    },
    /// Apply the log up to here.
    Apply(u64),
    /// This is confirmed, and the leader is sure of itself until then.
    Publish {
        /// What is confirmed.
        status: CommitStatus,
        /// [`MemberInput::Published`] is to tell when it has taken effect.
        is_barrier: bool,
    },
    /// Ask the controller for another in-sync set.
    AskChange {
        /// Epoch of the leadership.
        epoch: u32,
        /// The leader.
        me: MemberId,
        /// What is wanted.
        change: InSyncChange,
    },
    /// Let no client in, and wait for those inside.
    Drain,
    /// Ask the controller to have another member elected.
    AskHandOver {
        /// Epoch of the leadership.
        epoch: u32,
        /// The leader.
        me: MemberId,
        /// Who is to lead; 0 for any.
        to: MemberId,
    },
    /// The hand-over that was asked for is over. An error says why this member leads on, and clients are let in again.
    HandedOver(Result<(), String>),
}
