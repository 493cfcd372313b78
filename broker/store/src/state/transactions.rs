//! Half messages: their transactions, check-backs, decisions and memory.

use std::ops::Deref;
use std::sync::Arc;

use kerolox_core::held::HeldMessage;
use kerolox_core::record::{
    CheckedHalf, DiscardRecord, MessageHeader, MessageRecord, ReleaseRecord, SnapshotRecord, TrimRecord,
};
use kerolox_core::transaction::{
    self, CheckAnswer, DecisionSource, HalfMessage, TransactionDecision, TransactionPhase,
    TransactionSettlement, UndecidedTransaction,
};
use kerolox_log::{Frame, sabotage};

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::apply::malformed;
use crate::state::held::{HeldTable, entry_of};
use crate::state::queues::QueueEntry;
use crate::state::snapshot::SnapshotLists;
use crate::state::table::{ComparedKey, QueueId, ReplayBegin, StateTable};
use crate::state::{ApplyOutcome, StateEvent, StateMachine, keys};

/// Half messages by position, undecided ones also by the time of their next check. Dereferences to the table of those
/// messages.
pub struct TransactionTable {
    halves: HeldTable<HalfMessage>,
    /// Positions of half messages that wait for the last one of their transaction, which comes next.
    joining: Vec<u64>,
}

impl Deref for TransactionTable {
    type Target = HeldTable<HalfMessage>;

    fn deref(&self) -> &HeldTable<HalfMessage> {
        &self.halves
    }
}

impl TransactionTable {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self { halves: HeldTable::new(kv), joining: Vec::new() }
    }

    /// Number of half messages that wait for the last one of their transaction.
    pub(super) fn joining_len(&self) -> usize {
        self.joining.len()
    }

    pub(super) fn put(&mut self, position: u64, old: Option<&HalfMessage>, new: &HalfMessage) {
        self.halves.put(position, old, new);
    }

    /// See [`HeldTable::carry`].
    pub(super) fn carry(&mut self, position: u64, to: &QueueEntry) -> Result<Option<u64>, StoreError> {
        self.halves.carry(position, to)
    }

    /// Stores a half message that waits for the last one of its transaction.
    fn join(&mut self, position: u64, half: &HalfMessage) {
        assert!(half.joins, "a joining half message is marked so");
        assert!(
            self.joining.last().is_none_or(|last| *last < position),
            "joining half messages lie in order"
        );
        self.halves.put(position, None, half);
        self.joining.push(position);
    }

    /// Stores the last half message of a transaction, which decides for those that joined.
    fn lead(&mut self, position: u64, half: HalfMessage) -> Result<(), StoreError> {
        let half = HalfMessage { members: std::mem::take(&mut self.joining), ..half };
        for member in &half.members {
            let Some(old) = self.halves.get(*member)? else { continue };
            self.halves.put(*member, Some(&old), &HalfMessage { leader: position, ..old.clone() });
        }
        self.halves.put(position, None, &half);
        Ok(())
    }

    /// Drops joining half messages whose last one never came: a crash took it, and no sender was told that they are stored.
    pub(super) fn drop_joining(&mut self) -> Result<(), StoreError> {
        for position in std::mem::take(&mut self.joining) {
            if let Some(half) = self.halves.get(position)?.filter(HalfMessage::is_undecided) {
                self.halves.remove(position, &half);
            }
        }
        Ok(())
    }
}

