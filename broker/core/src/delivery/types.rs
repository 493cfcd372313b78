//! What is asked of a subscription, and what it answers.

use super::flight::{LeaseId, ReceiveId};
use super::members::FilterId;
use crate::queue_offset::QueueOffset;
use crate::record::DeadReason;

/// How long a receiver holds messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseTerm {
    /// Invisible to others for this many milliseconds.
    Fixed(u64),
    /// Invisible to others while the client lives: for this many milliseconds, and again when they are over.
    WhileAlive(u64),
}

/// A receive call of a consumer.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveRequest<'a> {
    /// Most messages that it takes.
    pub max: usize,
    /// How long it holds them.
    pub term: LeaseTerm,
    /// Its client id.
    pub client: &'a str,
    /// Its filter, as `DeliveryEngine::join` numbered it.
    pub filter: FilterId,
    /// When present: a receive that repeats this id gets the same messages.
    pub attempt_id: Option<&'a str>,
}

/// A message handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredMessage {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// Goes into the receipt handle.
    pub lease: LeaseId,
    /// When it becomes visible again unless it is acknowledged, milliseconds since the Unix epoch.
    pub visible_ms: i64,
    /// The receive that it was handed out to; one that is repeated has another number each time.
    pub receive: ReceiveId,
}

/// Whether the receiver of a picked message wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterResult {
    /// Its receiver gets it.
    Wanted,
    /// No known member of the group wants it, or it is not there any more: it is done, or waits until all members are known.
    Unwanted,
    /// The receiver does not want it, but members with these filters do.
    WantedBy(Vec<FilterId>),
    /// It cannot be read; to be tried again at this time, milliseconds since the Unix epoch.
    Unreadable(i64),
}

/// Messages whose ordering keys the engine needs, see `DeliveryEngine::load_ordering_keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderingKeysWanted {
    /// Queue of the topic.
    pub queue: u32,
    /// First offset.
    pub from: QueueOffset,
    /// One past the newest offset.
    pub end: QueueOffset,
}

/// A message that failed and waits for its next attempt, or is to be had again by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryingMessage {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Deliveries that failed.
    pub attempts: u32,
    /// When it can be had again, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// A message that used up its attempts and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedMessage {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Messages that wait because of it, itself included, as far as the engine has looked.
    pub waiting: usize,
}

/// A message that the group gave up. It counts as done for the engine; that, and the dead letter, have to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExhaustedMessage {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Deliveries that it had.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: DeadReason,
}

/// The position of a group in one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuePosition {
    /// Everything below this offset is done.
    pub committed: QueueOffset,
    /// One past the newest visible offset.
    pub end: QueueOffset,
    /// What keeps the messages that are not done.
    pub counts: BacklogCounts,
}

/// Messages that are not done, by what keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BacklogCounts {
    /// Not done, whatever keeps them: the sum of the others.
    pub lag: u64,
    /// Can be handed out, or wait for others of their message group that can.
    pub ready: u64,
    /// Out with a consumer.
    pub in_flight: u64,
    /// Failed, and wait for the time of their next attempt.
    pub waiting: u64,
    /// Used up their attempts and stay, with what stands behind them in their message group.
    pub blocked: u64,
}

impl std::ops::AddAssign for BacklogCounts {
    fn add_assign(&mut self, other: Self) {
        self.lag += other.lag;
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.blocked += other.blocked;
    }
}
