//! No acknowledged message is lost: it is at its offset, with its bytes.

use super::View;
use crate::history::{History, content};

pub(crate) fn check(history: &History, view: &View) -> Result<(), String> {
    for ((queue, offset), told) in history.told.iter().filter(|(_, told)| told.is_acked) {
        if view.is_trimmed(*queue, *offset) {
            continue;
        }
        match view.at(*queue, *offset) {
            Some(shown) if shown.id == told.id => {}
            other => {
                let instead = other.map(|shown| &shown.id);
                return Err(format!(
                    "acknowledged message {} is lost: queue {queue}, offset {offset} holds {instead:?}",
                    told.id
                ));
            }
        }
    }
    for shown in &view.shown {
        if let Some(proposed) = history.proposed.get(&shown.id)
            && shown.content != content(&shown.id, proposed.len)
        {
            return Err(format!("message {} has other bytes than it was sent with", shown.id));
        }
    }
    for id in &history.scheduled {
        let is_there = view.shown.iter().any(|shown| shown.id == *id);
        if !is_there && view.bounds.iter().all(|(min, _)| *min == 0) {
            return Err(format!("scheduled message {id} was acknowledged, and never became visible"));
        }
    }
    Ok(())
}
