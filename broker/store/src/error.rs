//! Failures of the storage engine.

use kerolox_core::record::RecordError;
use kerolox_log::LogError;

use crate::kv::KvError;

/// The engine cannot open, read or apply.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index's store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A record of the log cannot be decoded.
    #[error("record at position {position}: {source}")]
    Record {
        /// Position of the record.
        position: u64,
        /// The error.
        source: RecordError,
    },
    /// A value of the index cannot be decoded.
    #[error("the index is damaged: it holds a malformed {0}")]
    Index(String),
    /// The data folder belongs to another broker group.
    #[error(
        "this data folder belongs to broker group {found:?}, not {wanted:?}; choose another --data folder or the right --group"
    )]
    ForeignData {
        /// Broker group that owns the folder.
        found: String,
        /// Broker group that was configured.
        wanted: String,
    },
    /// Opening was cancelled ([`crate::StoreOpening::stop`]).
    #[error("opening the store was cancelled; the next start continues from there")]
    Stopped,
    /// A thread of the engine could not be started.
    #[error("cannot start the {0} thread: {1}")]
    Thread(&'static str, std::io::Error),
}

impl StoreError {
    /// Why the index has to be rebuilt from the log, if it is damaged.
    pub fn index_damage(&self) -> Option<String> {
        match self {
            Self::Kv(KvError::Damaged(reason)) => Some(reason.clone()),
            Self::Index(value) => Some(format!("it holds a malformed {value}")),
            _ => None,
        }
    }
}

/// A proposed record was not stored, or its outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many bytes wait for the disk; nothing was stored.
    #[error(
        "the disk cannot keep up ({waiting} bytes wait for it, the limit is {limit}); try again a little later"
    )]
    Busy {
        /// Bytes that wait for the disk.
        waiting: usize,
        /// Limit of waiting bytes.
        limit: usize,
    },
    /// The disk is nearly full; nothing was stored.
    #[error(
        "the broker's disk is nearly full, so it accepts no new messages until there is space again; free space on the disk, or lower retention.time or retention.log-size"
    )]
    NoRoom,
    /// The log cannot accept it at the moment, for lack of descriptors; nothing was stored.
    #[error("the broker's log cannot accept it at the moment, try again: {0}")]
    NotNow(String),
    /// The log refuses writes after a failure. The record that met the failure may or may not be stored.
    #[error("the broker's log is read-only: {0}")]
    ReadOnly(String),
    /// This member is not the master of the broker group; nothing was stored.
    #[error("this broker is not the master of its group at the moment; try again")]
    NotMaster,
    /// The leadership ended before enough members of the broker group had the record: its outcome is unknown.
    #[error(
        "another member became the master of this broker group before it was confirmed, so the outcome is unknown; query the message to find out"
    )]
    Deposed,
    /// The master has stored the record, but not enough members of the broker group confirmed it in time: its outcome is
    /// unknown.
    #[error("it is stored, but the slaves of this broker group did not confirm it within {0:?}")]
    Unconfirmed(std::time::Duration),
    /// Too few members are in sync; nothing was stored.
    #[error(
        "only {in_sync} members of this broker group are in sync, and {needed} are required (replication.min-in-sync); nothing was stored: start the other members, or lower the setting"
    )]
    NotInSync {
        /// Members in sync, the master included.
        in_sync: usize,
        /// Members that have to be in sync.
        needed: usize,
    },
    /// The engine is shutting down; nothing was stored.
    #[error("the broker is shutting down")]
    Closed,
}