impl StateTable for TransactionTable {
    fn families(&self) -> &'static [KeyFamily] {
        self.halves.families()
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let joining = self.halves.kv().get(KeyFamily::State, keys::JOINING)?.unwrap_or_default();
        let joining = joining.chunks(8).map(|position| keys::read_u64(position, "joining"));
        self.joining = joining.collect::<Result<_, _>>()?;
        self.halves.load()
    }

    fn write_snapshot(&self, lists: &mut SnapshotLists) -> Result<(), StoreError> {
        // The last one of a transaction would have been stored next to these.
        self.halves.write_open(lists, |position| self.joining.contains(&position))
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        self.halves.apply_snapshot(part)
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        self.halves.changes(ops);
        let joining: Vec<u8> = self.joining.iter().flat_map(|position| position.to_be_bytes()).collect();
        ops.push(keys::put_state(keys::JOINING, &joining));
    }

    fn flushed(&mut self) {
        self.halves.flushed();
    }

    fn pending_len(&self) -> usize {
        self.halves.pending_len()
    }

    fn drop_topic(&mut self, topic_id: u32, group_ids: &[u32]) -> Result<(), StoreError> {
        self.halves.drop_topic(topic_id, group_ids)
    }

    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        self.halves.trim(trim)
    }

    fn differs_before(&self, begin: ReplayBegin, key: &ComparedKey<'_>) -> Result<bool, StoreError> {
        self.halves.differs_before(begin, key)
    }

    fn shift(&mut self, queue: QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        self.halves.shift(queue, from, by)
    }
}

/// A decision about a half message.
#[derive(Clone)]
pub(super) struct Settling {
    pub(super) held: u64,
    pub(super) decision: TransactionDecision,
    pub(super) by: String,
    pub(super) source: i32,
    pub(super) reason: String,
}

impl Settling {
    pub(super) fn source(&self) -> DecisionSource {
        DecisionSource::try_from(self.source).unwrap_or(DecisionSource::Producer)
    }
}

impl From<ReleaseRecord> for Settling {
    fn from(record: ReleaseRecord) -> Self {
        let ReleaseRecord { held, by, source, reason } = record;
        Self { held, decision: TransactionDecision::Commit, by, source, reason }
    }
}

impl From<DiscardRecord> for Settling {
    fn from(record: DiscardRecord) -> Self {
        let DiscardRecord { held, by, source, reason } = record;
        Self { held, decision: TransactionDecision::Rollback, by, source, reason }
    }
}

impl StateMachine {
    /// Stores a half message that waits for its decision, or for the last one of its transaction.
    pub(super) fn hold_half(
        &mut self,
        frame: &Frame,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let header = MessageRecord::decode(frame.body.clone()).map_err(malformed(frame))?.header;
        let half = HalfMessage {
            next_check_ms: frame.store_ms.saturating_add(header.hold_ms),
            deliver_at_ms: header.deliver_at_ms,
            joins: header.joins,
            message: held_message(frame, header),
            ..HalfMessage::default()
        };
        if half.joins {
            self.transactions.join(frame.position, &half);
        } else {
            events.push(StateEvent::HalfDue { due_ms: half.next_check_ms });
            self.transactions.lead(frame.position, half)?;
        }
        Ok(ApplyOutcome::Held)
    }

    /// The first decision about a half message wins, and holds for all messages of its transaction.
    pub(super) fn settle(
        &mut self,
        frame: &Frame,
        settling: &Settling,
        events: &mut Vec<StateEvent>,
    ) -> Result<ApplyOutcome, StoreError> {
        let Some(half) = self.transactions.get(settling.held)? else {
            self.uncertainty.note_decision(settling.held, None, &self.queues);
            return Ok(ApplyOutcome::NoSuchHalf);
        };
        if half.leader != 0 {
            return self.settle(frame, &Settling { held: half.leader, ..settling.clone() }, events);
        }
        let outcome = match transaction::settle(half.phase, settling.decision) {
            TransactionSettlement::Repeats => ApplyOutcome::Repeated,
            TransactionSettlement::Contradicts if !sabotage::is("last-decision-wins") => {
                ApplyOutcome::Contradicted
            }
            _ if self.is_topic_gone(half.topic_id) => ApplyOutcome::TopicGone,
            _ => {
                for position in &half.members {
                    if let Some(member) = self.transactions.get(*position)?.filter(HalfMessage::is_undecided)
                    {
                        self.decide(frame, settling, *position, &member, events);
                    }
                }
                self.decide(frame, settling, settling.held, &half, events)
            }
        };
        self.audit.note_settled(&self.head.broker, frame, settling, &half, &outcome);
        Ok(outcome)
    }

