//! Who talks to whom, and what they say.

use bytes::Bytes;
use kerolox_controller::{GroupCommand, GroupRecord, JoiningMember, MemberId};
use kerolox_core::record::Record;
use kerolox_core::replicas::ReplicaRequirement;
use kerolox_replication::{CommitUpdate, handshake};
use kerolox_store::ApplyOutcome;

/// A process that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// Group, and place in it.
    Member(usize, usize),
    Controller(usize),
    Client(usize),
}

/// What a member asked a controller for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Report,
    Change,
    HandOver,
}

/// Everything that is sent.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// A member says how it stands.
    Report {
        joiner: JoiningMember,
        unfit: String,
    },
    /// A master asks for another in-sync set.
    Change(GroupCommand),
    /// A master gives up its leadership.
    HandOver {
        epoch: u32,
        member: MemberId,
        to: MemberId,
    },
    /// What a controller knows of a group, as the answer to a request, which it may have refused.
    State {
        group: Option<GroupRecord>,
        asked: Asked,
        refused: bool,
    },
    /// This controller does not lead.
    NotLeader(Asked),
    /// Of a replication stream that the slave opened under this number.
    FromSlave(u64, FromSlave),
    FromMaster(u64, FromMaster),
    /// Of a client.
    Ask(u64, Ask),
    Answer(u64, Answer),
}

/// What a slave sends on its stream.
#[derive(Debug, Clone)]
pub(crate) enum FromSlave {
    Hello { member: MemberId, epoch: u32, hello: handshake::FollowRequest },
    Held { durable: u64, ping: u64 },
}

/// What a master sends on it.
#[derive(Debug, Clone)]
pub(crate) enum FromMaster {
    /// It is not the master of that epoch, or the log is another one.
    Refused,
    Start,
    Diverged(handshake::EpochEnd),
    Begin {
        salt: u64,
        base: u64,
    },
    Segment {
        base: u64,
    },
    Records {
        position: u64,
        bytes: Bytes,
        update: CommitUpdate,
    },
    Update(CommitUpdate),
}

/// A request of a client.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Propose { record: Box<Record>, replicas: ReplicaRequirement },
    Read { queue: u32, from: u64 },
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Applied {
        position: u64,
        outcome: ApplyOutcome,
    },
    /// Nothing was stored.
    NotMaster,
    /// The outcome is unknown.
    Unknown,
    /// Ids of messages with their offsets, and the offset that comes next in the queue.
    Read {
        messages: Vec<(u64, String)>,
        next: u64,
    },
}

impl Message {
    /// In a few words, for the trace.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Report { joiner, .. } => {
                format!("report {} {} {}", joiner.promised, joiner.last_epoch, joiner.end)
            }
            Self::Change(GroupCommand::ChangeInSync { version, epoch, in_sync, quorum, .. }) => {
                format!("change v{version} e{epoch} {in_sync:?} {quorum}")
            }
            Self::Change(_) => "change".to_owned(),
            Self::HandOver { epoch, member, .. } => format!("hand over e{epoch} of {member}"),
            Self::State { group: None, refused, .. } => format!("no state, refused {refused}"),
            Self::State { group: Some(group), refused, .. } => format!(
                "state v{} e{} master {} {:?} refused {refused}",
                group.version, group.epoch, group.master, group.in_sync
            ),
            Self::FromMaster(stream, FromMaster::Records { position, bytes, update }) => {
                format!("#{stream} records {position}+{} {update:?}", bytes.len())
            }
            Self::Ask(id, Ask::Propose { record, .. }) => format!("ask {id} {:?}", record.kind()),
            other => format!("{other:?}"),
        }
    }
}
