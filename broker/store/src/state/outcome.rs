//! What applying a record did, and what others may want to know of it.

use std::sync::Arc;

use kerolox_core::group::Group;
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;

use crate::state::FirstMessage;

/// What a record did; who proposed it waits for this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// A message is visible at this offset: it was sent, its transaction was committed, or it was delivered before its time
    /// just now.
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
    /// The message repeats this one and was not made visible.
    Duplicate(FirstMessage),
    /// The transaction was rolled back, or the scheduled message recalled just now.
    Discarded,
    /// The transaction had ended the same way before.
    Repeated,
    /// The transaction had ended the other way before; that stands.
    Contradicted,
    /// There is no half message at that position.
    NoSuchHalf,
    /// The scheduled message was delivered or recalled before; that stands.
    TimerOver(TimerPhase),
    /// There is no scheduled message at that position.
    NoSuchTimer,
    /// The topic was deleted before the record was applied.
    TopicGone,
    /// The topic as it is now, and whether it is new.
    Topic(Arc<Topic>, bool),
    /// The group as it is now, and whether it is new.
    Group(Arc<Group>, bool),
    /// The queue of a lite topic, and whether that is new.
    Lite {
        /// Its number.
        queue: u32,
        /// Whether it was created just now.
        is_new: bool,
    },
    /// Whether there was something to delete.
    Deleted(bool),
    /// The log was not trimmed: a record behind the place says something about one before it.
    Hangs,
    /// Nothing to report.
    Done,
}

/// What the rest of the broker may want to know after a record was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateEvent {
    /// A message became visible; `end` is one past its offset.
    Arrived {
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// One past the newest offset.
        end: u64,
    },
    /// Messages before an offset expired.
    Trimmed {
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// The first offset that is kept.
        min: u64,
    },
    /// A message that a group had finished is to be delivered to it once more.
    Reopened {
        /// The group.
        group_id: u32,
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// Its offset.
        offset: u64,
    },
    /// A lite topic was created.
    LiteCreated {
        /// Its parent.
        topic_id: u32,
        /// Its queue.
        queue: u32,
        /// Its name.
        name: String,
    },
    /// A lite topic was removed.
    LiteDropped {
        /// Its parent.
        topic_id: u32,
        /// Its queue, which is never used again.
        queue: u32,
        /// Its name.
        name: String,
    },
    /// Topics were created, changed or deleted.
    TopicsChanged,
    /// Groups were created, changed or deleted.
    GroupsChanged,
    /// A half message is due for a check at this time.
    HalfDue {
        /// Milliseconds since the Unix epoch.
        due_ms: i64,
    },
    /// A message waits for this delivery time.
    TimerDue {
        /// Milliseconds since the Unix epoch.
        due_ms: i64,
    },
}
