//! Folding on behind damage, when an index is made anew or brought up to date.
//!
//! Records that cannot be read may have given offsets, ids and decisions, so what comes behind them may stand elsewhere than
//! it did. From the first damage on the index is *unsettled*, until a snapshot says how everything stood at its place:
//!
//! - What lies below the next offset that a queue had at the first damage is certain. Acknowledgements and trims of what
//!   lies above are left out: they could hit another message.
//! - Messages of topics that nobody knows are kept: the record that made the topic may be what is damaged.
//! - At the snapshot, the messages behind the last damage are moved to the offsets that they had, counted from the end; the
//!   lost ones become entries that point at the damage, as in an index that was there all the time. Acknowledgements are
//!   those of the snapshot, but for messages between two damaged places, whose offsets nobody knows: these are open.
//! - A half message whose decision may be what is damaged stays undecided, and its producer is asked again. A scheduled
//!   message stays pending, and is delivered, once more if need be; it may have been recalled.
//!
//! - If the damage hides the snapshot that the index was to begin with, queues begin with the first message that is left.
//!
//! So with one damaged place between two snapshots, everything is as it was. With more, or without a snapshot behind it,
//! messages may be delivered again, but none that can be read is lost.
//!
//! Messages whose offsets nobody knows stay open until the log ends: acknowledgements that come later in the log still mean
//! the old offsets. Then whoever brings the index up to date writes a snapshot that [settles](SnapshotRecord::settles):
//! from there on the offsets are those that the messages have now, whenever an index is made again.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;

use kerolox_core::acks::Acks;
use kerolox_core::group::Group;
use kerolox_core::lite::is_lite;
use kerolox_core::record::{GroupProgress, QueueProgress, QueueState, SnapshotRecord};
use kerolox_core::timer::Timer;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::Half;
use kerolox_log::DamagedRange;
use prost::Message;

use super::entries::Entry;
use super::held::Held;
use super::lites::recovered;
use super::snapshot::Loading;
use super::{Progress, StateMachine, keys};
use crate::error::StoreError;
use crate::kv::{Family, Op};

/// A topic and a queue of it.
type QueueId = (u32, u32);

/// What is uncertain since damage was met.
#[derive(Default)]
pub(super) struct Unsettled {
    damaged: Vec<(u64, u64)>,
    /// The damage hides what the index was to begin with: queues that are not in `first` may have had any offsets.
    is_from_nothing: bool,
    /// Whether a snapshot came since: then nothing is uncertain but `open`.
    has_snapshot: bool,
    /// Offsets whose messages are others than they were.
    open: HashMap<QueueId, (u64, u64)>,
    /// Next offsets at the first damage.
    first: HashMap<QueueId, u64>,
    /// Next offsets at the last place where messages may be missing; those behind follow each other without a gap.
    last: HashMap<QueueId, u64>,
    /// The id of the next new topic at the first damage: topics from there on may be unknown.
    next_topic: u32,
    /// The number of the next new lite topic at the first damage: those from there on may be unknown.
    next_lite: u32,
    deleted_topics: HashSet<u32>,
    /// Parts of a snapshot that is not complete yet.
    parts: Vec<SnapshotRecord>,
}

/// What damage did to a queue of an index that was made from what is left of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Name of the topic.
    pub topic: String,
    /// The queue.
    pub queue: u32,
    /// Messages below this offset are not concerned.
    pub from: u64,
    /// Messages that are lost; `None` when nobody knows, because the damage lies behind the last snapshot of the log.
    pub lost: Option<u64>,
    /// Messages that are delivered again, even if they had been acknowledged.
    pub again: u64,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}, queue {}, from offset {} on: ", self.topic, self.queue, self.from)?;
        match self.lost {
            Some(lost) => write!(f, "{lost} messages are lost")?,
            None => write!(f, "nobody knows how many messages are lost")?,
        }
        write!(f, ", {} may be delivered again", self.again)
    }
}

