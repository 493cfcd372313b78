//! The outcome of applying a record, and the events that it causes.

use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;

use crate::state::FirstMessage;

/// The outcome of a record; its proposer waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// A message is visible at this offset: it was sent, its transaction was committed, or it was delivered early just now.
    Visible {
        /// Queue of its topic.
        queue: u32,
        /// Offset in the queue.
        offset: u64,
    },
    /// A half message waits for its decision.
    Held,
    /// A message waits for its delivery time: it was sent, or its transaction was committed just now.
    Scheduled,
    /// The message duplicates this one and was not made visible.
    Duplicate(FirstMessage),
    /// The transaction was rolled back, or the scheduled message recalled just now.
    Discarded,
    /// The transaction had ended this way before.
    Repeated,
    /// The transaction had ended the other way before; that decision stands.
    Contradicted,
    /// There is no half message at that position.
    NoSuchHalf,
    /// The scheduled message was delivered or recalled before; that decision stands.
    TimerOver(TimerPhase),
    /// There is no scheduled message at that position.
    NoSuchTimer,
    /// The topic was deleted before the record was applied.
    TopicGone,
    /// The present topic, and whether it is new.
    Topic(Arc<Topic>, bool),
    /// The present group, and whether it is new.
    Group(Arc<Group>, bool),
    /// The queue of a lite topic, and whether it is new.
    Lite {
        /// Number of the queue.
        queue: u32,
        /// Whether it was created just now.
        is_new: bool,
    },
    /// Whether there was an object to delete.
    Deleted(bool),
    /// The log was not trimmed: a record behind the position depends on one before it.
    Hangs,
    /// Nothing to report.
    Done,
}

/// An event for other parts of the broker after a record was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateEvent {
    /// A message became visible; `end` is one past its offset.
    Arrived {
        /// Number of the topic.
        topic_id: u32,
        /// Number of the queue.
        queue: u32,
        /// One past the newest offset.
        end: u64,
    },
    /// Messages before an offset expired.
    Trimmed {
        /// Number of the topic.
        topic_id: u32,
        /// Number of the queue.
        queue: u32,
        /// The first remaining offset.
        min: u64,
    },
    /// A message that a group had finished is to be delivered to it once more.
    Reopened {
        /// Number of the group.
        group_id: u32,
        /// Number of the topic.
        topic_id: u32,
        /// Number of the queue.
        queue: u32,
        /// Offset of the message.
        offset: u64,
    },
    /// A lite topic was created.
    LiteCreated {
        /// Number of the parent.
        topic_id: u32,
        /// Queue of the lite topic.
        queue: u32,
        /// Name of the lite topic.
        name: String,
    },
    /// A lite topic was removed.
    LiteDropped {
        /// Number of the parent.
        topic_id: u32,
        /// Queue of the lite topic, which is never reused.
        queue: u32,
        /// Name of the lite topic.
        name: String,
    },
    /// Topics were created, changed or deleted.
    TopicsChanged,
    /// Groups were created, changed or deleted.
    GroupsChanged,
    /// A half message is due for a check at this time.
    HalfDue {
        /// Due time, milliseconds since the Unix epoch.
        due_ms: i64,
    },
    /// A message waits for this delivery time.
    TimerDue {
        /// Delivery time, milliseconds since the Unix epoch.
        due_ms: i64,
    },
}
