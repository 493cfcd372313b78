//! The uncertainty that damage in the log leaves in a rebuilt state, and how the next snapshot of the log resolves it.
//!
//! # The problem
//!
//! The state follows from the log, record by record. An unreadable record may have assigned an offset, an id or a decision,
//! so every later record may have another effect than the first time: messages get other offsets, and acknowledgements,
//! which name offsets, would hit other messages than the consumed ones. A long-lived state is not affected, for it applied
//! the record before it was damaged. This module is only for a state that is rebuilt over the damage, because the index was
//! lost as well, or that is brought up to date over it after a crash.
//!
//! # Why it is not refused
//!
//! "Refuse to start, restore the folder from a slave" would be some 500 lines shorter. It was weighed and rejected:
//!
//! - A standalone broker has no slave, and for many it is the deployment. In a group, all members may be hit: the same power
//!   cut, the same bug in a disk's firmware. Refusing would turn one bad block of 4 KiB into the loss of a log of terabytes.
//! - Every other message was acknowledged, and is intact. GUARANTEES.md promises that an acknowledged message stays readable
//!   as long as its own bytes are; a bad block elsewhere must not void that.
//! - "Give all topics new offsets and deliver everything again" is simple too, but repeats up to the whole retention to every
//!   consumer: weeks of payments, because of one message.
//! - Where a group has an intact copy, it is used: a parked log is not applied behind damage (`parked.rs`), and a master reads
//!   messages of a damaged range from its slaves. This module is for the member that has no other source.
//!
//! # What it guarantees
//!
//! - No message that can be read is lost, whatever is damaged around it, even the record that made its topic.
//! - With one damaged place between two snapshots (each segment begins with one) everything behind the second snapshot is
//!   unchanged: offsets, acknowledgements, ids. The lost messages leave entries that point at the damage, so consumers see a
//!   gap and not other messages.
//! - With several damaged places, or without a snapshot behind them, messages may be delivered again. Acknowledgements never
//!   take effect on a message that they may not have meant.
//! - A half message whose decision the damage may hide stays undecided, and its producer is asked again. A scheduled
//!   message stays pending, and is delivered, possibly a second time; it may have been recalled.
//! - Each changed queue is reported, with its lost and its repeated messages ([`QueueRepair`]).
//!
//! # How
//!
//! From the first damage on the state is *uncertain*, until a snapshot of the log gives the true state at its place:
//!
//! 1. Everything below the next offset that a queue had at the first damage is certain. Acknowledgements and trims above
//!    it are ignored.
//! 2. Messages of unknown topics are kept: the damage may hide the record that made the topic. Ids are those that the
//!    proposer expected, if they are free.
//! 3. At the snapshot, the messages behind the last damage move to their original offsets, counted from the end. Topics,
//!    groups and acknowledgements become those of the snapshot, except for messages between two damaged places, whose offsets
//!    cannot be known: these are *open*. If the damage hides the snapshot that the state was to begin with, queues begin with
//!    the first remaining message.
//! 4. Open messages stay open until the log ends: later acknowledgements in the log still mean the old offsets. Then a snapshot
//!    is written that [settles](SnapshotRecord::settles): from there on the messages have their current offsets whenever a
//!    state is rebuilt.
//!
//! # What it costs
//!
//! This module and its one neighbour, `settle.rs`; a comparison for each record that names a topic or ends something held,
//! and nothing else as long as there is no damage. The uncertainty is known only in memory, so the store is marked, and a
//! state that stops in between begins anew.

mod settle;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use kerolox_core::acks::QueueAcks;
use kerolox_core::lite::is_lite;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{QueueProgress, SnapshotRecord};
use prost::Message;

use super::keys;
use super::queues::QueueTable;
use super::table::{QueueId, StateTable};
use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};

/// The effect of damage on a queue of a state that was rebuilt from the rest of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRepair {
    /// Name of the topic.
    pub topic: String,
    /// The queue.
    pub queue: u32,
    /// Messages below this offset are not affected.
    pub from: u64,
    /// Number of lost messages; `None` when it is unknown, because the damage lies behind the last snapshot of the log.
    pub lost: Option<u64>,
    /// Number of messages that are delivered again, even if they had been acknowledged.
    pub again: u64,
}