impl StateMachine {
    /// A part of the log could not be read, and the next record to be applied lies behind it.
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
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.damaged.push(place);
            if std::mem::take(&mut unsettled.has_snapshot) {
                unsettled.is_from_nothing = false;
                unsettled.first.clone_from(&nexts);
                unsettled.next_topic = self.meta.next_topic;
                unsettled.next_lite = self.lites.next;
                unsettled.deleted_topics.clear();
            }
            unsettled.last = nexts;
            return Ok(());
        }
        // Whoever stops in between begins anew: what is uncertain is known only here.
        self.kv.write(vec![Op::Put(
            Family::State,
            keys::UNSETTLED.to_vec(),
            range.position.to_be_bytes().to_vec(),
        )])?;
        self.unsettled = Some(Unsettled {
            damaged: vec![place],
            first: nexts.clone(),
            last: nexts,
            next_topic: if is_from_nothing { 0 } else { self.meta.next_topic },
            next_lite: if is_from_nothing { 0 } else { self.lites.next },
            is_from_nothing,
            ..Unsettled::default()
        });
        Ok(())
    }

    /// Whether damage was passed and something is uncertain since.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// Whether the record that made a lite topic may be what is missing.
    pub(super) fn may_lack_lite(&self, queue: u32) -> bool {
        self.before_snapshot().is_some_and(|unsettled| queue >= unsettled.next_lite)
    }

    /// What is uncertain as long as no snapshot came since the damage.
    fn before_snapshot(&self) -> Option<&Unsettled> {
        self.unsettled.as_ref().filter(|unsettled| !unsettled.has_snapshot)
    }

    /// What damage did to the queues so far.
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// Prepares the snapshot that has to be written when the log ends and the index is unsettled: messages of topics that
    /// nobody knows come to a topic of their own, from which they can be read.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn name_unknown_topics(&mut self) -> Result<(), StoreError> {
        let mut unknown: HashMap<u32, Vec<u32>> = HashMap::new();
        for (topic_id, queue) in self.queues.names() {
            if self.topic_by_id(topic_id).is_none() {
                unknown.entry(topic_id).or_default().push(queue);
            }
        }
        for (id, queues) in unknown {
            let topic = recovered(id, queues.into_iter());
            self.overlay.put(Family::Topics, keys::id(id), topic.encode_to_vec());
            self.meta.insert_topic(topic);
        }
        self.name_unknown_lites()
    }

    /// Whether a topic was deleted, or never was: nothing of it is to be kept.
    pub(super) fn is_topic_gone(&self, id: u32) -> bool {
        let may_be_hidden = self
            .unsettled
            .as_ref()
            .is_some_and(|unsettled| id >= unsettled.next_topic && !unsettled.deleted_topics.contains(&id));
        self.topic_by_id(id).is_none() && !may_be_hidden
    }

    /// A record names a topic, which need not be known.
    pub(super) fn note_topic(&mut self, id: u32) {
        if self.before_snapshot().is_some() {
            self.meta.next_topic = self.meta.next_topic.max(id.saturating_add(1));
        }
    }

    pub(super) fn note_deleted_topic(&mut self, id: u32) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.deleted_topics.insert(id);
        }
    }

    /// The id that a new topic gets: the next one, or the one that its proposer expected if what came before is uncertain.
    pub(super) fn new_topic_id(&self, expected: u32) -> u32 {
        let is_usable = self.before_snapshot().is_some()
            && expected != 0
            && !self.meta.topics_by_id.contains_key(&expected);
        if is_usable { expected } else { self.meta.next_topic }
    }

    /// The same for a group.
    pub(super) fn new_group_id(&self, expected: u32) -> u32 {
        let is_usable =
            self.before_snapshot().is_some() && expected != 0 && !self.meta.group_ids.contains(&expected);
        if is_usable { expected } else { self.meta.next_group }
    }

    /// The same for the queue of a lite topic.
    pub(super) fn new_lite_queue(&self, topic_id: u32, expected: u32) -> u32 {
        let is_usable =
            self.before_snapshot().is_some() && is_lite(expected) && !self.queues.has(topic_id, expected);
        if is_usable { expected } else { self.lites.next }
    }

    /// A held message is decided that is not known or was open; known ones come with their queue. If that may be wrong, so is the place of what comes
    /// before in its queue, or in all queues when nobody knows which one it is.
    pub(super) fn note_decision(&mut self, position: u64, queue: Option<QueueId>) {
        let Some(unsettled) = self.unsettled.as_mut().filter(|unsettled| !unsettled.has_snapshot) else {
            return;
        };
        match queue {
            Some(queue) if unsettled.damaged.last().is_some_and(|(_, until)| position < *until) => {
                let next = self.queues.bounds(queue.0, queue.1).next;
                unsettled.last.insert(queue, next);
            }
            None if unsettled.damaged.iter().any(|(from, until)| (*from..*until).contains(&position)) => {
                unsettled.last = self.queues.nexts();
            }
            _ => {}
        }
    }

    /// The part of a progress that concerns messages whose offsets are certain.
    pub(super) fn certain(&self, change: &QueueProgress) -> QueueProgress {
        let mut change = change.clone();
        let end = self.certain_end(change.topic_id, change.queue);
        change.reset_to = change.reset_to.map(|offset| offset.min(end));
        change.acked.iter_mut().for_each(|range| range.end = range.end.min(end));
        change.attempted.retain(|attempted| attempted.offset < end);
        change
    }

    /// Offsets of a queue below this one are certain, as long as no snapshot came since the damage.
    pub(super) fn certain_end(&self, topic_id: u32, queue: u32) -> u64 {
        let first = |unsettled: &Unsettled| unsettled.first.get(&(topic_id, queue)).copied().unwrap_or(0);
        self.before_snapshot().map_or(u64::MAX, first)
    }

    /// Takes back what acknowledgements say about messages that are others than they were.
    pub(super) fn reopen_uncertain(&self, topic_id: u32, queue: u32, acks: &mut Acks) {
        let open = self.unsettled.as_ref().and_then(|unsettled| unsettled.open.get(&(topic_id, queue)));
        if let Some((first, end)) = open {
            acks.reopen(*first, *end);
        }
    }

    /// A snapshot has to come in one piece.
    pub(super) fn forget_parts(&mut self) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.parts.clear();
        }
    }

    /// Collects a snapshot, and takes it up when it is whole.
    pub(super) fn collect_snapshot(&mut self, part: SnapshotRecord) -> Result<(), StoreError> {
        let Some(unsettled) = &mut self.unsettled else { return Ok(()) };
        if part.part == 0 {
            unsettled.parts.clear();
        }
        if part.part as usize != unsettled.parts.len() {
            unsettled.parts.clear();
            return Ok(());
        }
        let is_whole = part.last;
        unsettled.parts.push(part);
        if is_whole {
            let whole = joined(std::mem::take(&mut unsettled.parts));
            // Others say nothing new about the offsets that are open.
            if !unsettled.has_snapshot || whole.settles {
                self.settle_by(whole)?;
            }
        }
        Ok(())
    }

    /// Everything is as the snapshot says, and the messages behind the damage go to their offsets.
    fn settle_by(&mut self, snapshot: SnapshotRecord) -> Result<(), StoreError> {
        let SnapshotRecord {
            settles,
            topics,
            groups,
            queues,
            progress,
            halves,
            timers,
            kept,
            lites,
            next_lite,
            moving,
            audit,
            ..
        } = snapshot;
        self.broker = snapshot.broker;
        (self.meta.next_topic, self.meta.next_group) = (snapshot.next_topic, snapshot.next_group);
        self.meta.withheld = snapshot.withheld;
        self.replace_topics_and_groups(topics, groups)?;
        self.replace_lites(&lites, next_lite)?;
        self.moving.replace(moving);
        if let Some(mut unsettled) = self.unsettled.take() {
            if settles {
                unsettled.open.clear();
            }
            if !std::mem::replace(&mut unsettled.has_snapshot, true) {
                for state in &queues {
                    self.settle_queue(state, settles, &mut unsettled)?;
                }
            }
            self.count_lites();
            // The mark that it was uncertain goes with the next flush.
            self.unsettled = Some(unsettled).filter(|unsettled| !unsettled.open.is_empty());
        }
        self.kv.write(vec![Op::DeletePrefix(Family::Progress, Vec::new())])?;
        self.progress.clear();
        for GroupProgress { group_id, topic_id, queue, acks } in progress {
            let mut acks =
                Acks::decode(&acks).map_err(|error| StoreError::Index(format!("snapshot: {error}")))?;
            self.reopen_uncertain(topic_id, queue, &mut acks);
            self.progress.insert((group_id, topic_id, queue), Progress { acks, dirty: true });
        }
        for held in halves {
            let old = self.half(held.position)?;
            self.put_held(held.position, old.as_ref(), &held.half);
        }
        for held in timers {
            let old = self.timer(held.position)?;
            self.put_held(held.position, old.as_ref(), &held.timer);
        }
        for old in self.all_kept()? {
            self.overlay.delete(Family::Kept, keys::block(old.topic_id, old.queue, old.offset));
        }
        kept.iter().for_each(|kept| self.put_kept(kept));
        audit.iter().for_each(|audited| self.put_audited(audited));
        Ok(())
    }

    /// Moves the messages of a queue to where they belong, and notes which of them may be others than they were.
    fn settle_queue(
        &mut self,
        state: &QueueState,
        settles: bool,
        unsettled: &mut Unsettled,
    ) -> Result<(), StoreError> {
        let queue = (state.topic_id, state.queue);
        let offset = |of: &HashMap<QueueId, u64>| of.get(&queue).copied().unwrap_or(0);
        let (first, last) = (offset(&unsettled.first), offset(&unsettled.last));
        let before = self.queues.bounds(queue.0, queue.1);
        if unsettled.is_from_nothing && !unsettled.first.contains_key(&queue) && before.next <= state.next {
            let moved = self.queues.end_at(&*self.kv, state)?;
            self.move_held_up(queue, 0, moved)?;
            let (first, end) = (before.min + moved, last.max(before.min) + moved);
            if first < end {
                unsettled.open.insert(queue, (first, end));
            }
            self.note_repair(queue, first, None, end - first);
            return Ok(());
        }
        let lost = Entry {
            position: unsettled.damaged.last().map_or(0, |(position, _)| *position),
            len: 0,
            tag_hash: 0,
            visible_ms: before.newest_ms,
        };
        let moved = self.queues.spread(&*self.kv, state, last, lost)?;
        self.move_held_up(queue, last, moved)?;
        let end = match before.next.cmp(&state.next) {
            // The offsets that they have now are meant.
            Ordering::Equal if settles => first,
            Ordering::Equal | Ordering::Less => last,
            // More messages than there were: somewhere among them is one that was not there.
            Ordering::Greater => before.next,
        };
        if first < end {
            let open = unsettled.open.entry(queue).or_insert((first, end));
            *open = (open.0.min(first), open.1.max(end));
        }
        self.note_repair(queue, first, Some(moved), end.saturating_sub(first));
        Ok(())
    }

    fn replace_topics_and_groups(
        &mut self,
        topics: Vec<Topic>,
        groups: Vec<Group>,
    ) -> Result<(), StoreError> {
        self.forget_topics_but(&topics.iter().map(|topic| topic.id).collect())?;
        for topic in topics {
            self.overlay.put(Family::Topics, keys::id(topic.id), topic.encode_to_vec());
            self.meta.insert_topic(topic);
        }
        for group in std::mem::take(&mut self.meta.groups).into_values() {
            self.overlay.delete(Family::Groups, keys::id(group.id));
        }
        self.meta.group_ids.clear();
        for group in groups {
            self.overlay.put(Family::Groups, keys::id(group.id), group.encode_to_vec());
            self.meta.insert_group(group);
        }
        Ok(())
    }

    fn forget_topics_but(&mut self, known: &HashSet<u32>) -> Result<(), StoreError> {
        let mut gone: Vec<u32> = self.queues.states().iter().map(|state| state.topic_id).collect();
        gone.extend(self.meta.topics_by_id.keys());
        gone.retain(|id| !known.contains(id));
        gone.sort_unstable();
        gone.dedup();
        for id in gone {
            self.drop_held_of::<Half>(id)?;
            self.drop_held_of::<Timer>(id)?;
            self.forget_lites(id)?;
            self.seen.drop_topic(id);
            self.overlay.delete(Family::Topics, keys::id(id));
            let ops = self.queues.remove_topic(id);
            self.kv.write(ops)?;
        }
        self.meta.topics.clear();
        self.meta.topics_by_id.clear();
        Ok(())
    }

    /// Messages of a queue moved up: transactions and timers remember where theirs became visible, and repeats are told
    /// where the first one is.
    fn move_held_up(&mut self, queue: QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        if by == 0 {
            return Ok(());
        }
        self.shift_held::<Half>(queue, from, by)?;
        self.shift_held::<Timer>(queue, from, by)?;
        self.seen.move_up(&*self.kv, queue, from, by)
    }

    fn shift_held<T: Held>(&mut self, queue: QueueId, from: u64, by: u64) -> Result<(), StoreError> {
        let mut moved = Vec::new();
        self.each_held_before(u64::MAX, |position, held: T| {
            if held.queue() == queue && held.visible().is_some_and(|shown| shown.offset >= from) {
                moved.push((position, held));
            }
        })?;
        for (position, held) in moved {
            self.put_held(position, Some(&held), &held.shifted(by));
        }
        Ok(())
    }

    /// To be called when the log ends before a snapshot came: everything behind the first damage is delivered again.
    pub fn note_open_end(&mut self) {
        let Some(unsettled) = self.before_snapshot() else { return };
        let first = unsettled.first.clone();
        for state in self.queues.states() {
            let queue = (state.topic_id, state.queue);
            let from = first.get(&queue).copied().unwrap_or(0);
            self.note_repair(queue, from, None, state.next.saturating_sub(from));
        }
    }

    fn note_repair(&mut self, (topic_id, queue): QueueId, from: u64, lost: Option<u64>, again: u64) {
        if lost.unwrap_or(0) == 0 && again == 0 {
            return;
        }
        let topic = self
            .topic_by_id(topic_id)
            .map_or_else(|| format!("of number {topic_id}"), |topic| topic.name.clone());
        self.repairs.push(Repair { topic, queue, from, lost, again });
    }
}

