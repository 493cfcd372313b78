//! The types of the consensus, in the library's terms.

use std::io::Cursor;

use kerolox_controller::{CommandReply, GroupCommand};

/// An entry of the log. `None` changes nothing; leaders before format version 2 began with it.
pub(super) type Proposal = Option<GroupCommand>;

openraft::declare_raft_types!(
    /// Types of the consensus: proposals, numbered nameservers with addresses, snapshots as bytes.
    pub(super) Types:
        D = Proposal,
        R = CommandReply,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type StorageIoError = openraft::StorageIOError<u64>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(super) type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;