impl fmt::Display for QueueRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}, queue {}, from offset {} on: ", self.topic, self.queue, self.from)?;
        match self.lost {
            Some(lost) => write!(f, "{lost} messages are lost")?,
            None => write!(f, "an unknown number of messages is lost")?,
        }
        write!(f, ", {} may be delivered again", self.again)
    }
}

/// The uncertainty that damage in the log left, and its effect on queues.
#[derive(Default)]
pub struct DamageUncertainty {
    since_damage: Option<Uncertain>,
    repairs: Vec<QueueRepair>,
}

/// The uncertainty since damage was found.
#[derive(Default)]
struct Uncertain {
    damaged: Vec<(u64, u64)>,
    /// The damage hides the initial snapshot: queues that are not in `first` may have had any offsets.
    is_from_nothing: bool,
    /// Whether a snapshot came since: then only `open` is uncertain.
    has_snapshot: bool,
    /// Offsets whose messages may have changed.
    open: HashMap<QueueId, (u64, u64)>,
    /// Next offsets at the first damage.
    first: HashMap<QueueId, u64>,
    /// Next offsets at the last place where messages may be missing; later ones follow each other without a gap.
    last: HashMap<QueueId, u64>,
    /// The id of the next new topic at the first damage: topics from there on may be unknown.
    next_topic: u32,
    /// The number of the next new lite topic at the first damage: lite topics from there on may be unknown.
    next_lite: u32,
    deleted_topics: HashSet<u32>,
    /// Parts of an incomplete snapshot.
    parts: Vec<SnapshotRecord>,
}

impl DamageUncertainty {
    /// It keeps nothing in the store.
    pub(super) fn new(_: &Arc<dyn Kv>) -> Self {
        Self::default()
    }

    /// Whether damage was passed and something is uncertain since.
    pub fn is_open(&self) -> bool {
        self.since_damage.is_some()
    }

    /// The effect of damage on the queues so far.
    pub fn repairs(&self) -> &[QueueRepair] {
        &self.repairs
    }

    /// The uncertainty, as long as no snapshot came since the damage.
    fn before_snapshot(&self) -> Option<&Uncertain> {
        self.since_damage.as_ref().filter(|uncertain| !uncertain.has_snapshot)
    }

    /// Whether ids that records expect may be right where consecutive ones are not.
    pub(super) fn trusts_expected_ids(&self) -> bool {
        self.before_snapshot().is_some()
    }

    /// Whether the damage may hide the record that made a topic.
    pub(super) fn may_hide_topic(&self, id: u32) -> bool {
        let hides =
            |uncertain: &Uncertain| id >= uncertain.next_topic && !uncertain.deleted_topics.contains(&id);
        self.since_damage.as_ref().is_some_and(hides)
    }

    /// Whether the damage may hide the record that made a lite topic.
    pub(super) fn may_hide_lite(&self, queue: u32) -> bool {
        is_lite(queue) && self.before_snapshot().is_some_and(|uncertain| queue >= uncertain.next_lite)
    }

    /// Records a decision about a held message that is unknown, or was open; known ones come with their queue. If that
    /// decision may be wrong, so are the offsets of the earlier messages in its queue, or in all queues when the queue is
    /// unknown.
    pub(super) fn note_decision(&mut self, position: u64, queue: Option<QueueId>, queues: &QueueTable) {
        let Some(uncertain) = self.since_damage.as_mut().filter(|uncertain| !uncertain.has_snapshot) else {
            return;
        };
        match queue {
            Some(queue) if uncertain.damaged.last().is_some_and(|(_, until)| position < *until) => {
                let next = queues.bounds(queue.0, queue.1).next;
                uncertain.last.insert(queue, next);
            }
            None if uncertain.damaged.iter().any(|(from, until)| (*from..*until).contains(&position)) => {
                uncertain.last = queues.nexts();
            }
            _ => {}
        }
    }

