//! What happens to half messages: they are checked back, decided, and remembered.

use kerolox_core::record::{Checked, DiscardRecord, ReleaseRecord};
use kerolox_core::transaction::{self, Answer, Decision, Half, Phase, Settlement, Source, Undecided};
use kerolox_log::{Frame, sabotage};
use prost::Message as _;

use crate::error::StoreError;
use crate::kv::{Family, Pair};
use crate::state::held::Held as _;
use crate::state::{Event, Outcome, StateMachine, keys};

/// Somebody decides about a half message.
#[derive(Clone)]
pub(super) struct Settling {
    pub(super) held: u64,
    pub(super) decision: Decision,
    pub(super) by: String,
    pub(super) source: i32,
    pub(super) reason: String,
}

impl Settling {
    pub(super) fn source(&self) -> Source {
        Source::try_from(self.source).unwrap_or(Source::Producer)
    }
}

impl From<ReleaseRecord> for Settling {
    fn from(record: ReleaseRecord) -> Self {
        let ReleaseRecord { held, by, source, reason } = record;
        Self { held, decision: Decision::Commit, by, source, reason }
    }
}

impl From<DiscardRecord> for Settling {
    fn from(record: DiscardRecord) -> Self {
        let DiscardRecord { held, by, source, reason } = record;
        Self { held, decision: Decision::Rollback, by, source, reason }
    }
}

impl StateMachine {
    /// Up to `limit` half messages that were stored at or after a log position, decided or not, in the order of the log.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn halves_from(&self, from: u64, limit: usize) -> Result<Vec<(u64, Half)>, StoreError> {
        let pairs = self.overlay.scan(Family::Halves, &keys::held(from), limit)?;
        let read = |(key, value): Pair| {
            let half = Half::decode(&*value).map_err(|_| StoreError::Index("half message".into()))?;
            Ok((keys::parse_held(&key)?, half))
        };
        pairs.into_iter().map(read).collect()
    }

    /// The first decision about a half message wins, and holds for all messages of its transaction.
    pub(super) fn settle(
        &mut self,
        frame: &Frame,
        settling: &Settling,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        let Some(half) = self.half(settling.held)? else {
            self.note_decision(settling.held, None);
            return Ok(Outcome::NoSuchHalf);
        };
        if half.leader != 0 {
            return self.settle(frame, &Settling { held: half.leader, ..settling.clone() }, events);
        }
        let outcome = match transaction::settle(half.phase(), settling.decision) {
            Settlement::Repeats => Outcome::Repeated,
            Settlement::Contradicts if !sabotage::is("last-decision-wins") => Outcome::Contradicted,
            _ if self.is_topic_gone(half.topic_id) => Outcome::TopicGone,
            _ => {
                for position in &half.members {
                    if let Some(member) = self.half(*position)?.filter(Half::is_undecided) {
                        self.decide(frame, settling, *position, &member, events);
                    }
                }
                self.decide(frame, settling, settling.held, &half, events)
            }
        };
        self.audit_settled(frame, settling, &half, &outcome);
        Ok(outcome)
    }

    fn decide(
        &mut self,
        frame: &Frame,
        settling: &Settling,
        position: u64,
        half: &Half,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let mut decided = Half {
            decided_by: settling.by.clone(),
            decided_ms: frame.store_ms,
            decided_at: frame.position,
            decided_source: settling.source,
            decided_reason: settling.reason.clone(),
            ..half.clone()
        };
        let outcome = match settling.decision {
            Decision::Commit if half.deliver_at_ms != 0 => {
                decided.set_phase(Phase::Scheduled);
                self.schedule_half(position, half, events)
            }
            Decision::Commit => {
                let entry = half.entry(position, frame.store_ms);
                decided.queue = self.place(half.topic_id, half.slot, half.queue);
                let outcome = self.make_visible(half.topic_id, decided.queue, entry, events);
                decided.set_phase(Phase::Committed);
                decided.offset = self.queue_bounds(half.topic_id, decided.queue).next - 1;
                outcome
            }
            Decision::Rollback => {
                decided.set_phase(Phase::RolledBack);
                Outcome::Discarded
            }
        };
        if !half.joins && matches!(settling.source(), Source::Check | Source::Webhook) {
            let answer = match settling.decision {
                Decision::Commit => Answer::Commit,
                Decision::Rollback => Answer::Rollback,
            };
            decided.note_answer(frame.store_ms, &settling.by, answer);
        }
        self.put_held(position, Some(half), &decided);
        self.note_decision(position, Some((half.topic_id, decided.queue)));
        outcome
    }

    /// A half message was put to a producer, is parked, or is to be checked back because somebody says so.
    pub(super) fn apply_checked(
        &mut self,
        frame: &Frame,
        checked: &Checked,
        events: &mut Vec<Event>,
    ) -> Result<(), StoreError> {
        let Some(half) = self.half(checked.held)?.filter(Half::is_undecided) else { return Ok(()) };
        let mut new = Half { checks: checked.checks, ..half.clone() };
        if !checked.asked.is_empty() {
            new.note_check(frame.store_ms, &checked.asked);
        }
        match checked.next_check_ms {
            Some(due_ms) => {
                new.set_phase(Phase::Prepared);
                new.next_check_ms = due_ms;
                events.push(Event::HalfDue { due_ms });
            }
            None => new.set_phase(Phase::Parked),
        }
        self.put_held(checked.held, Some(&half), &new);
        self.audit_recheck(frame, checked, &half);
        Ok(())
    }

    /// A producer that was asked does not know either.
    pub(super) fn apply_undecided(&mut self, frame: &Frame, said: &Undecided) -> Result<(), StoreError> {
        let Some(half) = self.half(said.held)?.filter(Half::is_undecided) else { return Ok(()) };
        let mut new = half.clone();
        new.note_answer(frame.store_ms, &said.by, Answer::Unknown);
        self.put_held(said.held, Some(&half), &new);
        Ok(())
    }
}
