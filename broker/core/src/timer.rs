//! Scheduled messages: held until their delivery time, unless a client or administrator decides otherwise before.
//!
//! A timer is the position of one message record and its due time. The broker says when timers fire, the state machine
//! records the outcome of each: the first decision about a timer wins, so that a message is either delivered once or
//! recalled.

use std::ops::Deref;
use std::time::Duration;

use prost::{DecodeError, Message};

use crate::held::HeldMessage;

/// The phase of a scheduled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TimerPhase {
    /// Waits for its delivery time.
    Pending = 0,
    /// Decided: visible.
    Delivered = 1,
    /// Decided: never visible.
    Recalled = 2,
}

impl TimerPhase {
    /// The phase in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "scheduled",
            Self::Delivered => "delivered",
            Self::Recalled => "recalled",
        }
    }
}

/// Rate limits for scheduled messages that become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerPace {
    /// Most messages that one record delivers.
    pub batch: usize,
    /// Most messages per second; 0 for no limit.
    pub per_second: u64,
}

impl TimerPace {
    /// How long `messages` delay the next ones.
    pub fn pause(self, messages: usize) -> Duration {
        let nanos = (messages as u64).saturating_mul(1_000_000_000).checked_div(self.per_second);
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

/// A scheduled message as the state machine knows it; dereferences to the held message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduledMessage {
    /// The message.
    pub message: HeldMessage,
    /// Its delivery time, milliseconds since the Unix epoch.
    pub due_ms: i64,
    /// Phase of the message.
    pub phase: TimerPhase,
}

impl Deref for ScheduledMessage {
    type Target = HeldMessage;

    fn deref(&self) -> &HeldMessage {
        &self.message
    }
}

impl ScheduledMessage {
    /// Whether it still waits for a decision.
    pub fn is_pending(&self) -> bool {
        self.phase == TimerPhase::Pending
    }

    /// Stored form.
    pub fn encode(&self) -> Vec<u8> {
        let message = self.message.clone();
        StoredTimer {
            topic_id: message.topic_id,
            queue: message.queue,
            frame_len: message.frame_len,
            tag_hash: message.tag_hash,
            message_id_crc: message.message_id_crc,
            stored_ms: message.stored_ms,
            due_ms: self.due_ms,
            phase: self.phase.into(),
            offset: message.offset,
            decided_by: message.decided_by,
            decided_ms: message.decided_ms,
            carried_to: message.carried_to,
            decided_at: message.decided_at,
            slot: message.slot,
        }
        .encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] when `bytes` are not a stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored = StoredTimer::decode(bytes)?;
        let phase = stored.phase();
        let StoredTimer {
            topic_id,
            queue,
            frame_len,
            tag_hash,
            message_id_crc,
            stored_ms,
            due_ms,
            phase: _,
            offset,
            decided_by,
            decided_ms,
            carried_to,
            decided_at,
            slot,
        } = stored;
        let message = HeldMessage {
            topic_id,
            queue,
            frame_len,
            tag_hash,
            message_id_crc,
            stored_ms,
            slot,
            carried_to,
            offset,
            decided_by,
            decided_ms,
            decided_at,
        };
        Ok(Self { message, due_ms, phase })
    }
}

/// Stored form of [`ScheduledMessage`]; field numbers are part of the index format and of snapshots.
#[derive(Clone, PartialEq, Eq, Message)]
struct StoredTimer {
    #[prost(uint32, tag = "1")]
    topic_id: u32,
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint32, tag = "3")]
    frame_len: u32,
    #[prost(uint32, tag = "4")]
    tag_hash: u32,
    #[prost(uint32, tag = "5")]
    message_id_crc: u32,
    #[prost(int64, tag = "6")]
    stored_ms: i64,
    #[prost(int64, tag = "7")]
    due_ms: i64,
    #[prost(enumeration = "TimerPhase", tag = "8")]
    phase: i32,
    #[prost(uint64, tag = "9")]
    offset: u64,
    #[prost(string, tag = "10")]
    decided_by: String,
    #[prost(int64, tag = "11")]
    decided_ms: i64,
    #[prost(uint64, tag = "12")]
    carried_to: u64,
    #[prost(uint64, tag = "13")]
    decided_at: u64,
    #[prost(uint32, optional, tag = "14")]
    slot: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_the_next_ones_waiting() {
        let pace = |per_second| TimerPace { batch: 1_000, per_second };
        assert_eq!(pace(0).pause(1_000), Duration::ZERO);
        assert_eq!(pace(50_000).pause(1_000), Duration::from_millis(20));
        assert_eq!(pace(1).pause(3), Duration::from_secs(3));
    }
}