/// The parts of a snapshot as one.
fn joined(parts: Vec<SnapshotRecord>) -> SnapshotRecord {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().unwrap_or_default();
    for part in parts {
        // Named one by one, so that a list that a snapshot gets cannot be forgotten here.
        let SnapshotRecord {
            part: _,
            last: _,
            broker: _,
            next_topic: _,
            next_group: _,
            settles: _,
            next_lite: _,
            withheld: _,
            topics,
            groups,
            queues,
            progress,
            halves,
            kept,
            timers,
            lites,
            moving,
            audit,
        } = part;
        whole.topics.extend(topics);
        whole.groups.extend(groups);
        whole.queues.extend(queues);
        whole.progress.extend(progress);
        whole.halves.extend(halves);
        whole.kept.extend(kept);
        whole.timers.extend(timers);
        whole.lites.extend(lites);
        whole.moving.extend(moving);
        whole.audit.extend(audit);
    }
    whole
}

#[cfg(test)]
mod tests {
    use kerolox_core::audit::Audited;
    use kerolox_core::record::MovingTopic;

    use super::*;

    #[test]
    fn later_parts_of_a_snapshot_count_as_the_first_one_does() {
        let part = |part: u32| SnapshotRecord {
            part,
            topics: vec![Topic { id: part, ..Topic::default() }],
            moving: vec![MovingTopic { topic_id: part, ..MovingTopic::default() }],
            audit: vec![Audited { position: u64::from(part), ..Audited::default() }],
            ..SnapshotRecord::default()
        };
        let whole = joined(vec![part(0), part(1), part(2)]);
        let topics: Vec<u32> = whole.topics.iter().map(|topic| topic.id).collect();
        let moving: Vec<u32> = whole.moving.iter().map(|moving| moving.topic_id).collect();
        let audit: Vec<u64> = whole.audit.iter().map(|audited| audited.position).collect();
        assert_eq!((topics, moving, audit), (vec![0, 1, 2], vec![0, 1, 2], vec![0, 1, 2]));
    }
}
