//! The losses of consumer groups when old segments are removed early, as [`kerolox_core::early_removal`] counts them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kerolox_core::early_removal::{EarlyRemoval, LossPlace, UnreadLosses, unread};
use kerolox_core::group::Group;
use kerolox_core::topic::Topic;
use kerolox_store::{Store, StoreError};
use parking_lot::Mutex;

use crate::delivery::{DeliveryDirectory, cursors};

/// Losses of groups since the broker was started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EarlyLosses(Arc<Mutex<UnreadLosses>>);

impl EarlyLosses {
    /// Adds losses.
    pub fn note(&self, unread: &UnreadLosses) {
        self.0.lock().absorb(unread);
    }

    /// Messages lost unread at a place.
    pub fn at(&self, place: &LossPlace) -> u64 {
        self.0.lock().at(place)
    }

    /// All losses.
    pub fn all(&self) -> UnreadLosses {
        self.0.lock().clone()
    }
}

/// Undone messages of groups in the segments to be removed. Reads the index: call it where blocking is fine.
///
/// # Errors
/// [`StoreError`] when the index cannot be read.
pub(crate) fn unread_of_groups(
    store: &Store,
    deliveries: &DeliveryDirectory,
    mut going: BTreeMap<(u32, u32), EarlyRemoval>,
) -> Result<UnreadLosses, StoreError> {
    for ((topic_id, queue), going) in &mut going {
        going.from = going.from.max(store.state().queues.bounds(*topic_id, *queue).min);
    }
    let mut all = UnreadLosses::default();
    let groups = store.state().groups.all();
    for group in groups.iter().filter(|group| group.parent == 0) {
        for cursor in cursors(store, group) {
            for topic_id in deliveries.topics_of(&cursor)? {
                let Some(topic) = store.state().topics.by_id(topic_id) else { continue };
                unread_of_group(deliveries, &group.name, &cursor, &topic, &going, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn unread_of_group(
    deliveries: &DeliveryDirectory,
    group: &str,
    cursor: &Group,
    topic: &Topic,
    going: &BTreeMap<(u32, u32), EarlyRemoval>,
    all: &mut UnreadLosses,
) -> Result<(), StoreError> {
    let of_topic = going.range((topic.id, 0)..=(topic.id, u32::MAX));
    let place = |queue| LossPlace {
        group: group.to_owned(),
        member: cursor.member.clone(),
        topic: topic.name.clone(),
        queue,
    };
    if topic.has_lites() {
        for ((_, queue), going) in of_topic {
            let lag = deliveries.lite_lag(cursor, topic, *queue)?.unwrap_or(0);
            all.add(place(0), unread(*going, 0, lag));
        }
        return Ok(());
    }
    let positions = deliveries.positions(cursor, topic)?;
    for ((_, queue), going) in of_topic {
        if let Some(position) = positions.get(queue) {
            all.add(place(*queue), unread(*going, position.committed.get(), position.counts.lag));
        }
    }
    Ok(())
}
