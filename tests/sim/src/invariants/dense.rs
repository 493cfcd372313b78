//! Queue offsets are dense, and a message has one place.

use std::collections::BTreeMap;

use super::View;

pub(crate) fn check(view: &View) -> Result<(), String> {
    let places: u64 = view.bounds.iter().map(|(min, next)| next - min).sum();
    if places != view.shown.len() as u64 {
        return Err(format!("{places} offsets, and {} messages", view.shown.len()));
    }
    let mut known = BTreeMap::new();
    for shown in &view.shown {
        if let Some((queue, offset)) = known.insert(&shown.id, (shown.queue, shown.offset)) {
            return Err(format!(
                "message {} is at queue {queue}, offset {offset} and at queue {}, offset {}",
                shown.id, shown.queue, shown.offset
            ));
        }
    }
    Ok(())
}
