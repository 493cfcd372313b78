//! Messages of a message group stand in one queue, in the order in which they were sent. A producer sends one when it
//! was told what became of the one before, or gave that up.

use std::collections::BTreeMap;

use super::View;
use crate::history::History;

pub(crate) fn check(history: &History, view: &View) -> Result<(), String> {
    let mut newest: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    for shown in &view.shown {
        let Some((lane, number)) =
            history.proposed.get(&shown.id).and_then(|proposed| proposed.lane.as_ref())
        else {
            continue;
        };
        if let Some((queue, before)) = newest.insert(lane, (shown.queue, *number))
            && (queue != shown.queue || before > *number)
        {
            return Err(format!(
                "message group {lane}: number {number} in queue {} comes behind {before} in queue {queue}",
                shown.queue
            ));
        }
    }
    Ok(())
}
