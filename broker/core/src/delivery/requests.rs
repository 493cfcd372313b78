//! What is asked of a subscription, and what it answers.

use super::cursor::Counts;
use super::members::FilterId;
use crate::record::DeadReason;

/// How a receiver wants to hold messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Invisible to others for this many milliseconds.
    For(u64),
    /// Invisible to others while the client lives: for this many milliseconds, and again when they are over.
    WhileAlive(u64),
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Most messages that it takes.
    pub max: usize,
    /// How it wants to hold them.
    pub held: Held,
    /// Its client id.
    pub client: &'a str,
    /// Its filter, as `Subscription::join` numbered it.
    pub filter: FilterId,
    /// When present: a receive that repeats this id gets the same messages.
    pub attempt_id: Option<&'a str>,
}

/// A message handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// Goes into the receipt handle.
    pub lease: u64,
    /// When it becomes visible again unless it is acknowledged, milliseconds since the Unix epoch.
    pub visible_ms: i64,
    /// Number of the receive that it was handed out to; one that is repeated has another number each time.
    pub call: u64,
}

/// What reading a picked message showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its receiver gets it.
    Wanted,
    /// No known member of the group wants it, or it is not there any more: it is done, or waits until all members are known.
    Unwanted,
    /// The receiver does not want it, but members with these filters do.
    WantedBy(Vec<FilterId>),
    /// It cannot be read; to be tried again at this time, milliseconds since the Unix epoch.
    Unreadable(i64),
}

/// From where on the engine has to be told the lanes of messages, see `Subscription::tell_lanes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanesWanted {
    /// Queue of the topic.
    pub queue: u32,
    /// First offset.
    pub from: u64,
    /// One past the newest offset.
    pub end: u64,
}

/// A message that failed and waits for its next attempt, or is to be had again by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retrying {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Deliveries that failed.
    pub attempts: u32,
    /// When it can be had again, milliseconds since the Unix epoch.
    pub visible_ms: i64,
}

/// A message that used up its attempts and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Messages that wait because of it, itself included, as far as the engine has looked.
    pub waiting: usize,
}

/// A message that the group gave up. It counts as done for the engine; that, and the dead letter, have to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// Deliveries that it had.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: DeadReason,
}

/// Where a group stands in one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Everything below this offset is done.
    pub committed: u64,
    /// One past the newest visible offset.
    pub end: u64,
    /// What keeps the messages that are not done.
    pub counts: Counts,
}
