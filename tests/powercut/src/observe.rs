//! What an opened store shows.

use std::collections::{BTreeMap, BTreeSet};

use kerolox_core::transaction::Phase;
use kerolox_store::Store;

/// Queues that a topic of the simulation has at the most.
pub(crate) const QUEUES_MAX: u32 = 4;
/// The one consumer group.
pub(crate) const GROUP: u32 = 1;

/// Topic id, queue, offset.
pub(crate) type Place = (u32, u32, u64);

/// A message that can be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    pub(crate) id: String,
    /// Position of the record that made it visible; 0 where that cannot be seen.
    pub(crate) at: u64,
}

/// How a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Undecided,
    /// With the offset and the position of the decision.
    Committed(u64, u64),
    /// With the position of the decision.
    RolledBack(u64),
}

/// A half message by its first position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HalfMessage {
    pub(crate) id: String,
    pub(crate) topic_id: u32,
    pub(crate) queue: u32,
    pub(crate) end: End,
}

/// Everything that the simulation looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Id and number of queues by name.
    pub(crate) topics: BTreeMap<String, (u32, u32)>,
    /// Whether there is a consumer group.
    pub(crate) group: bool,
    pub(crate) visible: BTreeMap<Place, Visible>,
    /// Smallest and next offset of a queue.
    pub(crate) bounds: BTreeMap<(u32, u32), (u64, u64)>,
    /// Undecided half messages; in the model, decided ones as well.
    pub(crate) halves: BTreeMap<u64, HalfMessage>,
    /// Offsets that the consumer group has finished, expired ones left out.
    pub(crate) done: BTreeSet<Place>,
}

impl View {
    pub(crate) fn has_topic(&self, id: u32) -> bool {
        self.topics.values().any(|(known, _)| *known == id)
    }

    pub(crate) fn forget_topic(&mut self, id: u32) {
        self.topics.retain(|_, (known, _)| *known != id);
        self.visible.retain(|(topic, _, _), _| *topic != id);
        self.bounds.retain(|(topic, _), _| *topic != id);
        self.halves.retain(|_, half| half.topic_id != id);
        self.done.retain(|(topic, _, _)| *topic != id);
    }

    /// Reads everything.
    pub(crate) fn of(store: &Store) -> Result<Self, String> {
        let mut view = Self { group: store.index().group("g").is_some(), ..Self::default() };
        for topic in store.index().topics() {
            view.topics.insert(topic.name.clone(), (topic.id, topic.write_queues));
            for queue in 0..QUEUES_MAX {
                view.read_queue(store, topic.id, queue)?;
            }
        }
        view.read_halves(store)?;
        Ok(view)
    }

    fn read_queue(&mut self, store: &Store, topic_id: u32, queue: u32) -> Result<(), String> {
        let bounds = store.index().queue_bounds(topic_id, queue);
        self.bounds.insert((topic_id, queue), (bounds.min, bounds.next));
        let acks = store.index().acks(GROUP, topic_id, queue).map_err(|error| error.to_string())?;
        for offset in bounds.min..bounds.next {
            let place = (topic_id, queue, offset);
            let entry = store.index().entry(topic_id, queue, offset).map_err(|error| error.to_string())?;
            let entry = entry.ok_or_else(|| format!("the index has no entry for {place:?}"))?;
            let id =
                read_id(store, entry.position, entry.len).map_err(|error| format!("{place:?}: {error}"))?;
            self.visible.insert(place, Visible { id, at: 0 });
            if acks.as_ref().is_some_and(|acks| acks.is_done(offset)) {
                self.done.insert(place);
            }
        }
        Ok(())
    }

    fn read_halves(&mut self, store: &Store) -> Result<(), String> {
        let due = store.index().due_halves(i64::MAX - 1, None, 100_000);
        for (position, half) in due.map_err(|error| error.to_string())? {
            let id = read_id(store, half.location(position), half.frame_len)
                .map_err(|error| format!("half message of {position}: {error}"))?;
            let message = HalfMessage { id, topic_id: half.topic_id, queue: half.queue, end: End::Undecided };
            self.halves.insert(position, message);
        }
        Ok(())
    }
}

/// How the transaction of a half message stands; `None` when the store does not know it.
pub(crate) fn end_of(store: &Store, position: u64) -> Result<Option<End>, String> {
    let half = store.index().half(position).map_err(|error| error.to_string())?;
    Ok(half.map(|half| match half.phase() {
        Phase::Committed => End::Committed(half.offset, half.decided_at),
        Phase::RolledBack => End::RolledBack(half.decided_at),
        _ => End::Undecided,
    }))
}

fn read_id(store: &Store, position: u64, len: u32) -> Result<String, String> {
    let (_, message) = store.read_message(position, len).map_err(|error| error.to_string())?;
    Ok(message.header.message_id)
}
