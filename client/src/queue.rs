//! Queues as applications see them, and places in them.

use std::fmt;
use std::time::SystemTime;

/// One queue of a topic: messages in it have consecutive offsets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageQueue {
    topic: String,
    broker: String,
    id: i32,
}

impl MessageQueue {
    /// Queue number `id` of `topic` on the broker group `broker`.
    pub fn new(topic: impl Into<String>, broker: impl Into<String>, id: i32) -> Self {
        Self { topic: topic.into(), broker: broker.into(), id }
    }

    /// Topic, without the namespace.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Name of the broker group.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Number on the broker group, from 0.
    pub fn id(&self) -> i32 {
        self.id
    }
}

impl fmt::Display for MessageQueue {
    /// As `topic/broker/id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.broker, self.id)
    }
}

/// A place in a queue or a lite topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    /// The first message that is kept.
    Earliest,
    /// Behind the last message: only messages from now on.
    Latest,
    /// Where the group has come to, the first message that is kept if it has none.
    Committed,
    /// This offset.
    Offset(u64),
    /// So many messages before the end.
    Tail(u64),
    /// The first message stored at this time or later, on the broker's clock.
    Since(SystemTime),
}
