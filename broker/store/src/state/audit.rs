//! The audit trail.

use kerolox_core::audit::{AUDIT_MAX, AuditEntry, Audited};
use kerolox_core::record::Checked;
use kerolox_core::transaction::{Decision, Half, Source};
use kerolox_log::Frame;
use kerolox_model::token::TransactionId;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{Family, pairs};
use crate::state::transactions::Settling;
use crate::state::{Outcome, StateMachine, keys};

impl StateMachine {
    /// Up to `limit` entries before a log position, newest first, each with its position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn audit(&self, before: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let positions = self.audited.range(..before).rev().take(limit);
        let read = |position: &u64| {
            let stored = self.overlay.get(Family::Audit, &keys::held(*position))?;
            let entry = stored.and_then(|bytes| AuditEntry::decode(&*bytes).ok());
            entry.map(|entry| (*position, entry)).ok_or_else(|| StoreError::Index("audit entry".into()))
        };
        positions.map(read).collect()
    }

    /// Learns which entries there are.
    pub(super) fn load_audited(&mut self) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(Family::Audit, from, limit)) {
            self.audited.insert(keys::parse_held(&pair?.0)?);
        }
        Ok(())
    }

    /// All entries, oldest first, for a snapshot.
    pub(super) fn all_audited(&self) -> Result<Vec<Audited>, StoreError> {
        let mut entries = self.audit(u64::MAX, AUDIT_MAX)?;
        entries.reverse();
        Ok(entries.into_iter().map(|(position, entry)| Audited { position, entry }).collect())
    }

    /// Adds an entry, and forgets the oldest if there are too many.
    pub(super) fn put_audited(&mut self, audited: &Audited) {
        self.overlay.put(Family::Audit, keys::held(audited.position), audited.entry.encode_to_vec());
        self.audited.insert(audited.position);
        while self.audited.len() > AUDIT_MAX
            && let Some(oldest) = self.audited.pop_first()
        {
            self.overlay.delete(Family::Audit, keys::held(oldest));
        }
    }

    /// An administrator decided about a transaction.
    pub(super) fn audit_settled(
        &mut self,
        frame: &Frame,
        settling: &Settling,
        half: &Half,
        outcome: &Outcome,
    ) {
        if settling.source() != Source::Admin {
            return;
        }
        let action = match settling.decision {
            Decision::Commit => "transaction commit",
            Decision::Rollback => "transaction rollback",
        };
        let outcome = match outcome {
            Outcome::Repeated => "had been done before",
            Outcome::Contradicted => "refused: it had been decided the other way",
            Outcome::TopicGone => "refused: its topic was deleted",
            _ => "done",
        };
        let (by, reason) = (&settling.by, &settling.reason);
        self.audit_transaction(frame, settling.held, half, action, by, reason, outcome);
    }

    /// An administrator had a transaction checked back.
    pub(super) fn audit_recheck(&mut self, frame: &Frame, checked: &Checked, half: &Half) {
        if !checked.by.is_empty() {
            let (by, reason) = (&checked.by, &checked.reason);
            self.audit_transaction(frame, checked.held, half, "transaction recheck", by, reason, "done");
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one for each field of the entry")]
    fn audit_transaction(
        &mut self,
        frame: &Frame,
        held: u64,
        half: &Half,
        action: &str,
        by: &str,
        reason: &str,
        outcome: &str,
    ) {
        let id = TransactionId {
            broker: self.broker.clone(),
            position: held,
            message_id_crc: half.message_id_crc,
        };
        let entry = AuditEntry {
            at_ms: frame.store_ms,
            by: by.to_owned(),
            action: action.to_owned(),
            object: id.to_text(),
            reason: reason.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.put_audited(&Audited { position: frame.position, entry });
    }
}
