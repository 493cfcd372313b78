//! What an opened store shows.

use std::collections::{BTreeMap, BTreeSet};

use kerolox_core::lite::is_lite;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::MessageHold;
use kerolox_core::timer::TimerPhase;
use kerolox_core::transaction::TransactionPhase;
use kerolox_store::Store;

/// Queues that a topic of the simulation has at the most.
pub(crate) const QUEUES_MAX: u32 = 4;
/// The one consumer group.
pub(crate) const GROUP: u32 = 1;

/// Far more than there are lite topics.
const LITES_MAX: usize = 1_000;

/// Topic id, queue, offset.
pub(crate) type Place = (u32, u32, u64);

/// A message that can be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    pub(crate) id: String,
    /// Position of the record that made it visible; 0 where that cannot be seen.
    pub(crate) at: u64,
    /// When it became visible.
    pub(crate) ms: i64,
    /// Its record is a copy of an older one, made when the log was trimmed.
    pub(crate) is_carried: bool,
}

impl Visible {
    /// Whether its record surely lies where it was stored.
    pub(crate) fn is_in_place(&self, trimmed: u64) -> bool {
        !self.is_carried && self.at >= trimmed
    }
}

/// How a held message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Undecided, or scheduled.
    Open,
    /// Committed or delivered, with the offset and the position of the decision.
    Shown(u64, u64),
    /// Rolled back or recalled, with the position of the decision.
    Hidden(u64),
}

/// A half message or a scheduled one, by its first position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldMessage {
    pub(crate) hold: MessageHold,
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
    /// Undecided half messages and scheduled ones; in the model, decided ones as well.
    pub(crate) held: BTreeMap<u64, HeldMessage>,
    /// Queues of lite topics, by topic and name.
    pub(crate) lites: BTreeMap<(u32, String), u32>,
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
        self.held.retain(|_, held| held.topic_id != id);
        self.done.retain(|(topic, _, _)| *topic != id);
        self.lites.retain(|(topic, _), _| *topic != id);
    }

    /// Whether messages can be stored in a queue: a lite topic may be gone while its topic is there.
    pub(crate) fn has_queue(&self, topic_id: u32, queue: u32) -> bool {
        self.has_topic(topic_id)
            && (!is_lite(queue) || self.lites.iter().any(|((topic, _), q)| (*topic, *q) == (topic_id, queue)))
    }

    pub(crate) fn forget_lite(&mut self, topic_id: u32, queue: u32) {
        self.lites.retain(|(topic, _), q| (*topic, *q) != (topic_id, queue));
        self.visible.retain(|(topic, q, _), _| (*topic, *q) != (topic_id, queue));
        self.bounds.remove(&(topic_id, queue));
        self.done.retain(|(topic, q, _)| (*topic, *q) != (topic_id, queue));
    }

    /// Reads everything.
    pub(crate) fn of(store: &Store) -> Result<Self, String> {
        let mut view = Self { group: store.state().groups.get("g").is_some(), ..Self::default() };
        // Not in the head of the loop: the guard would be held for all of it, and taking another one beside it waits for a writer
        // that waits for the first.
        let topics = store.state().topics.all();
        for topic in topics {
            view.topics.insert(topic.name.clone(), (topic.id, topic.write_queues));
            for queue in 0..QUEUES_MAX {
                view.read_queue(store, topic.id, queue)?;
            }
            let lites =
                store.state().lites.page(topic.id, "", LITES_MAX).map_err(|error| error.to_string())?;
            for lite in lites {
                view.read_queue(store, topic.id, lite.queue)?;
                view.lites.insert((topic.id, lite.name), lite.queue);
            }
        }
        view.read_held(store)?;
        Ok(view)
    }

    fn read_queue(&mut self, store: &Store, topic_id: u32, queue: u32) -> Result<(), String> {
        let bounds = store.state().queues.bounds(topic_id, queue);
        self.bounds.insert((topic_id, queue), (bounds.min, bounds.next));
        let acks = store.state().acks(GROUP, topic_id, queue).map_err(|error| error.to_string())?;
        for offset in bounds.min..bounds.next {
            let place = (topic_id, queue, offset);
            let entry = store.state().entry(topic_id, queue, offset).map_err(|error| error.to_string())?;
            let entry = entry.ok_or_else(|| format!("the index has no entry for {place:?}"))?;
            let read = store.read_message(entry.position, entry.len);
            let (_, message) = read.map_err(|error| format!("{place:?}: {error}"))?;
            let (id, is_carried) = (message.header.message_id, message.header.carried.is_some());
            self.visible.insert(place, Visible { id, at: 0, ms: entry.visible_ms, is_carried });
            if acks.as_ref().is_some_and(|acks| acks.is_done(QueueOffset::new(offset))) {
                self.done.insert(place);
            }
        }
        Ok(())
    }

    fn read_held(&mut self, store: &Store) -> Result<(), String> {
        let due = store.state().transactions.due(i64::MAX - 1, None, 100_000);
        for (position, half) in due.map_err(|error| error.to_string())? {
            let place = (half.location(position), half.frame_len);
            self.hold(store, position, place, (half.topic_id, half.queue, MessageHold::Half))?;
        }
        let due = store.state().timers.due(i64::MAX - 1, None, 100_000);
        for (position, timer) in due.map_err(|error| error.to_string())? {
            let place = (timer.location(position), timer.frame_len);
            self.hold(store, position, place, (timer.topic_id, timer.queue, MessageHold::Until))?;
        }
        Ok(())
    }

    fn hold(
        &mut self,
        store: &Store,
        position: u64,
        (location, len): (u64, u32),
        (topic_id, queue, hold): (u32, u32, MessageHold),
    ) -> Result<(), String> {
        let id =
            read_id(store, location, len).map_err(|error| format!("held message of {position}: {error}"))?;
        self.held.insert(position, HeldMessage { hold, id, topic_id, queue, end: End::Open });
        Ok(())
    }
}

/// How a held message stands; `None` when the store does not know it.
pub(crate) fn end_of(store: &Store, position: u64, hold: MessageHold) -> Result<Option<End>, String> {
    if hold == MessageHold::Until {
        let timer = store.state().timers.get(position).map_err(|error| error.to_string())?;
        return Ok(timer.map(|timer| match timer.phase {
            TimerPhase::Delivered => End::Shown(timer.offset, timer.decided_at),
            TimerPhase::Recalled => End::Hidden(timer.decided_at),
            TimerPhase::Pending => End::Open,
        }));
    }
    let half = store.state().transactions.get(position).map_err(|error| error.to_string())?;
    Ok(half.map(|half| match half.phase {
        TransactionPhase::Committed => End::Shown(half.offset, half.decided_at),
        TransactionPhase::RolledBack => End::Hidden(half.decided_at),
        _ => End::Open,
    }))
}

fn read_id(store: &Store, position: u64, len: u32) -> Result<String, String> {
    let (_, message) = store.read_message(position, len).map_err(|error| error.to_string())?;
    Ok(message.header.message_id)
}
