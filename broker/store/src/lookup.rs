//! Look-ups of stored messages: by id, by key, by time.
//!
//! # Look-ups
//!
//! A send computes hashes of the message id and the keys (`core::lookup`), the record carries them, and the index keeps
//! hash and position in buckets, for each GiB of the log (`state/lookup.rs`). `store/src/lookup.rs` reads the records
//! found and compares them with the query. Times need no index: in a queue they never run backwards, so a binary search
//! finds them.

use kerolox_core::record::{CarriedOrigin, MessageHeader, MessageHold, MessageRecord};
use kerolox_core::timer::{ScheduledMessage, TimerPhase};
use kerolox_core::transaction::{HalfMessage, TransactionPhase};
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::state::{QueueEntry, StateMachine};
use crate::store::Store;

/// Maximum number of records that one call reads: the hits of a common key may all be of another time.
const READS_MAX: usize = 1_000;
/// Bytes of records after which one call ends, whether they matched or not.
const READ_BYTES_MAX: usize = 256 << 20;

/// The requested part of the hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupPage {
    /// Only hits before this position; [`FoundPage::next`] of the previous page.
    pub before: u64,
    /// Maximum number of hits.
    pub limit: usize,
    /// Bytes of hits after which a page is closed.
    pub bytes: usize,
    /// Only hits that were stored at or after this time, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Only hits that were stored before this time.
    pub until_ms: i64,
}

impl LookupPage {
    /// The newest hits of any time.
    pub fn newest(limit: usize) -> Self {
        Self { before: u64::MAX, limit, bytes: usize::MAX, since_ms: i64::MIN, until_ms: i64::MAX }
    }
}

/// The state of a stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageStanding {
    /// Consumers can receive it, or could.
    Visible {
        /// Queue of its topic.
        queue: u32,
        /// Offset in the queue.
        offset: u64,
    },
    /// It is or was a half message; a committed one is in its queue at its offset.
    Half(Box<HalfMessage>),
    /// It is or was a scheduled message; a delivered one is in its queue at its offset.
    Timer(Box<ScheduledMessage>),
    /// Its topic was deleted, or its entry expired before its segment.
    Gone,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundMessage {
    /// Position at which it was first stored: its identity.
    pub position: u64,
    /// When it was first stored, milliseconds since the Unix epoch.
    pub store_ms: i64,
    /// The message.
    pub message: MessageRecord,
    /// Current state of the message.
    pub standing: MessageStanding,
}

/// A page of found messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundPage {
    /// Newest first.
    pub messages: Vec<FoundMessage>,
    /// Number of hits that cannot be read because the log is damaged there.
    pub damaged: usize,
    /// [`LookupPage::before`] for the next page, if there may be more.
    pub next: Option<u64>,
}

impl Store {
    /// The messages under `hash` (see [`kerolox_core::lookup`]) that `wanted` accepts, newest first. A page may hold
    /// fewer than requested, even none, and still have a next one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn find(
        &self,
        hash: u64,
        page: &LookupPage,
        wanted: impl Fn(&MessageRecord) -> bool,
    ) -> Result<FoundPage, StoreError> {
        let mut found = FoundPage::default();
        let (mut bytes, mut read_bytes) = (0, 0);
        // Records that are not applied yet are not visible yet.
        let positions = self.state().positions_of(hash, page.before);
        for (reads, position) in positions.enumerate() {
            let position = position?;
            let is_enough = reads == READS_MAX || read_bytes >= READ_BYTES_MAX;
            if is_enough || found.messages.len() == page.limit || bytes >= page.bytes {
                found.next = Some(position + 1);
                break;
            }
            let (frame, message) = match self.read_message_at(position) {
                Ok(read) => read,
                Err(error) if error.is_damage() => {
                    found.damaged += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            read_bytes += frame.len as usize;
            // Store times never run backwards, but a copy carries the time of the first record.
            if message.header.carried.is_none() && frame.store_ms < page.since_ms {
                break;
            }
            if !(page.since_ms..page.until_ms).contains(&frame.store_ms) || !wanted(&message) {
                continue;
            }
            if let Some(standing) = self.state().standing(&frame, &message)? {
                let identity = message.header.carried.map_or(position, |carried| carried.position);
                let store_ms = frame.store_ms;
                bytes += frame.len as usize;
                found.messages.push(FoundMessage { position: identity, store_ms, message, standing });
            }
        }
        Ok(found)
    }
}

/// A message of the log with its frame; `None` when it never existed or has expired.
pub type ReadMessage = Result<Option<(Frame, MessageRecord)>, StoreError>;

impl Store {
    /// The message at an offset of a queue; `None` when it never existed or has expired.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn message_at(&self, topic_id: u32, queue: u32, offset: u64) -> ReadMessage {
        let Some(entry) = self.state().entry(topic_id, queue, offset)? else { return Ok(None) };
        self.read_entry(&entry)
    }

    /// The message of an entry; `None` when it has expired since the entry was looked up.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn read_entry(&self, entry: &QueueEntry) -> ReadMessage {
        match self.read_message(entry.position, entry.len) {
            Err(_) if entry.position < self.log_start() => Ok(None),
            read => read.map(Some),
        }
    }
}

