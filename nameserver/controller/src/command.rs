//! The commands that change the state, and their outcomes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::mark::StateMark;
use crate::state::{GroupName, MemberId};

/// A data folder that reports for the first time, or from another address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoiningMember {
    /// Random number of the data folder.
    pub incarnation: String,
    /// Random number of the running process.
    pub process: String,
    /// The host at which clients reach it.
    pub host: String,
    /// The port at which clients reach it.
    pub port: u32,
    /// Where the other members reach it, `host:port`.
    pub replication_address: String,
    /// Epoch of the newest record in its log; 0 when it has none.
    pub last_epoch: u32,
    /// Largest epoch that it has promised not to go back behind.
    pub promised: u32,
    /// End of its durable log.
    pub end: u64,
    /// Incarnations of the members that it knew its group to have, its own perhaps among them.
    pub known_members: Vec<String>,
    /// The newest state of its group that it acted upon; none of a member that never had one.
    #[serde(default)]
    pub mark: Option<StateMark>,
}

/// A change of one group. `version` is that of the state that the change is based on; a change that is based on an older
/// one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a few at a time, and each is written to the log")]
pub enum GroupCommand {
    /// A nameserver begins to lead. What members know tells from then on whether a state comes from this time.
    BeginTenure {
        /// Random.
        tenure: String,
    },
    /// Makes a data folder a member, the first one of a group its master; notes another address of a member.
    Join {
        /// The group.
        name: GroupName,
        /// The data folder.
        joiner: JoiningMember,
    },
    /// The master asks for another in-sync set.
    ChangeInSync {
        /// The group.
        name: GroupName,
        /// Version of the state that the wish is based on.
        version: u64,
        /// Its epoch.
        epoch: u32,
        /// The master.
        member: MemberId,
        /// The set to be.
        in_sync: BTreeSet<MemberId>,
        /// What acknowledged means from then on.
        quorum: bool,
    },
    /// Ends the epoch and begins the next election.
    BeginElection {
        /// The group.
        name: GroupName,
        /// Version of the state that the decision is based on.
        version: u64,
        /// The coming epoch exceeds this one as well: the largest that a member was heard to know.
        above: u32,
        /// Not to be elected.
        excluded: Option<MemberId>,
        /// To be elected if possible.
        preferred: Option<MemberId>,
        /// The master gave up its leadership by itself.
        released: bool,
    },
    /// Ends an election.
    Appoint {
        /// The group.
        name: GroupName,
        /// Version of the state that the decision is based on.
        version: u64,
        /// The master to be.
        master: MemberId,
        /// Its process.
        process: String,
        /// The set to be.
        in_sync: BTreeSet<MemberId>,
        /// Members that have reported to the nameserver that decides, and so told it of states that the record lacks.
        #[serde(default)]
        asked: BTreeSet<MemberId>,
    },
    /// Begins an election that only this member can win, whatever it lacks.
    ForceElection {
        /// The group.
        name: GroupName,
        /// Version of the state that the decision is based on.
        version: u64,
        /// As in [`GroupCommand::BeginElection`].
        above: u32,
        /// The member to appoint.
        member: MemberId,
    },
    /// The master has slaves that were not known to hold its log.
    NoteHolders {
        /// The group.
        name: GroupName,
        /// The epoch.
        epoch: u32,
        /// The master.
        master: MemberId,
        /// Its slaves.
        holders: BTreeSet<MemberId>,
    },
    /// A group whose data folders are all gone begins without messages.
    BeginAnew {
        /// The group.
        name: GroupName,
        /// Version of the state that the decision is based on.
        version: u64,
        /// As in [`GroupCommand::BeginElection`].
        above: u32,
        /// The member to appoint.
        member: MemberId,
        /// Members that stay; the others are forgotten.
        kept: BTreeSet<MemberId>,
    },
    /// Forgets a member.
    RemoveMember {
        /// The group.
        name: GroupName,
        /// The member to remove.
        member: MemberId,
    },
}

impl GroupCommand {
    /// The group that it changes; none when it concerns all of them.
    pub fn name(&self) -> Option<&GroupName> {
        match self {
            Self::BeginTenure { .. } => None,
            Self::Join { name, .. }
            | Self::ChangeInSync { name, .. }
            | Self::BeginElection { name, .. }
            | Self::Appoint { name, .. }
            | Self::ForceElection { name, .. }
            | Self::NoteHolders { name, .. }
            | Self::BeginAnew { name, .. }
            | Self::RemoveMember { name, .. } => Some(name),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply {
    /// The state is as wanted.
    Done,
    /// The data folder is this member.
    Joined(MemberId),
    /// Nothing has changed.
    Refused(CommandRefusal),
}

/// Why a request is not met. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct CommandRefusal {
    /// For programs.
    pub why: RefusalReason,
    /// For people: the problem, and its remedy.
    pub text: String,
}

impl CommandRefusal {
    pub(crate) fn new(why: RefusalReason, text: impl Into<String>) -> Self {
        Self { why, text: text.into() }
    }

    pub(crate) fn unknown_group(name: &GroupName) -> Self {
        Self::new(
            RefusalReason::Unknown,
            format!("the controller knows no broker group {name}; check its name"),
        )
    }

    pub(crate) fn unknown_member(name: &GroupName, member: MemberId) -> Self {
        Self::new(RefusalReason::Unknown, format!("broker group {name} has no member {member}"))
    }
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    /// There is no such group or member.
    Unknown,
    /// The request goes by a state that has changed since.
    Stale,
    /// The state does not allow it.
    NotAllowed,
    /// It never makes sense.
    Invalid,
    /// The caller belongs to other nameservers, or to a group with another history.
    Foreign,
}
