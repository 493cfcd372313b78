//! What consumers finished or failed, and which half messages were checked back.

use prost::{Message, Oneof};

/// A batch of progress, collected while the previous batch was made durable.
#[derive(Clone, PartialEq, Message)]
pub struct ProgressRecord {
    /// In the order in which things happened.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<ProgressItemBox>,
}

/// Protobuf has no repeated oneof; this is the box around one.
#[derive(Clone, PartialEq, Message)]
pub struct ProgressItemBox {
    /// The item.
    #[prost(oneof = "ProgressItem", tags = "1, 2, 3")]
    pub item: Option<ProgressItem>,
}

/// One piece of progress.
#[derive(Clone, PartialEq, Oneof)]
pub enum ProgressItem {
    /// A consumer group in one queue.
    #[prost(message, tag = "1")]
    Queue(QueueProgress),
    /// A half message was checked back.
    #[prost(message, tag = "2")]
    Checked(Checked),
    /// A dead letter goes back to its group.
    #[prost(message, tag = "3")]
    Redriven(Redriven),
}

/// A dead letter goes back to its group: it is delivered once more where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Redriven {
    /// Number of the dead-letter topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Its queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset of the dead letter.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// Progress of one consumer group in one queue.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueueProgress {
    /// Number of the group.
    #[prost(uint32, tag = "1")]
    pub group_id: u32,
    /// Number of the topic.
    #[prost(uint32, tag = "2")]
    pub topic_id: u32,
    /// The queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// When present: the group's offset is set, and what was acknowledged or attempted before is forgotten.
    #[prost(uint64, optional, tag = "4")]
    pub reset_to: Option<u64>,
    /// Acknowledged offsets.
    #[prost(message, repeated, tag = "5")]
    pub acked: Vec<AckRange>,
    /// Failed or extended deliveries.
    #[prost(message, repeated, tag = "6")]
    pub attempted: Vec<Attempted>,
    /// Deliveries that were given up: the messages become dead letters of the group.
    #[prost(message, repeated, tag = "7")]
    pub dead: Vec<DeadLettered>,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum DeadReason {
    /// Written by a newer version.
    Unspecified = 0,
    /// Its last attempt failed.
    Exhausted = 1,
    /// Its consumer gave it up (ForwardMessageToDeadLetterQueue).
    Forwarded = 2,
    /// An administrator gave it up.
    Operator = 3,
}

/// A message was given up by its group.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DeadLettered {
    /// Offset in the queue.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Deliveries that it had.
    #[prost(uint32, tag = "2")]
    pub attempts: u32,
    /// Why.
    #[prost(enumeration = "DeadReason", tag = "3")]
    pub reason: i32,
}

/// Offsets `start .. end`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AckRange {
    /// First offset.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// One past the last offset.
    #[prost(uint64, tag = "2")]
    pub end: u64,
}

/// A message was delivered `attempts` times without success so far, and is next visible at `visible_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Attempted {
    /// Offset in the queue.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Deliveries so far.
    #[prost(uint32, tag = "2")]
    pub attempts: u32,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub visible_ms: i64,
}

/// A half message was put to a producer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checked {
    /// Position of the half message.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// Checks delivered so far, this one included.
    #[prost(uint32, tag = "2")]
    pub checks: u32,
    /// When the next check is due, milliseconds since the Unix epoch; absent: this was the last one, and the half
    /// message is parked until somebody settles it.
    #[prost(int64, optional, tag = "3")]
    pub next_check_ms: Option<i64>,
    /// Client id of the producer that was asked; empty when a half message is parked without being asked again.
    #[prost(string, tag = "4")]
    pub asked: String,
}

impl ProgressRecord {
    /// A record of these items.
    pub fn new(items: impl IntoIterator<Item = ProgressItem>) -> Self {
        Self { items: items.into_iter().map(|item| ProgressItemBox { item: Some(item) }).collect() }
    }

    /// The items that this version understands.
    pub fn into_items(self) -> impl Iterator<Item = ProgressItem> {
        self.items.into_iter().filter_map(|boxed| boxed.item)
    }
}
