//! Changes of topics and groups.

use prost::{Message, Oneof};

use super::lite::{DropLites, LiteTopic};
use crate::group::Group;
use crate::topic::Topic;

/// A change of the broker group's configuration.
#[derive(Clone, PartialEq, Message)]
pub struct MetaRecord {
    /// The change; absent only in records of a newer version, which older software ignores.
    #[prost(oneof = "MetaChange", tags = "1, 2, 3, 4, 11, 12, 13")]
    pub change: Option<MetaChange>,
}

/// One change.
#[derive(Clone, PartialEq, Oneof)]
pub enum MetaChange {
    /// Creates the topic or replaces its configuration. The state machine assigns ids, in log order.
    #[prost(message, tag = "1")]
    PutTopic(Topic),
    /// Removes a topic with its queues and progress.
    #[prost(message, tag = "2")]
    DeleteTopic(DeleteTopic),
    /// Creates the group or replaces its configuration.
    #[prost(message, tag = "3")]
    PutGroup(Group),
    /// Removes a group with its progress.
    #[prost(message, tag = "4")]
    DeleteGroup(DeleteGroup),
    /// Creates a lite topic, unless one of that name exists.
    #[prost(message, tag = "11")]
    PutLite(LiteTopic),
    /// Removes lite topics.
    #[prost(message, tag = "12")]
    DropLites(DropLites),
    /// Withholds permissions from all topics, or restores them.
    #[prost(message, tag = "13")]
    Withhold(WithholdChange),
}

/// Sets the permissions that all topics of the broker group lack from here on. The topics' own permissions stay unchanged, and
/// apply again when nothing is withheld.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WithholdChange {
    /// [`crate::topic::PERM_READ`] and [`crate::topic::PERM_WRITE`]; 0 withholds nothing.
    #[prost(uint32, tag = "1")]
    pub perm: u32,
}

/// Removes a topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteTopic {
    /// Name of the topic.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Removes a consumer group.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteGroup {
    /// Name of the group.
    #[prost(string, tag = "1")]
    pub name: String,
}
