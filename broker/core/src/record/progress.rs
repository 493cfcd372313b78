//! Progress records: consumed and failed messages, check-backs of half messages, and scheduled messages that became
//! visible.

use prost::{Message, Oneof};

use crate::transaction::UndecidedTransaction;

/// A batch of progress, collected while the previous batch was made durable.
#[derive(Clone, PartialEq, Message)]
pub struct ProgressRecord {
    /// Items in the order of the events.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<ProgressItemBox>,
}

/// Protobuf has no repeated oneof; this is the box around one.
#[derive(Clone, PartialEq, Message)]
pub struct ProgressItemBox {
    /// The item.
    #[prost(oneof = "ProgressItem", tags = "1, 2, 3, 4, 5, 6, 13")]
    pub item: Option<ProgressItem>,
}

/// One piece of progress.
#[derive(Clone, PartialEq, Oneof)]
pub enum ProgressItem {
    /// Progress of a consumer group in one queue.
    #[prost(message, tag = "1")]
    Queue(QueueProgress),
    /// A half message was checked back.
    #[prost(message, tag = "2")]
    Checked(CheckedHalf),
    /// A dead letter goes back to its group.
    #[prost(message, tag = "3")]
    Redriven(RedrivenRecord),
    /// Scheduled messages came due.
    #[prost(message, tag = "4")]
    Fired(FiredRecord),
    /// A client or administrator decided a scheduled message before its time.
    #[prost(message, tag = "5")]
    TimerEnded(TimerEnded),
    /// Everything before an offset of a queue is finished, so message groups may leave it.
    #[prost(message, tag = "6")]
    Finished(FinishedRecord),
    /// A producer that was asked about a half message does not know either.
    #[prost(message, tag = "13")]
    Undecided(UndecidedTransaction),
}

/// Scheduled messages came due: they become visible, in this order. Messages that were decided before stay unchanged.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FiredRecord {
    /// Positions at which the messages were first stored.
    #[prost(uint64, repeated, tag = "1")]
    pub held: Vec<u64>,
}

/// All ordered consumers have finished everything before an offset of a queue that message groups are to leave, see
/// [`crate::slots`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FinishedRecord {
    /// Number of the topic.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// The queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// The offset.
    #[prost(uint64, tag = "3")]
    pub floor: u64,
}

/// A decision about a scheduled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TimerDecision {
    /// It never becomes visible.
    Recall = 0,
    /// It becomes visible at once.
    Deliver = 1,
}

/// A client or administrator decided a scheduled message before its time. It is no [`super::DiscardRecord`], because a half
/// message and the timer that its commit made stand at the same position.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TimerEnded {
    /// Position at which the message was first stored.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// The decision.
    #[prost(enumeration = "TimerDecision", tag = "2")]
    pub decision: i32,
    /// Who decided: a client id, or `admin`.
    #[prost(string, tag = "3")]
    pub by: String,
}

/// A dead letter goes back to its group: the original message is delivered once more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RedrivenRecord {
    /// Number of the dead-letter topic.
    #[prost(uint32, tag = "1")]
    pub dead_topic_id: u32,
    /// Its queue.
    #[prost(uint32, tag = "2")]
    pub dead_queue: u32,
    /// Offset of the dead letter.
    #[prost(uint64, tag = "3")]
    pub dead_offset: u64,
    /// See [`DeadOrigin::group_id`].
    #[prost(uint32, tag = "4")]
    pub group_id: u32,
    /// See [`DeadOrigin::topic_id`].
    #[prost(uint32, tag = "5")]
    pub topic_id: u32,
    /// See [`DeadOrigin::queue`].
    #[prost(uint32, tag = "6")]
    pub queue: u32,
    /// See [`DeadOrigin::offset`].
    #[prost(uint64, tag = "7")]
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
    /// When present: the group's offset is reset, and earlier acknowledgements and attempts are forgotten.
    #[prost(uint64, optional, tag = "4")]
    pub reset_to: Option<u64>,
    /// Acknowledged offsets.
    #[prost(message, repeated, tag = "5")]
    pub acked: Vec<AckRange>,
    /// Failed or extended deliveries.
    #[prost(message, repeated, tag = "6")]
    pub attempted: Vec<FailedAttempts>,
    /// With `reset_to`: receipt handles with lease numbers up to this one are void.
    #[prost(uint64, tag = "7")]
    pub void_leases: u64,
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

impl DeadReason {
    /// The reason as clients and administrators read it.
    pub fn word(self) -> &'static str {
        match self {
            // Written by a newer version, whose word is unknown here.
            Self::Unspecified => "UNSPECIFIED",
            Self::Exhausted => "EXHAUSTED",
            Self::Forwarded => "FORWARDED",
            Self::Operator => "OPERATOR",
        }
    }
}

/// The origin of a dead letter. The message record that carries this ends the delivery of the original, so that a
/// message always counts as exactly one of the two.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeadOrigin {
    /// Number of the group that gave the message up.
    #[prost(uint32, tag = "1")]
    pub group_id: u32,
    /// Number of the topic that the message was sent to.
    #[prost(uint32, tag = "2")]
    pub topic_id: u32,
    /// Queue of the message in that topic.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offset of the message in that queue.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Number of deliveries.
    #[prost(uint32, tag = "5")]
    pub attempts: u32,
    /// Why it was given up.
    #[prost(enumeration = "DeadReason", tag = "6")]
    pub reason: i32,
    /// Name of the topic.
    #[prost(string, tag = "7")]
    pub topic: String,
    /// When the message was first stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "8")]
    pub store_ms: i64,
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

/// A message was delivered `attempts` times without success, and is next visible at `visible_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FailedAttempts {
    /// Offset in the queue.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Deliveries so far.
    #[prost(uint32, tag = "2")]
    pub attempts: u32,
    /// When the message is next visible, milliseconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub visible_ms: i64,
}

/// A producer was asked about a half message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CheckedHalf {
    /// Position of the half message.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// Checks delivered so far, this one included.
    #[prost(uint32, tag = "2")]
    pub checks: u32,
    /// When the next check is due, milliseconds since the Unix epoch; absent after the last check, which leaves the
    /// half message parked until an administrator settles it.
    #[prost(int64, optional, tag = "3")]
    pub next_check_ms: Option<i64>,
    /// Client id of the producer that was asked; empty when a half message is parked without being asked again, or when an
    /// administrator requests the check.
    #[prost(string, tag = "4")]
    pub asked: String,
    /// The administrator who requested the check.
    #[prost(string, tag = "10")]
    pub by: String,
    /// Reason that the administrator gave.
    #[prost(string, tag = "11")]
    pub reason: String,
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