impl StateMachine {
    /// The state of the message with this record; `None` if a newer record replaced it.
    fn standing(
        &self,
        frame: &Frame,
        message: &MessageRecord,
    ) -> Result<Option<MessageStanding>, StoreError> {
        let header = &message.header;
        if !self.topics.has(header.topic_id) {
            return Ok(Some(MessageStanding::Gone));
        }
        let identity = header.carried.map_or(frame.position, |carried| carried.position);
        // First, because it comes after the half message that it may have been.
        if let Some(timer) = self.timers.get(identity)? {
            let is_this = timer.location(identity) == frame.position;
            return Ok(is_this.then(|| MessageStanding::Timer(Box::new(timer))));
        }
        if let Some(half) = self.transactions.get(identity)? {
            let is_this = half.location(identity) == frame.position;
            return Ok(is_this.then(|| MessageStanding::Half(Box::new(half))));
        }
        let place = match header.carried {
            Some(CarriedOrigin { offset, .. }) => offset.map(|offset| (header.queue, offset)),
            None if header.hold() == MessageHold::None => {
                self.place_of(header, frame.position, frame.store_ms)?
            }
            None => None,
        };
        let Some((queue, offset)) = place else { return Ok(Some(MessageStanding::Gone)) };
        match self.entry(header.topic_id, queue, offset)? {
            Some(QueueEntry { position, .. }) if position != frame.position => Ok(None),
            Some(_) => Ok(Some(MessageStanding::Visible { queue, offset })),
            None => Ok(Some(MessageStanding::Gone)),
        }
    }

    /// The first offset of a queue whose message became visible at or after `time_ms`, milliseconds since the Unix
    /// epoch; the next offset if there is none.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn offset_at(&self, topic_id: u32, queue: u32, time_ms: i64) -> Result<u64, StoreError> {
        let bounds = self.queues.bounds(topic_id, queue);
        let (mut low, mut high) = (bounds.min, bounds.next);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.queues.entries(topic_id, queue, middle, 1)?;
            match found.first() {
                Some((_, entry)) if entry.visible_ms < time_ms => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Queue and offset of a message that became visible when it was stored.
    fn place_of(
        &self,
        header: &MessageHeader,
        position: u64,
        visible_ms: i64,
    ) -> Result<Option<(u32, u64)>, StoreError> {
        let expected = Some(header.queue);
        // Its message group may have been moving to another queue.
        let others = header.slot.and_then(|_| Some(0..self.topics.by_id(header.topic_id)?.read_queues));
        let others = others.into_iter().flatten().filter(|queue| *queue != header.queue);
        for queue in expected.into_iter().chain(others) {
            if let Some(offset) = self.offset_of(header.topic_id, queue, position, visible_ms)? {
                return Ok(Some((queue, offset)));
            }
        }
        Ok(None)
    }

    /// The offset of a message that became visible when it was stored.
    fn offset_of(
        &self,
        topic_id: u32,
        queue: u32,
        position: u64,
        visible_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        /// Messages of one millisecond that are read together.
        const STEP: usize = 256;
        let mut from = self.offset_at(topic_id, queue, visible_ms)?;
        loop {
            let entries = self.queues.entries(topic_id, queue, from, STEP)?;
            let same_time = entries.iter().take_while(|(_, entry)| entry.visible_ms == visible_ms);
            for (offset, entry) in same_time {
                if entry.position == position {
                    return Ok(Some(*offset));
                }
            }
            match entries.last() {
                Some((last, entry)) if entry.visible_ms == visible_ms => from = last + 1,
                _ => return Ok(None),
            }
        }
    }
}

impl MessageStanding {
    /// Queue and offset of a visible message.
    pub fn place(&self) -> Option<(u32, u64)> {
        match self {
            Self::Visible { queue, offset } => Some((*queue, *offset)),
            Self::Half(half) => {
                (half.phase == TransactionPhase::Committed).then_some((half.queue, half.offset))
            }
            Self::Timer(timer) => {
                (timer.phase == TimerPhase::Delivered).then_some((timer.queue, timer.offset))
            }
            Self::Gone => None,
        }
    }

    /// The state in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Visible { .. } => "visible",
            Self::Gone => "gone",
            Self::Timer(timer) => timer.phase.word(),
            Self::Half(half) => match half.phase {
                TransactionPhase::Prepared => "prepared",
                TransactionPhase::Committed => "committed",
                TransactionPhase::RolledBack => "rolled-back",
                TransactionPhase::Parked => "parked",
                TransactionPhase::Scheduled => "scheduled",
            },
        }
    }
}
