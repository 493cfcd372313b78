//! A message that a consumer saw stays in its place, and no message is there that was never sent.

use super::View;
use crate::history::History;

pub(crate) fn check(history: &History, view: &View) -> Result<(), String> {
    for ((queue, offset), told) in &history.told {
        let is_there = view.at(*queue, *offset).is_some_and(|shown| shown.id == told.id);
        if !is_there && !view.is_trimmed(*queue, *offset) {
            return Err(format!("{} was seen at queue {queue}, offset {offset}, and is not there", told.id));
        }
    }
    match view.shown.iter().find(|shown| !history.proposed.contains_key(&shown.id)) {
        Some(shown) => Err(format!("{} is there, and was never sent", shown.id)),
        None => Ok(()),
    }
}
