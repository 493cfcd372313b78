//! A half message settles once; acknowledged decisions stand, and agree with the visible messages.

use kerolox_core::transaction::{TransactionDecision, TransactionPhase};
use kerolox_store::{ApplyOutcome, Store};

use super::View;
use crate::history::{History, KnownHalf};

/// The answer to a decision.
pub(crate) fn settled(
    half: &mut KnownHalf,
    decision: TransactionDecision,
    outcome: &ApplyOutcome,
    may_be_forgotten: bool,
) -> Result<(), String> {
    let stands = match outcome {
        ApplyOutcome::Visible { .. } | ApplyOutcome::Discarded | ApplyOutcome::Repeated => decision,
        ApplyOutcome::Contradicted if half.asked.iter().any(|asked| *asked != decision) => match decision {
            TransactionDecision::Commit => TransactionDecision::Rollback,
            TransactionDecision::Rollback => TransactionDecision::Commit,
        },
        ApplyOutcome::NoSuchHalf if may_be_forgotten => return Ok(()),
        other => {
            return Err(format!("half message {}: {decision:?} was answered with {other:?}", half.id));
        }
    };
    if let ApplyOutcome::Visible { queue, offset } = outcome {
        half.place = Some((*queue, *offset));
    }
    match half.stands.replace(stands) {
        Some(before) if before != stands => {
            Err(format!("half message {}: {before:?} stood, and then {stands:?}", half.id))
        }
        _ => Ok(()),
    }
}

/// At the end.
pub(crate) fn check(history: &History, store: &Store, view: &View) -> Result<(), String> {
    let is_trimmed = view.bounds.iter().any(|(min, _)| *min > 0);
    for (position, half) in &history.halves {
        let is_shown = view.shown.iter().any(|shown| shown.id == half.id);
        match half.stands {
            Some(TransactionDecision::Rollback) if is_shown => {
                return Err(format!("half message {} was rolled back, and is visible", half.id));
            }
            Some(TransactionDecision::Commit) if !is_shown && !is_trimmed => {
                return Err(format!("half message {} was committed, and is not visible", half.id));
            }
            None if half.asked.is_empty() && is_shown => {
                return Err(format!("half message {} is visible, and was never committed", half.id));
            }
            _ => {}
        }
        let known = store.state().transactions.get(*position).map_err(|error| error.to_string())?;
        let phase = known.map(|known| known.phase);
        let agrees = match (half.stands, phase) {
            (Some(TransactionDecision::Commit), Some(phase)) => phase == TransactionPhase::Committed,
            (Some(TransactionDecision::Rollback), Some(phase)) => phase == TransactionPhase::RolledBack,
            // Forgotten with the segment that it was decided in.
            (Some(_), None) => is_trimmed || store.log_start() > 0,
            (None, Some(_)) => true,
            (None, None) => !half.asked.is_empty() && store.log_start() > 0,
        };
        if !agrees {
            return Err(format!(
                "half message {}: told {:?}, the index says {phase:?}",
                half.id, half.stands
            ));
        }
    }
    Ok(())
}
