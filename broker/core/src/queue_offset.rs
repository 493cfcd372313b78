//! The place of a message in its queue.

use std::fmt;
use std::ops::Add;

/// The place of a message in its queue, counted from 0, without gaps. Behind the newest message it is the queue's end.
/// Records and the protocol carry bare numbers; all deciding code has this type, so that an offset in a queue is never
/// mistaken for a log position, a length or a lease.
/// for a position in the log, a length or a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueOffset(u64);

impl QueueOffset {
    /// The first offset of a queue.
    pub const FIRST: Self = Self(0);

    /// The offset with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset behind this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Messages from `start` up to this offset, none if it lies before.
    pub const fn since(self, start: Self) -> u64 {
        self.0.saturating_sub(start.0)
    }

    /// The offsets from this one up to `end`, without it.
    pub fn up_to(self, end: Self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..end.0).map(Self)
    }
}

/// The offset this many messages further on.
impl Add<u64> for QueueOffset {
    type Output = Self;

    fn add(self, messages: u64) -> Self {
        Self(self.0 + messages)
    }
}

impl fmt::Display for QueueOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