    /// The part of a progress record about messages whose offsets are certain.
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
        let first = |uncertain: &Uncertain| uncertain.first.get(&(topic_id, queue)).copied().unwrap_or(0);
        self.before_snapshot().map_or(u64::MAX, first)
    }

    /// Reopens acknowledged messages that may have changed.
    pub(super) fn reopen(&self, topic_id: u32, queue: u32, acks: &mut QueueAcks) {
        let open = self.since_damage.as_ref().and_then(|uncertain| uncertain.open.get(&(topic_id, queue)));
        if let Some((first, end)) = open {
            acks.reopen(QueueOffset::new(*first), QueueOffset::new(*end));
        }
    }

    /// Drops collected parts, since another record was applied: a snapshot has to come in one piece.
    pub(super) fn forget_parts(&mut self) {
        if let Some(uncertain) = &mut self.since_damage {
            uncertain.parts.clear();
        }
    }

    /// Collects a snapshot; returns it when it is complete and adds information.
    pub(super) fn collect(&mut self, part: SnapshotRecord) -> Result<Option<SnapshotRecord>, StoreError> {
        let Some(uncertain) = &mut self.since_damage else { return Ok(None) };
        if part.part == 0 {
            uncertain.parts.clear();
        }
        if part.part as usize != uncertain.parts.len() {
            uncertain.parts.clear();
            return Ok(None);
        }
        let is_whole = part.last;
        uncertain.parts.push(part);
        if !is_whole {
            return Ok(None);
        }
        let whole = joined(std::mem::take(&mut uncertain.parts))?;
        // Other snapshots add nothing about the open offsets.
        Ok(Some(whole).filter(|whole| !uncertain.has_snapshot || whole.settles))
    }
}

impl StateTable for DamageUncertainty {
    fn families(&self) -> &'static [KeyFamily] {
        &[]
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        if self.since_damage.is_none() {
            ops.push(WriteOp::Delete(KeyFamily::State, keys::UNSETTLED.to_vec()));
        }
    }

    fn flushed(&mut self) {}

    fn pending_len(&self) -> usize {
        0
    }

    fn drop_topic(&mut self, topic_id: u32, _group_ids: &[u32]) -> Result<(), StoreError> {
        if let Some(uncertain) = &mut self.since_damage {
            uncertain.deleted_topics.insert(topic_id);
        }
        Ok(())
    }
}

/// Joins the parts of a snapshot: in protobuf, consecutive lists of a field are one list.
fn joined(parts: Vec<SnapshotRecord>) -> Result<SnapshotRecord, StoreError> {
    let bytes: Vec<u8> = parts.iter().flat_map(Message::encode_to_vec).collect();
    let whole = SnapshotRecord::decode(bytes.as_slice())
        .map_err(|error| StoreError::Index(format!("snapshot: {error}")))?;
    Ok(SnapshotRecord { part: 0, ..whole })
}

#[cfg(test)]
mod tests {
    use kerolox_core::audit::AuditedEntry;
    use kerolox_core::record::MovingTopic;
    use kerolox_core::topic::Topic;

    use super::*;

    #[test]
    fn later_parts_of_a_snapshot_count_as_the_first_one_does() {
        let part = |part: u32| SnapshotRecord {
            part,
            broker: if part == 0 { "b".to_owned() } else { String::new() },
            next_topic: if part == 0 { 7 } else { 0 },
            topics: vec![Topic { id: part, ..Topic::default() }],
            moving: vec![MovingTopic { topic_id: part, ..MovingTopic::default() }],
            audit: vec![AuditedEntry { position: u64::from(part), ..AuditedEntry::default() }],
            ..SnapshotRecord::default()
        };
        let whole = joined(vec![part(0), part(1), part(2)]).expect("own bytes");
        let topics: Vec<u32> = whole.topics.iter().map(|topic| topic.id).collect();
        let moving: Vec<u32> = whole.moving.iter().map(|moving| moving.topic_id).collect();
        let audit: Vec<u64> = whole.audit.iter().map(|audited| audited.position).collect();
        assert_eq!((topics, moving, audit), (vec![0, 1, 2], vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!((whole.part, whole.broker.as_str(), whole.next_topic), (0, "b", 7));
    }
}
