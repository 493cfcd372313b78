//! Indexes that are made over damage: no readable message is lost, and no acknowledgement hits another message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::group::Group;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{
    AckRange, FiredRecord, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, ProgressItem,
    ProgressRecord, QueueProgress, Record, RecordKind, ReleaseRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::{Folder, MemFolder, SeededChoices};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{Frame, FrameSalt, LogOptions};
use kerolox_store::kv::{Kv, MemKv};
use kerolox_store::{AppliedRecord, ApplyOutcome, Store, StoreOptions};

const GROUP: u32 = 1;

fn open(folder: &MemFolder, kv: &Arc<MemKv>) -> Store {
    let options = StoreOptions {
        broker: "a".into(),
        log: LogOptions {
            segment_bytes: 6000,
            checkpoint_bytes: 1 << 20,
            ..LogOptions::new(FrameSalt::new(7))
        },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    Store::open(options, Arc::new(folder.clone()), kv.clone(), || 1, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record) -> AppliedRecord {
    let (sender, answer) = mpsc::channel();
    store.propose(
        record,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("waits")),
    );
    answer.recv().expect("answered").expect("stored")
}

fn message(topic_id: u32, queue: u32, hold: MessageHold, id: &str) -> Record {
    let header = MessageHeader {
        topic_id,
        queue,
        hold: hold.into(),
        hold_ms: 1_000_000,
        message_id: id.to_owned(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(vec![7; 60]) })
}

/// A held message becomes visible.
fn show(held: u64, hold: MessageHold) -> Record {
    match hold {
        MessageHold::Half => {
            Record::Release(ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() })
        }
        _ => Record::Progress(ProgressRecord::new([ProgressItem::Fired(FiredRecord { held: vec![held] })])),
    }
}

/// Creates a topic like the broker, with the id that it expects.
fn put_topic(store: &Store, name: &str) -> u32 {
    let id = store.state().topics.next_id();
    let topic = Topic { id, ..Topic::new(name, 2) };
    propose(store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) }));
    id
}

fn acknowledge(store: &Store, topic_id: u32, queue: u32, offset: u64) {
    let acked = vec![AckRange { start: offset, end: offset + 1 }];
    let progress = QueueProgress { group_id: GROUP, topic_id, queue, acked, ..QueueProgress::default() };
    propose(store, &Record::Progress(ProgressRecord::new([ProgressItem::Queue(progress)])));
}

/// Some segments of messages, transactions, scheduled messages and acknowledgements in four queues.
struct Story {
    folder: MemFolder,
    truth: View,
    frames: Vec<Frame>,
}

fn story(held_in_ten: u64) -> Story {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    let group = Group { id: GROUP, ..Group::new("g") };
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(group)) }));
    let mut topics = vec![put_topic(&store, "t")];
    let mut chooser = SeededChoices::new(5);
    let mut held = Vec::new();
    for i in 0..320 {
        if i == 90 || i == 300 {
            topics.push(put_topic(&store, &format!("t{i}")));
        }
        let topic_id = topics[usize::try_from(chooser.below(topics.len() as u64)).expect("small")];
        let queue = u32::try_from(chooser.below(2)).expect("small");
        match chooser.below(10) {
            0 if held_in_ten > 0 => {
                let hold = if chooser.chance(1, 2) { MessageHold::Half } else { MessageHold::Until };
                let message = message(topic_id, queue, hold, &format!("h{i}"));
                held.push((propose(&store, &message).position, hold));
            }
            n if n < held_in_ten && !held.is_empty() => {
                let (held, hold) =
                    held.remove(usize::try_from(chooser.below(held.len() as u64)).expect("small"));
                propose(&store, &show(held, hold));
            }
            2..5 => {
                let next = store.state().queues.bounds(topic_id, queue).next;
                if next > 0 {
                    acknowledge(&store, topic_id, queue, chooser.below(next));
                }
            }
            _ => drop(propose(&store, &message(topic_id, queue, MessageHold::None, &format!("m{i}")))),
        }
    }
    let truth = View::of(&store);
    store.close();
    let findings = LogInspector::open(&folder, InspectMode::Offline).expect("opens");
    let frames = findings.filter_map(|finding| match finding.expect("reads") {
        LogFinding::Record(frame) => Some(frame),
        _ => None,
    });
    Story { frames: frames.collect(), folder, truth }
}

/// A consumer's view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    /// Topic name by id.
    topics: BTreeMap<u32, String>,
    /// Message ids by topic, queue and offset; `None` for an unreadable message.
    messages: BTreeMap<(u32, u32, u64), Option<String>>,
    done: BTreeSet<(u32, u32, u64)>,
    /// Undecided half messages, and scheduled messages.
    held: BTreeSet<u64>,
}

