//! Messages that are held back: half messages until their transaction ends, scheduled messages until their delivery time.

/// The state machine's entry for a message that is held back, for whatever reason. Its identity is the log position at
/// which its record was first stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldMessage {
    /// Topic of the message.
    pub topic_id: u32,
    /// Queue in which it becomes visible; for a message with a message group, the queue is found at that moment.
    pub queue: u32,
    /// Length of its record's frame, in bytes.
    pub frame_len: u32,
    /// See `MessageHeader::tag_hash`.
    pub tag_hash: u32,
    /// CRC-32C of the message id, to recognise the transaction id or the recall handle.
    pub message_id_crc: u32,
    /// When it was stored, milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// See `MessageHeader::slot`.
    pub slot: Option<u32>,
    /// Position of the record after it was carried forward; 0 while it lies where it was first stored.
    pub carried_to: u64,
    /// Offset at which it became visible.
    pub offset: u64,
    /// Who decided: a client id or `admin`; empty while it is undecided, and when its delivery time came.
    pub decided_by: String,
    /// When it was decided, milliseconds since the Unix epoch; 0 while it is undecided.
    pub decided_ms: i64,
    /// Position of the record that decided; 0 while it is undecided.
    pub decided_at: u64,
}

impl HeldMessage {
    /// Current position of the record that was first stored at `position`.
    pub fn location(&self, position: u64) -> u64 {
        if self.carried_to == 0 { position } else { self.carried_to }
    }
}
