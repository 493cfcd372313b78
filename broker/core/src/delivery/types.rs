//! Requests to a subscription, and its answers.

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
    /// Client id of the consumer.
    pub client: &'a str,
    /// Filter of the consumer, as `DeliveryEngine::join` numbered it.
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
    /// Lease number for the receipt handle.
    pub lease: LeaseId,
    /// When it becomes visible again unless it is acknowledged, milliseconds since the Unix epoch.
    pub visible_ms: i64,
    /// The receive that handed it out; a repeated receive has another number each time.
    pub receive: ReceiveId,
}

/// Whether the receiver of a picked message wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterResult {
    /// Its receiver gets it.
    Wanted,
    /// No known member of the group wants it, or it no longer exists: it is done, or waits until all members are known.
    Unwanted,
    /// The receiver does not want it, but members with these filters do.
    WantedBy(Vec<FilterId>),
    /// It cannot be read; it is tried again at this time, milliseconds since the Unix epoch.
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

/// A failed message that waits for its next attempt, or whose next attempt is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryingMessage {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Deliveries that failed.
    pub attempts: u32,
    /// When it is visible again, milliseconds since the Unix epoch.
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

/// A message that the group gave up. The engine counts it as done; its end and the dead letter have to be logged.
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
    /// The undone messages, counted by what holds them back.
    pub counts: BacklogCounts,
}

/// Undone messages, counted by what holds them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BacklogCounts {
    /// All undone messages: the sum of the others.
    pub lag: u64,
    /// Messages that can be handed out, or wait for such a message of their message group.
    pub ready: u64,
    /// Messages that a consumer holds.
    pub in_flight: u64,
    /// Failed messages that wait for their next attempt.
    pub waiting: u64,
    /// Messages that used up their attempts and stay, and the messages behind them in their message group.
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