impl View {
    fn of(store: &Store) -> Self {
        let mut view = Self::default();
        let index = store.state();
        for topic in index.topics.all() {
            view.topics.insert(topic.id, topic.name.clone());
            for queue in 0..topic.read_queues {
                let acks = index.acks(GROUP, topic.id, queue).expect("reads").unwrap_or_default();
                for (offset, entry) in index.queues.entries(topic.id, queue, 0, 10_000).expect("reads") {
                    let place = (topic.id, queue, offset);
                    let read = store.read_message(entry.position, entry.len);
                    view.messages.insert(place, read.ok().map(|(_, message)| message.header.message_id));
                    if acks.is_done(QueueOffset::new(offset)) {
                        view.done.insert(place);
                    }
                }
            }
        }
        let due = index.transactions.due(i64::MAX - 1, None, 10_000).expect("reads");
        view.held.extend(due.into_iter().map(|(position, _)| position));
        let due = index.timers.due(i64::MAX, None, 10_000).expect("reads");
        view.held.extend(due.into_iter().map(|(position, _)| position));
        view
    }

    fn visible(&self) -> BTreeSet<&str> {
        self.messages.values().flatten().map(String::as_str).collect()
    }

    /// Ids of messages that the group has finished.
    fn done_ids(&self) -> BTreeSet<&str> {
        self.done.iter().filter_map(|place| self.messages[place].as_deref()).collect()
    }
}

/// Damages the record at a position.
fn flip(folder: &MemFolder, position: u64) {
    let bases = folder.names().into_iter().filter_map(|name| {
        let base = name.strip_suffix(".log")?.parse::<u64>().ok()?;
        (base < position).then_some((base, name))
    });
    let (base, name) = bases.max().expect("a segment");
    folder.flip_bits(&name, usize::try_from(position - base).expect("small") + 30, 1);
}

impl Story {
    fn damage(&self, frames: &[usize]) -> MemFolder {
        let folder = self.folder.fork();
        frames.iter().for_each(|frame| flip(&folder, self.frames[*frame].position));
        folder
    }

    /// Base of the newest segment.
    fn newest(&self) -> u64 {
        let bases = self.folder.names();
        bases.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).max().expect("some")
    }

    fn check(&self, damaged: &[usize]) -> View {
        self.check_in(&self.damage(damaged), damaged)
    }

    /// The invariants whatever is damaged: `damaged` are the unreadable records in `folder`.
    fn check_in(&self, folder: &MemFolder, damaged: &[usize]) -> View {
        let store = open(folder, &Arc::new(MemKv::default()));
        let view = View::of(&store);
        let what = format!("damaged {damaged:?}");
        let unreadable: BTreeSet<String> = damaged
            .iter()
            .filter_map(|frame| match self.record(*frame) {
                Record::Message(message) => Some(message.header.message_id),
                _ => None,
            })
            .collect();
        let visible = view.visible();
        for id in self.truth.visible().iter().filter(|id| !unreadable.contains(**id)) {
            let held = || {
                let message = self.frames.iter().enumerate().find(|(i, _)| match self.record(*i) {
                    Record::Message(message) => message.header.message_id == *id,
                    _ => false,
                });
                message.is_some_and(|(_, frame)| view.held.contains(&frame.position))
            };
            assert!(visible.contains(id) || held(), "{what}: {id} is lost");
        }
        let done = self.truth.done_ids();
        for id in view.done_ids() {
            assert!(done.contains(id), "{what}: {id} was never acknowledged");
        }
        // It can be used, and the next index is equal.
        let topic_id = *view.topics.keys().next().expect("the first topic is as old as the log");
        let next = store.state().queues.bounds(topic_id, 0).next;
        let sent = propose(&store, &message(topic_id, 0, MessageHold::None, "new")).outcome;
        assert_eq!(sent, ApplyOutcome::Visible { queue: 0, offset: next }, "{what}");
        let seen = View::of(&store);
        drop(store);
        let again = View::of(&open(folder, &Arc::new(MemKv::default())));
        assert_eq!(again, seen, "{what}: another index shows something else");
        view
    }

    fn record(&self, frame: usize) -> Record {
        let frame = &self.frames[frame];
        Record::decode(frame.kind, frame.body.clone()).expect("a record")
    }
}

#[test]
fn one_damaged_record_costs_that_record_and_no_offset() {
    let story = story(0);
    assert!(story.frames.len() > 250 && story.newest() > 20_000);
    for frame in 0..story.frames.len() {
        let view = story.check(&[frame]);
        // Records in the newest segment have no snapshot behind them.
        if story.frames[frame].position < story.newest() {
            let mut expected = story.truth.clone();
            let lost = match story.record(frame) {
                Record::Message(message) => Some(message.header.message_id),
                _ => None,
            };
            expected.messages.values_mut().filter(|id| **id == lost).for_each(|id| *id = None);
            assert_eq!(view, expected, "damaged {frame}");
        }
    }
}

