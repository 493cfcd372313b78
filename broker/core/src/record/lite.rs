//! Lite topics as they are stored.

use prost::Message;

/// A lite topic: a queue of its parent with a name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LiteTopic {
    /// Number of the parent.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Number of the queue, assigned by the state machine. In a request to create one: the number that its proposer expects, or 0;
    /// it counts only behind damage, where the state machine cannot know the number.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Unique below its parent.
    #[prost(string, tag = "3")]
    pub name: String,
    /// When it was created, milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub created_ms: i64,
}

/// Removes lite topics with their queues and progress.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DropLites {
    /// Number of the parent.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Lite topics to remove.
    #[prost(message, repeated, tag = "2")]
    pub lites: Vec<DropLite>,
}

/// Removes a lite topic, unless it got a message that its proposer did not see.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DropLite {
    /// Name of the lite topic.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset that its next message would have got.
    #[prost(uint64, tag = "3")]
    pub next: u64,
}
