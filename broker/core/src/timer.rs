//! Scheduled messages: held until their delivery time, unless somebody decides otherwise before.
//!
//! A timer is the position of one message record and its due time. The broker says when timers fire, the fold notes what
//! became of each of them: the first decision about a timer wins, so that a message is delivered once or recalled.

use prost::Message;

/// Where a scheduled message stands.
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
    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "scheduled",
            Self::Delivered => "delivered",
            Self::Recalled => "recalled",
        }
    }
}

/// A scheduled message as the index holds it; field numbers are part of the index format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Timer {
    /// Topic of the message.
    #[prost(uint32, tag = "1")]
    pub topic_id: u32,
    /// Queue in which it becomes visible; that of a message with a message group is found when it does.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Length of its record's frame, in bytes.
    #[prost(uint32, tag = "3")]
    pub frame_len: u32,
    /// See `MessageHeader::tag_hash`.
    #[prost(uint32, tag = "4")]
    pub tag_hash: u32,
    /// CRC-32C of the message id, to recognise the recall handle.
    #[prost(uint32, tag = "5")]
    pub message_id_crc: u32,
    /// When the message was stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "6")]
    pub stored_ms: i64,
    /// Its delivery time, milliseconds since the Unix epoch.
    #[prost(int64, tag = "7")]
    pub due_ms: i64,
    /// Where it stands.
    #[prost(enumeration = "TimerPhase", tag = "8")]
    pub phase: i32,
    /// Offset at which a delivered message became visible.
    #[prost(uint64, tag = "9")]
    pub offset: u64,
    /// Who decided: a client id or `admin`; empty when the time came, and while it is pending.
    #[prost(string, tag = "10")]
    pub decided_by: String,
    /// When it was decided, milliseconds since the Unix epoch; 0 while it is pending.
    #[prost(int64, tag = "11")]
    pub decided_ms: i64,
    /// Where the record lies now, when it was carried forward; 0 while it lies where it was first stored.
    #[prost(uint64, tag = "12")]
    pub carried_to: u64,
    /// Position of the record that decided; 0 while it is pending.
    #[prost(uint64, tag = "13")]
    pub decided_at: u64,
    /// See `MessageHeader::slot`.
    #[prost(uint32, optional, tag = "14")]
    pub slot: Option<u32>,
}

impl Timer {
    /// Where the record of the message lies that was first stored at `position`.
    pub fn location(&self, position: u64) -> u64 {
        if self.carried_to == 0 { position } else { self.carried_to }
    }

    /// Whether nobody decided about it.
    pub fn is_pending(&self) -> bool {
        self.phase() == TimerPhase::Pending
    }
}
