//! From damage to certainty: passing the damage, and applying the snapshot behind it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use kerolox_core::lite::is_lite;
use kerolox_core::record::{LiteTopic, QueueState, SnapshotRecord};
use kerolox_core::topic::{MessageType, PERM_READ, Topic};
use kerolox_log::DamagedRange;

use super::{DamageUncertainty, QueueRepair, Uncertain};
use crate::error::StoreError;
use crate::state::queues::QueueEntry;
use crate::state::snapshot::Loading;
use crate::state::table::QueueId;
use crate::state::{StateMachine, keys};

impl DamageUncertainty {
    fn note_repair(&mut self, repair: QueueRepair) {
        if repair.lost.unwrap_or(0) > 0 || repair.again > 0 {
            self.repairs.push(repair);
        }
    }
}

impl StateMachine {
    /// Passes an unreadable part of the log; the next record to be applied lies behind it.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn pass_damage(&mut self, range: &DamagedRange) -> Result<(), StoreError> {
        if !range.hides_records() {
            return Ok(());
        }
        let is_from_nothing = std::mem::replace(&mut self.loading, Loading::Never) != Loading::Never;
        let place = (range.position, range.until);
        let nexts = self.queues.nexts();
        let (next_topic, next_lite) = (self.topics.next_id(), self.lites.next_queue());
        if let Some(uncertain) = &mut self.uncertainty.since_damage {
            uncertain.damaged.push(place);
            if std::mem::take(&mut uncertain.has_snapshot) {
                uncertain.is_from_nothing = false;
                uncertain.first.clone_from(&nexts);
                (uncertain.next_topic, uncertain.next_lite) = (next_topic, next_lite);
                uncertain.deleted_topics.clear();
            }
            uncertain.last = nexts;
            return Ok(());
        }
        // A state that stops in between begins anew: the uncertainty is known only here.
        self.kv.write(vec![keys::put_state(keys::UNSETTLED, &range.position.to_be_bytes())])?;
        self.uncertainty.since_damage = Some(Uncertain {
            damaged: vec![place],
            first: nexts.clone(),
            last: nexts,
            next_topic: if is_from_nothing { 0 } else { next_topic },
            next_lite: if is_from_nothing { 0 } else { next_lite },
            is_from_nothing,
            ..Uncertain::default()
        });
        Ok(())
    }

    /// Prepares the snapshot that has to be written when the log ends in uncertainty: messages of unknown topics move to a
    /// topic of their own, from which they can be read.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn name_unknown_topics(&mut self) -> Result<(), StoreError> {
        let mut unknown: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (topic_id, queue) in self.queues.names() {
            if !self.topics.has(topic_id) {
                unknown.entry(topic_id).or_default().push(queue);
            }
        }
        for (id, queues) in unknown {
            self.topics.put(recovered(id, &queues));
        }
        self.name_unknown_lites()
    }

    /// Names the queues of lite topics whose creation is unknown, so that they can be read.
    fn name_unknown_lites(&mut self) -> Result<(), StoreError> {
        let known = self.lites.all()?;
        let known: HashSet<QueueId> = known.iter().map(|lite| (lite.topic_id, lite.queue)).collect();
        let unknown = self.queues.names().filter(|name| is_lite(name.1) && !known.contains(name));
        let mut unknown: Vec<QueueId> = unknown.collect();
        unknown.sort_unstable();
        for (topic_id, queue) in unknown {
            let name = format!("recovered-{queue}");
            self.lites.put(&LiteTopic { topic_id, queue, name, created_ms: self.head.store_ms });
        }
        Ok(())
    }

    /// Restores the state of the snapshot, and moves the messages behind the damage to their offsets.
    pub(in crate::state) fn settle_by(&mut self, mut snapshot: SnapshotRecord) -> Result<(), StoreError> {
        self.drop_all_but(&snapshot)?;
        let (queues, settles) = (std::mem::take(&mut snapshot.queues), snapshot.settles);
        for table in self.tables_mut() {
            table.clear()?;
            table.apply_snapshot(&mut snapshot)?;
        }
        let Some(mut uncertain) = self.uncertainty.since_damage.take() else { return Ok(()) };
        if settles {
            uncertain.open.clear();
        }
        if !std::mem::replace(&mut uncertain.has_snapshot, true) {
            for state in &queues {
                self.settle_queue(state, settles, &mut uncertain)?;
            }
        }
        for (queue, (first, end)) in &uncertain.open {
            self.progress.reopen_recent(*queue, *first, *end);
        }
        // The mark of uncertainty is removed with the next flush.
        self.uncertainty.since_damage = Some(uncertain).filter(|uncertain| !uncertain.open.is_empty());
        Ok(())
    }

    /// Forgets topics and lite topics that a snapshot does not have.
    fn drop_all_but(&mut self, snapshot: &SnapshotRecord) -> Result<(), StoreError> {
        let known: HashSet<u32> = snapshot.topics.iter().map(|topic| topic.id).collect();
        let mut gone: Vec<u32> = self.queues.names().map(|(topic_id, _)| topic_id).collect();
        gone.extend(self.topics.ids());
        gone.retain(|id| !known.contains(id));
        gone.sort_unstable();
        gone.dedup();
        for topic_id in gone {
            self.drop_topic(topic_id)?;
        }
        let known: HashSet<QueueId> = snapshot.lites.iter().map(|lite| (lite.topic_id, lite.queue)).collect();
        let mut gone: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (topic_id, queue) in self.queues.names().filter(|name| is_lite(name.1) && !known.contains(name)) {
            gone.entry(topic_id).or_default().push(queue);
        }
        for (topic_id, queues) in gone {
            self.drop_queues(topic_id, &queues)?;
        }
        Ok(())
    }

    /// Moves the messages of a queue to their offsets, and records which of them may have changed.
    fn settle_queue(
        &mut self,
        state: &QueueState,
        settles: bool,
        uncertain: &mut Uncertain,
    ) -> Result<(), StoreError> {
        let queue = (state.topic_id, state.queue);
        let offset = |of: &HashMap<QueueId, u64>| of.get(&queue).copied().unwrap_or(0);
        let (first, last) = (offset(&uncertain.first), offset(&uncertain.last));
        let before = self.queues.bounds(queue.0, queue.1);
        if uncertain.is_from_nothing && !uncertain.first.contains_key(&queue) && before.next <= state.next {
            let moved = self.queues.end_at(state)?;
            self.shift_held(queue, 0, moved)?;
            let (first, end) = (before.min + moved, last.max(before.min) + moved);
            if first < end {
                uncertain.open.insert(queue, (first, end));
            }
            self.note_repair(queue, first, None, end - first);
            return Ok(());
        }
        let lost = QueueEntry {
            position: uncertain.damaged.last().map_or(0, |(position, _)| *position),
            len: 0,
            tag_hash: 0,
            visible_ms: before.newest_ms,
        };
        let moved = self.queues.spread(state, last, lost)?;
        self.shift_held(queue, last, moved)?;
        let end = match before.next.cmp(&state.next) {
            // Their current offsets count.
            Ordering::Equal if settles => first,
            Ordering::Equal | Ordering::Less => last,
            // More messages than before: one of them was not there.
            Ordering::Greater => before.next,
        };
        if first < end {
            let open = uncertain.open.entry(queue).or_insert((first, end));
            *open = (open.0.min(first), open.1.max(end));
        }
        self.note_repair(queue, first, Some(moved), end.saturating_sub(first));
        Ok(())
    }

    /// Moves held messages along with the messages of their queue: transactions and timers remember the offsets of
    /// theirs, and duplicates are told the offset of the first one.
    fn shift_held(&mut self, queue: QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        if by == 0 {
            return Ok(());
        }
        self.tables_mut().into_iter().try_for_each(|table| table.shift(queue, from, by))
    }

    /// Call this when the log ends before a snapshot: everything behind the first damage is delivered again.
    pub fn note_open_end(&mut self) {
        let Some(uncertain) = self.uncertainty.before_snapshot() else { return };
        let first = uncertain.first.clone();
        for state in self.queues.states() {
            let queue = (state.topic_id, state.queue);
            let from = first.get(&queue).copied().unwrap_or(0);
            self.note_repair(queue, from, None, state.next.saturating_sub(from));
        }
    }

    fn note_repair(&mut self, (topic_id, queue): QueueId, from: u64, lost: Option<u64>, again: u64) {
        let topic = self
            .topics
            .look_up(topic_id)
            .map_or_else(|| format!("of number {topic_id}"), |topic| topic.name.clone());
        self.uncertainty.note_repair(QueueRepair { topic, queue, from, lost, again });
    }
}

/// A topic for messages of an unknown one; `queues` are the numbers of its queues.
fn recovered(id: u32, queues: &[u32]) -> Topic {
    let (lites, ordinary): (Vec<u32>, Vec<u32>) = queues.iter().partition(|queue| is_lite(**queue));
    let count = ordinary.iter().max().map_or(1, |last| last + 1);
    let mut topic = Topic { id, perm: PERM_READ, ..Topic::new(&format!("recovered-{id}"), count) };
    if !lites.is_empty() {
        topic.types = vec![MessageType::Lite.into()];
    }
    topic
}
