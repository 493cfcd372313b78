//! Changes of topics and groups.

use prost::{Message, Oneof};

use super::lite::{DropLites, LiteTopic};
use crate::group::Group;
use crate::topic::Topic;

/// A change of what the broker group is configured to hold.
#[derive(Clone, PartialEq, Message)]
pub struct MetaRecord {
    /// The change; absent only in records of a newer version, which older software ignores.
    #[prost(oneof = "MetaChange", tags = "1, 2, 3, 4, 11, 12, 13")]
    pub change: Option<MetaChange>,
}

/// One change.
#[derive(Clone, PartialEq, Oneof)]
pub enum MetaChange {
    /// Creates the topic or replaces its configuration. Ids are given by the state machine, in log order.
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
    /// Creates a lite topic, unless there is one of its name.
    #[prost(message, tag = "11")]
    PutLite(LiteTopic),
    /// Removes lite topics.
    #[prost(message, tag = "12")]
    DropLites(DropLites),
    /// Takes permissions from all topics, or gives them back.
    #[prost(message, tag = "13")]
    Withhold(WithholdChange),
}

/// Says which permissions all topics of the broker group lack from here on, whatever they have themselves: what they have stays
/// as it is, and counts again when nothing is withheld.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WithholdChange {
    /// [`crate::topic::PERM_READ`] and [`crate::topic::PERM_WRITE`]; 0: nothing is withheld.
    #[prost(uint32, tag = "1")]
    pub perm: u32,
}

/// Removes a topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteTopic {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Removes a consumer group.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteGroup {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}