    fn decide(
        &mut self,
        frame: &Frame,
        settling: &Settling,
        position: u64,
        half: &HalfMessage,
        events: &mut Vec<StateEvent>,
    ) -> ApplyOutcome {
        assert!(
            half.is_undecided() || sabotage::is("last-decision-wins"),
            "the first decision about a half message stays"
        );
        assert!(position < frame.position, "a decision lies behind its half message");
        let mut decided = half.clone();
        decided.message.decided_by.clone_from(&settling.by);
        decided.message.decided_ms = frame.store_ms;
        decided.message.decided_at = frame.position;
        decided.decided_source = settling.source();
        decided.decided_reason.clone_from(&settling.reason);
        let outcome = match settling.decision {
            TransactionDecision::Commit if half.deliver_at_ms != 0 => {
                decided.phase = TransactionPhase::Scheduled;
                self.schedule_half(position, half, events)
            }
            TransactionDecision::Commit => {
                let queue = self.place(half.topic_id, half.slot, half.queue);
                let entry = entry_of(half, position, frame.store_ms);
                let offset = self.make_visible(half.topic_id, queue, entry, events);
                decided.phase = TransactionPhase::Committed;
                (decided.message.queue, decided.message.offset) = (queue, offset);
                ApplyOutcome::Visible { queue, offset }
            }
            TransactionDecision::Rollback => {
                decided.phase = TransactionPhase::RolledBack;
                ApplyOutcome::Discarded
            }
        };
        if !half.joins && matches!(settling.source(), DecisionSource::Check | DecisionSource::Webhook) {
            let answer = match settling.decision {
                TransactionDecision::Commit => CheckAnswer::Commit,
                TransactionDecision::Rollback => CheckAnswer::Rollback,
            };
            decided.note_answer(frame.store_ms, &settling.by, answer);
        }
        self.transactions.put(position, Some(half), &decided);
        let queue = (half.topic_id, decided.queue);
        self.uncertainty.note_decision(position, Some(queue), &self.queues);
        outcome
    }

    /// Applies a check-back: a half message was checked with a producer, is parked, or is to be checked at an
    /// administrator's request.
    pub(super) fn apply_checked(
        &mut self,
        frame: &Frame,
        checked: &CheckedHalf,
        events: &mut Vec<StateEvent>,
    ) -> Result<(), StoreError> {
        let Some(half) = self.transactions.get(checked.held)?.filter(HalfMessage::is_undecided) else {
            return Ok(());
        };
        let mut new = HalfMessage { checks: checked.checks, ..half.clone() };
        if !checked.asked.is_empty() {
            new.note_check(frame.store_ms, &checked.asked);
        }
        match checked.next_check_ms {
            Some(due_ms) => {
                new.phase = TransactionPhase::Prepared;
                new.next_check_ms = due_ms;
                events.push(StateEvent::HalfDue { due_ms });
            }
            None => new.phase = TransactionPhase::Parked,
        }
        self.transactions.put(checked.held, Some(&half), &new);
        self.audit.note_recheck(&self.head.broker, frame, checked, &half);
        Ok(())
    }

    /// Records that a producer that was asked does not know either.
    pub(super) fn apply_undecided(
        &mut self,
        frame: &Frame,
        said: &UndecidedTransaction,
    ) -> Result<(), StoreError> {
        let Some(half) = self.transactions.get(said.held)?.filter(HalfMessage::is_undecided) else {
            return Ok(());
        };
        let mut new = half.clone();
        new.note_answer(frame.store_ms, &said.by, CheckAnswer::Unknown);
        self.transactions.put(said.held, Some(&half), &new);
        Ok(())
    }
}

/// The entry of a held message when its record is applied.
pub(super) fn held_message(frame: &Frame, header: MessageHeader) -> HeldMessage {
    HeldMessage {
        topic_id: header.topic_id,
        queue: header.queue,
        frame_len: frame.len,
        tag_hash: header.tag_hash,
        message_id_crc: crc32c::crc32c(header.message_id.as_bytes()),
        stored_ms: frame.store_ms,
        slot: header.slot,
        ..HeldMessage::default()
    }
}
