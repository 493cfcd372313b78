//! The audit trail: manual decisions of administrators.

use std::collections::BTreeSet;
use std::sync::Arc;

use kerolox_core::audit::{AUDIT_MAX, AuditEntry, AuditedEntry};
use kerolox_core::record::{CheckedHalf, SnapshotRecord};
use kerolox_core::transaction::{DecisionSource, HalfMessage, TransactionDecision};
use kerolox_log::Frame;
use kerolox_model::token::TransactionId;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::overlay::Overlay;
use crate::state::snapshot::{SnapshotLists, tag};
use crate::state::table::StateTable;
use crate::state::transactions::Settling;
use crate::state::{ApplyOutcome, keys};

/// Manual decisions of administrators, by the position of their record; the newest [`AUDIT_MAX`] of them.
pub struct AuditTable {
    overlay: Overlay,
    /// Positions of the entries.
    positions: BTreeSet<u64>,
}

impl AuditTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { overlay: Overlay::new(kv.clone()), positions: BTreeSet::new() }
    }

    /// Up to `limit` entries before a log position, newest first, each with its position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn newest(&self, before: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let positions = self.positions.range(..before).rev().take(limit);
        let read = |position: &u64| {
            let stored = self.overlay.get(KeyFamily::Audit, &keys::held(*position))?;
            let entry = stored.and_then(|bytes| AuditEntry::decode(&*bytes).ok());
            entry.map(|entry| (*position, entry)).ok_or_else(|| StoreError::Index("audit entry".into()))
        };
        positions.map(read).collect()
    }

    /// Adds an entry, and forgets the oldest if there are too many.
    fn put(&mut self, audited: &AuditedEntry) {
        self.overlay.put(KeyFamily::Audit, keys::held(audited.position), audited.entry.encode_to_vec());
        self.positions.insert(audited.position);
        while self.positions.len() > AUDIT_MAX
            && let Some(oldest) = self.positions.pop_first()
        {
            self.overlay.delete(KeyFamily::Audit, keys::held(oldest));
        }
        assert!(self.positions.len() <= AUDIT_MAX, "the audit trail is bounded");
    }

    /// Records that an administrator decided about a transaction of the broker group `broker`.
    pub(super) fn note_settled(
        &mut self,
        broker: &str,
        frame: &Frame,
        settling: &Settling,
        half: &HalfMessage,
        outcome: &ApplyOutcome,
    ) {
        if settling.source() != DecisionSource::Admin {
            return;
        }
        let action = match settling.decision {
            TransactionDecision::Commit => "transaction commit",
            TransactionDecision::Rollback => "transaction rollback",
        };
        let outcome = match outcome {
            ApplyOutcome::Repeated => "had been done before",
            ApplyOutcome::Contradicted => "refused: it had been decided the other way",
            ApplyOutcome::TopicGone => "refused: its topic was deleted",
            _ => "done",
        };
        self.note(
            frame,
            &TransactionEntry {
                id: transaction_id(broker, settling.held, half),
                action,
                by: &settling.by,
                reason: &settling.reason,
                outcome,
            },
        );
    }

    /// Records that an administrator requested a check-back of a transaction of the broker group `broker`.
    pub(super) fn note_recheck(
        &mut self,
        broker: &str,
        frame: &Frame,
        checked: &CheckedHalf,
        half: &HalfMessage,
    ) {
        if !checked.by.is_empty() {
            self.note(
                frame,
                &TransactionEntry {
                    id: transaction_id(broker, checked.held, half),
                    action: "transaction recheck",
                    by: &checked.by,
                    reason: &checked.reason,
                    outcome: "done",
                },
            );
        }
    }

    fn note(&mut self, frame: &Frame, said: &TransactionEntry<'_>) {
        let entry = AuditEntry {
            at_ms: frame.store_ms,
            by: said.by.to_owned(),
            action: said.action.to_owned(),
            object: said.id.to_text(),
            reason: said.reason.to_owned(),
            outcome: said.outcome.to_owned(),
        };
        self.put(&AuditedEntry { position: frame.position, entry });
    }
}

/// An entry about a transaction.
struct TransactionEntry<'a> {
    id: TransactionId,
    action: &'a str,
    by: &'a str,
    reason: &'a str,
    outcome: &'a str,
}

fn transaction_id(broker: &str, held: u64, half: &HalfMessage) -> TransactionId {
    TransactionId { broker: broker.to_owned(), position: held, message_id_crc: half.message_id_crc }
}

impl StateTable for AuditTable {
    fn families(&self) -> &'static [KeyFamily] {
        &[KeyFamily::Audit]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for pair in self.overlay.pairs(KeyFamily::Audit) {
            self.positions.insert(keys::parse_held(&pair?.0)?);
        }
        Ok(())
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        // Oldest first.
        for (position, entry) in self.newest(u64::MAX, AUDIT_MAX)?.into_iter().rev() {
            lists.message(tag::AUDIT, &AuditedEntry { position, entry });
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        part.audit.drain(..).for_each(|audited| self.put(&audited));
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.overlay.changes(ops);
    }

    fn flushed(&mut self) {
        self.overlay.clear();
    }

    fn pending_len(&self) -> usize {
        self.overlay.len()
    }
}
