//! Records that allow the removal of old segments of the log.

use prost::Message;

use super::lite::LiteTopic;
use crate::audit::AuditedEntry;
use crate::group::Group;
use crate::slots::MovingSlots;
use crate::topic::Topic;

/// The state at this place of the log, or a part of it. Every segment but the first begins with one, so that the log
/// can be read from any segment on: an empty index loads it, any other one skips it.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotRecord {
    /// Number of the part, from 0.
    #[prost(uint32, tag = "1")]
    pub part: u32,
    /// Whether it is the last part.
    #[prost(bool, tag = "2")]
    pub last: bool,
    /// Broker group that the log belongs to.
    #[prost(string, tag = "3")]
    pub broker: String,
    /// Id for the next new topic.
    #[prost(uint32, tag = "4")]
    pub next_topic: u32,
    /// Id for the next new group.
    #[prost(uint32, tag = "5")]
    pub next_group: u32,
    /// All topics.
    #[prost(message, repeated, tag = "6")]
    pub topics: Vec<Topic>,
    /// All groups.
    #[prost(message, repeated, tag = "7")]
    pub groups: Vec<Group>,
    /// All queues that were ever written.
    #[prost(message, repeated, tag = "8")]
    pub queues: Vec<QueueState>,
    /// Finished messages of the groups.
    #[prost(message, repeated, tag = "9")]
    pub progress: Vec<GroupProgress>,
    /// Undecided half messages.
    #[prost(message, repeated, tag = "10")]
    pub halves: Vec<HeldState>,
    /// Messages that were carried forward.
    #[prost(message, repeated, tag = "11")]
    pub kept: Vec<KeptMessage>,
    /// Set in all parts of a snapshot whose writer had made an index over damage: the offsets in the snapshot and behind it
    /// are those that messages got then, which may differ from the earlier ones.
    #[prost(bool, tag = "12")]
    pub settles: bool,
    /// Scheduled messages that wait for their delivery time.
    #[prost(message, repeated, tag = "13")]
    pub timers: Vec<HeldState>,
    /// All lite topics; their queues are among `queues`.
    #[prost(message, repeated, tag = "19")]
    pub lites: Vec<LiteTopic>,
    /// Queue number for the next new lite topic.
    #[prost(uint32, tag = "20")]
    pub next_lite: u32,
    /// Topics whose message groups move to other queues.
    #[prost(message, repeated, tag = "21")]
    pub moving: Vec<MovingTopic>,
    /// Permissions that are withheld from all topics, see [`crate::record::WithholdChange`]; in part 0.
    #[prost(uint32, tag = "22")]
    pub withheld: u32,
    /// The audit trail, oldest first.
    #[prost(message, repeated, tag = "30")]
    pub audit: Vec<AuditedEntry>,
}

/// The position of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct QueueState {
    /// Number of the topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// The queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset for its next message.
    #[prost(uint64, tag = "3")]
    pub next: u64,
    /// When its newest message became visible, milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub newest_ms: i64,
}

/// The finished messages of a group in a queue.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupProgress {
    /// Number of the group.
    #[prost(uint32, tag = "1")]
    pub group_id: u32,
    /// Number of the topic.
    #[prost(uint32, tag = "2")]
    pub topic_id: u32,
    /// The queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Stored form of [`crate::acks::QueueAcks`].
    #[prost(bytes = "vec", tag = "4")]
    pub acks: Vec<u8>,
}

/// A topic whose message groups move to other queues.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MovingTopic {
    /// Number of the topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Slots that have not moved yet.
    #[prost(message, required, tag = "2")]
    pub moving: MovingSlots,
}

/// A message that is held back, and the position at which it was stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeldState {
    /// Position at which it was first stored: its identity.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// Stored form of [`crate::transaction::HalfMessage`] or [`crate::timer::ScheduledMessage`].
    #[prost(bytes = "vec", tag = "2")]
    pub message: Vec<u8>,
}

/// A visible message whose record was carried forward.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct KeptMessage {
    /// Number of the topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// The queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset in the queue.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// Current position of its record.
    #[prost(uint64, tag = "4")]
    pub position: u64,
    /// Length of the record's frame.
    #[prost(uint32, tag = "5")]
    pub len: u32,
    /// See `MessageHeader::tag_hash`.
    #[prost(uint32, tag = "6")]
    pub tag_hash: u32,
    /// When the message became visible, milliseconds since the Unix epoch.
    #[prost(int64, tag = "7")]
    pub visible_ms: i64,
}

/// Everything before a position and before the named offsets is removed, except messages that were carried forward.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrimRecord {
    /// First position that is kept: the base of a segment that begins with a whole snapshot, or 0.
    #[prost(uint64, tag = "1")]
    pub before: u64,
    /// First offsets that are kept: as that snapshot gives them, or of the queues whose messages expire.
    #[prost(message, repeated, tag = "2")]
    pub queues: Vec<QueueState>,
}

/// Why a message record repeats an older one.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CarriedOrigin {
    /// Position at which the message was first stored.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// Offset of the message in its queue; absent for a held message.
    #[prost(uint64, optional, tag = "2")]
    pub offset: Option<u64>,
    /// When the message was first stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub store_ms: i64,
    /// When it became visible; 0 for a held message.
    #[prost(int64, tag = "4")]
    pub visible_ms: i64,
}
