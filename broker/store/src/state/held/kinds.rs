//! The kinds of messages that are held back: half messages and scheduled ones.

use std::ops::Deref;

use kerolox_core::held::HeldMessage;
use kerolox_core::record::{HeldState, SnapshotRecord};
use kerolox_core::timer::{ScheduledMessage, TimerPhase};
use kerolox_core::transaction::{HalfMessage, TransactionPhase};
use prost::DecodeError;

use crate::kv::KeyFamily;
use crate::state::snapshot::tag;

/// Due time of undecided half messages that are never due: parked ones, and those that another one decides.
pub(super) const NEVER_MS: i64 = i64::MAX;

/// A kind of message that is held back.
pub trait HeldKind: Deref<Target = HeldMessage> + Clone + Send + Sync {
    /// Family with all messages of the kind, by position.
    const FAMILY: KeyFamily;
    /// Family with the open ones, by due time and position.
    const DUE: KeyFamily;
    /// Both families.
    const FAMILIES: &'static [KeyFamily];
    /// Name for errors.
    const NAME: &'static str;
    /// Field of the list in a snapshot.
    const TAG: u32;

    /// Stored form.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] when `bytes` are not a stored form.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// Takes the list out of a snapshot.
    fn take(part: &mut SnapshotRecord) -> Vec<HeldState>;

    /// The common part.
    fn message_mut(&mut self) -> &mut HeldMessage;

    /// Whether it waits for a decision.
    fn is_open(&self) -> bool;

    /// When its next action is due, while it is open.
    fn due_ms(&self) -> i64;

    /// Whether it was decided to be visible: then it has an offset.
    fn is_visible(&self) -> bool;

    /// Whether it counts as open; messages of one transaction count once.
    fn is_counted(&self) -> bool {
        true
    }
}

impl HeldKind for HalfMessage {
    const FAMILY: KeyFamily = KeyFamily::Halves;
    const DUE: KeyFamily = KeyFamily::HalfDue;
    const FAMILIES: &'static [KeyFamily] = &[Self::FAMILY, Self::DUE];
    const NAME: &'static str = "half message";
    const TAG: u32 = tag::HALVES;

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }

    fn take(part: &mut SnapshotRecord) -> Vec<HeldState> {
        std::mem::take(&mut part.halves)
    }

    fn message_mut(&mut self) -> &mut HeldMessage {
        &mut self.message
    }

    fn is_open(&self) -> bool {
        self.is_undecided()
    }

    fn due_ms(&self) -> i64 {
        if self.phase == TransactionPhase::Parked || self.joins { NEVER_MS } else { self.next_check_ms }
    }

    fn is_visible(&self) -> bool {
        self.phase == TransactionPhase::Committed
    }

    fn is_counted(&self) -> bool {
        !self.joins
    }
}

impl HeldKind for ScheduledMessage {
    const FAMILY: KeyFamily = KeyFamily::Timers;
    const DUE: KeyFamily = KeyFamily::TimerDue;
    const FAMILIES: &'static [KeyFamily] = &[Self::FAMILY, Self::DUE];
    const NAME: &'static str = "scheduled message";
    const TAG: u32 = tag::TIMERS;

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }

    fn take(part: &mut SnapshotRecord) -> Vec<HeldState> {
        std::mem::take(&mut part.timers)
    }

    fn message_mut(&mut self) -> &mut HeldMessage {
        &mut self.message
    }

    fn is_open(&self) -> bool {
        self.is_pending()
    }

    fn due_ms(&self) -> i64 {
        self.due_ms
    }

    fn is_visible(&self) -> bool {
        self.phase == TimerPhase::Delivered
    }
}
