//! Receipt handles, as far as the engine inspects them.

use super::flight::LeaseId;
use crate::queue_offset::QueueOffset;

/// Why a receipt handle has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The invisible duration ended.
    #[error(
        "the receipt handle expired; the message is or will be delivered again with a new one, so acknowledge faster or ask for a longer invisible duration"
    )]
    Expired,
    /// A later delivery or extension replaced it, or the group's offset was reset.
    #[error(
        "the receipt handle was replaced by a newer one (the message was delivered again, its invisible duration changed, or the group's offset was reset); use the newest handle"
    )]
    Superseded,
    /// It names an offset that this group was never given.
    #[error(
        "the receipt handle does not belong to a message that this group received; pass on the exact text that the server gave you"
    )]
    Unknown,
}

/// A receipt handle, reduced to the fields that the engine checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryHandle {
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: QueueOffset,
    /// Attempt that was delivered.
    pub attempt: u32,
    /// Number of the lease.
    pub lease: LeaseId,
    /// When the handle expires, as set when it was issued.
    pub visible_ms: i64,
}