/// The outcome of a transaction that was open across the damage is unknown. The rest holds all the same.
#[test]
fn one_damaged_record_among_transactions_loses_no_other_message() {
    let story = story(2);
    for frame in 1..story.frames.len() {
        story.check(&[frame]);
    }
}

#[test]
fn several_damaged_places_lose_no_other_message() {
    let story = story(2);
    let mut chooser = SeededChoices::new(11);
    for _ in 0..300 {
        let count = 2 + chooser.below(4);
        let frame = |_| 1 + usize::try_from(chooser.below(story.frames.len() as u64 - 1)).expect("small");
        let mut damaged: Vec<usize> = (0..count).map(frame).collect();
        damaged.sort_unstable();
        damaged.dedup();
        story.check(&damaged);
    }
}

#[test]
fn a_missing_segment_loses_no_other_message() {
    for held_in_ten in [0, 2] {
        let story = story(held_in_ten);
        let mut bases: Vec<u64> =
            story.folder.names().iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        bases.sort_unstable();
        // The first segment holds the first topic, and the newest one may be the only one left.
        for pair in bases[1..].windows(2) {
            let folder = story.folder.fork();
            folder.remove(&format!("{:020}.log", pair[0])).expect("removed");
            let lost = (0..story.frames.len())
                .filter(|frame| (pair[0]..pair[1]).contains(&story.frames[*frame].position));
            let view = story.check_in(&folder, &lost.collect::<Vec<_>>());
            let known = |(place, id): (&(u32, u32, u64), &Option<String>)| {
                id.is_none() || story.truth.messages.get(place) == Some(id)
            };
            assert!(view.messages.iter().all(known), "without {}: messages moved", pair[0]);
        }
    }
}

#[test]
fn the_queues_that_damage_concerns_are_named() {
    let story = story(2);
    let is_message = |frame: &usize| matches!(story.record(*frame), Record::Message(_));
    let sealed = (100..).find(is_message).expect("a message");
    let store = open(&story.damage(&[sealed]), &Arc::new(MemKv::default()));
    let repairs = store.repairs();
    assert_eq!(repairs.iter().filter_map(|repair| repair.lost).sum::<u64>(), 1, "{repairs:?}");
    let in_newest = |frame: &usize| story.frames[*frame].position > story.newest();
    let newest = (0..).find(|frame| in_newest(frame) && is_message(frame)).expect("a message");
    let store = open(&story.damage(&[newest]), &Arc::new(MemKv::default()));
    assert!(store.repairs().iter().all(|repair| repair.lost.is_none()), "{:?}", store.repairs());
    assert!(!store.repairs().is_empty());
    let store = open(&story.folder, &Arc::new(MemKv::default()));
    assert_eq!(store.repairs(), []);
}

/// A trim behind the damage names offsets that the messages there do not have yet.
#[test]
fn a_trim_behind_damage_expires_nothing_that_it_did_not_mean() {
    let story = story(0);
    let (folder, kv) = (story.folder.fork(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    let point = store.trim_points().nth(1).expect("some").expect("reads");
    store.trim(&point).expect("trims");
    let truth = View::of(&store);
    store.close();
    // Everything between the first remaining snapshot and the trim record.
    let findings = LogInspector::open(&folder, InspectMode::Offline).expect("opens");
    let frames = findings.filter_map(|finding| match finding.expect("reads") {
        LogFinding::Record(frame) => Some(frame),
        _ => None,
    });
    let frames: Vec<Frame> = frames.collect();
    let snapshots: Vec<u64> = frames
        .iter()
        .filter(|frame| frame.kind == RecordKind::Snapshot as u8)
        .map(|frame| frame.position)
        .collect();
    assert!(snapshots.len() > 2);
    // Each alone, and all of them: then no record gives the topics and offsets any more.
    for lost in snapshots.chunks(1).chain([&snapshots[..]]) {
        let folder = folder.fork();
        lost.iter().for_each(|position| flip(&folder, *position));
        let view = View::of(&open(&folder, &Arc::new(MemKv::default())));
        assert_eq!(view.visible(), truth.visible(), "without the snapshots at {lost:?}");
        assert!(view.done_ids().is_subset(&truth.done_ids()));
    }
}

/// An index that was interrupted while it was uncertain is rebuilt.
#[test]
fn an_index_that_was_left_uncertain_is_not_believed() {
    let story = story(2);
    let folder = story.damage(&[100]);
    let kv = Arc::new(MemKv::default());
    let expected = View::of(&open(&folder.fork(), &kv));
    let marked = [(b"unsettled".to_vec(), vec![0; 8])]
        .map(|(key, value)| kerolox_store::kv::WriteOp::Put(kerolox_store::kv::KeyFamily::State, key, value));
    kv.write(marked.to_vec()).expect("memory");
    assert_eq!(kerolox_store::state::StateMachine::load(kv).expect("loads").applied(), 0);
    assert_eq!(View::of(&open(&folder, &Arc::new(MemKv::default()))), expected);
}
