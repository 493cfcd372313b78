//! The fold, record by record, on an ordered map.

use bytes::Bytes;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, Checked, DeleteTopic, DiscardRecord, Hold, MessageHeader, MessageRecord, MetaChange,
    MetaRecord, ProgressItem, ProgressRecord, QueueProgress, Record, ReleaseRecord,
};
use kerolox_core::topic::Topic;

use super::*;
use crate::kv::MemKv;
use kerolox_log::Frame;

const STEP: u64 = 64;

/// An index and a log of what was applied to it.
struct Fold {
    index: Index,
    frames: Vec<Frame>,
}

impl Fold {
    fn new() -> Self {
        let mut fold =
            Self { index: Index::empty(Arc::new(MemKv::default())).expect("memory"), frames: Vec::new() };
        fold.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 2))) }));
        fold.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(Group::new("g"))) }));
        fold
    }

    fn apply(&mut self, record: Record) -> (u64, Outcome) {
        let position = STEP * (self.frames.len() as u64 + 1);
        let frame = Frame {
            position,
            len: 64,
            kind: record.kind() as u8,
            epoch: 1,
            store_ms: 1_000 + i64::try_from(self.frames.len()).expect("few"),
            body: Bytes::from(record.encode()),
        };
        self.frames.push(frame.clone());
        (position, self.index.apply(&frame, &mut Vec::new()).expect("applies"))
    }

    fn send(&mut self, queue: u32) -> (u64, Outcome) {
        self.apply(message(queue, Hold::None))
    }

    fn flush(&mut self) {
        self.index.kv.write(self.index.pending()).expect("memory");
        self.index.flushed();
    }

    /// What a reader can see, for comparing one index with another.
    fn view(index: &Index) -> impl PartialEq + std::fmt::Debug + use<> {
        let queues: Vec<_> = index
            .topics()
            .iter()
            .flat_map(|topic| (0..topic.read_queues).map(|queue| (topic.id, queue)))
            .map(|(topic, queue)| {
                let entries = index.entries(topic, queue, 0, 10_000).expect("reads");
                (
                    topic,
                    queue,
                    index.queue_bounds(topic, queue),
                    entries,
                    index.acks(1, topic, queue).expect("reads"),
                )
            })
            .collect();
        let halves: Vec<_> = (0..200).map(|i| index.half(i * STEP).expect("reads")).collect();
        let due = index.due_halves(i64::MAX, None, 1_000).expect("reads");
        (index.topics(), index.groups(), queues, halves, due, index.undecided_total(), index.applied())
    }
}

fn message(queue: u32, hold: Hold) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        queue,
        hold: hold.into(),
        hold_ms: 6_000,
        message_id: "01AB".into(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() })
}

fn commit(held: u64) -> Record {
    Record::Release(ReleaseRecord { held, by: "p".into() })
}

fn rollback(held: u64) -> Record {
    Record::Discard(DiscardRecord { held, by: "p".into() })
}

fn ack(start: u64, end: u64) -> Record {
    let queue = QueueProgress {
        group_id: 1,
        topic_id: 1,
        queue: 0,
        acked: vec![AckRange { start, end }],
        ..QueueProgress::default()
    };
    Record::Progress(ProgressRecord::new([ProgressItem::Queue(queue)]))
}

#[test]
fn offsets_count_up_per_queue_across_blocks_and_flushes() {
    let mut fold = Fold::new();
    for i in 0..600u64 {
        let (_, outcome) = fold.send(0);
        assert_eq!(outcome, Outcome::Visible { queue: 0, offset: i });
        if i % 97 == 0 {
            fold.flush();
        }
    }
    assert_eq!(fold.send(1).1, Outcome::Visible { queue: 1, offset: 0 });
    for (from, max) in (0..600).flat_map(|from| [1, 2, 31, 700].map(|max| (from, max))) {
        let entries = fold.index.entries(1, 0, from, max).expect("reads");
        let offsets: Vec<u64> = entries.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (from..600.min(from + max as u64)).collect::<Vec<_>>());
    }
    let entries = fold.index.entries(1, 0, 250, 20).expect("reads");
    assert_eq!(entries.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (250..270).collect::<Vec<_>>());
    assert!(entries.windows(2).all(|pair| pair[0].1.position + STEP == pair[1].1.position));
}

#[test]
fn a_half_is_invisible_until_committed_and_the_first_decision_wins() {
    let mut fold = Fold::new();
    let (held, outcome) = fold.apply(message(1, Hold::Half));
    assert_eq!(outcome, Outcome::Held);
    assert_eq!(fold.index.queue_bounds(1, 1).next, 0);
    assert_eq!(fold.index.due_halves(held.cast_signed() + 10_000, None, 9).expect("reads").len(), 1);
    assert_eq!(fold.index.undecided(1), 1);

    fold.send(1);
    assert_eq!(fold.apply(commit(held)).1, Outcome::Visible { queue: 1, offset: 1 });
    assert_eq!(fold.index.entries(1, 1, 1, 1).expect("reads")[0].1.position, held, "no second copy");
    assert_eq!(fold.apply(commit(held)).1, Outcome::Repeated);
    assert_eq!(fold.apply(rollback(held)).1, Outcome::Contradicted);
    assert_eq!(fold.index.undecided(1), 0);
    assert_eq!(fold.index.next_half_due_ms().expect("reads"), None);

    let (held, _) = fold.apply(message(1, Hold::Half));
    assert_eq!(fold.apply(rollback(held)).1, Outcome::Discarded);
    assert_eq!(fold.apply(rollback(held)).1, Outcome::Repeated);
    assert_eq!(fold.apply(commit(held)).1, Outcome::Contradicted);
    assert_eq!(fold.index.queue_bounds(1, 1).next, 2);
    assert_eq!(fold.apply(commit(999_999)).1, Outcome::NoSuchHalf);
}

#[test]
fn checks_move_the_due_time_and_the_last_one_parks() {
    let mut fold = Fold::new();
    let (held, _) = fold.apply(message(0, Hold::Half));
    let checked = |next_check_ms| {
        let item = Checked { held, checks: 1, next_check_ms, asked: "p".into() };
        Record::Progress(ProgressRecord::new([ProgressItem::Checked(item)]))
    };
    fold.apply(checked(Some(77_000)));
    assert_eq!(fold.index.next_half_due_ms().expect("reads"), Some(77_000));
    assert!(fold.index.due_halves(76_999, None, 9).expect("reads").is_empty());
    fold.apply(checked(None));
    assert_eq!(fold.index.next_half_due_ms().expect("reads"), None);
    assert_eq!(fold.index.undecided(1), 1, "parked, not lost");
    assert_eq!(fold.apply(commit(held)).1, Outcome::Visible { queue: 0, offset: 0 });
    fold.apply(checked(Some(99_000)));
    assert_eq!(fold.index.next_half_due_ms().expect("reads"), None, "a late check changes nothing");
}

#[test]
fn a_deleted_topic_leaves_nothing_behind() {
    let mut fold = Fold::new();
    fold.send(0);
    let (held, _) = fold.apply(message(0, Hold::Half));
    fold.apply(ack(0, 1));
    fold.flush();
    fold.send(0);
    let delete = || {
        Record::Meta(MetaRecord { change: Some(MetaChange::DeleteTopic(DeleteTopic { name: "t".into() })) })
    };
    assert_eq!(fold.apply(delete()).1, Outcome::Deleted(true));
    assert_eq!(fold.apply(delete()).1, Outcome::Deleted(false));
    assert_eq!(fold.send(0).1, Outcome::TopicGone);
    assert_eq!(fold.apply(commit(held)).1, Outcome::NoSuchHalf);
    assert_eq!(fold.index.undecided_total(), 0);
    let (_, outcome) =
        fold.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 2))) }));
    let Outcome::Topic(topic, true) = outcome else { panic!("{outcome:?}") };
    assert_eq!(topic.id, 2, "an id is never given twice");
    assert_eq!(fold.index.queue_bounds(2, 0), QueueBounds::default());
}

#[test]
fn an_index_that_is_reloaded_or_rebuilt_shows_the_same() {
    let mut fold = Fold::new();
    let mut halves = Vec::new();
    for i in 0..150u64 {
        match i % 5 {
            0 => halves.push(fold.apply(message(1, Hold::Half)).0),
            1 if i % 2 == 0 => drop(fold.apply(commit(halves[halves.len() / 2]))),
            1 => drop(fold.apply(rollback(halves[halves.len() / 3]))),
            2 => drop(fold.apply(ack(i / 4, i / 4 + 2))),
            _ => drop(fold.send(0)),
        }
        if i == 70 {
            fold.flush();
        }
        if i == 100 {
            // A crash: everything since the last flush is folded again.
            let mut reloaded = Index::load(fold.index.kv.clone()).expect("loads");
            let applied = reloaded.applied();
            for frame in fold.frames.iter().filter(|frame| frame.position >= applied) {
                reloaded.apply(frame, &mut Vec::new()).expect("applies");
            }
            assert_eq!(Fold::view(&reloaded), Fold::view(&fold.index));
            fold.index = reloaded;
        }
    }
    let mut rebuilt = Index::empty(Arc::new(MemKv::default())).expect("memory");
    for frame in &fold.frames {
        rebuilt.apply(frame, &mut Vec::new()).expect("applies");
    }
    assert_eq!(Fold::view(&rebuilt), Fold::view(&fold.index));
    fold.flush();
    let reloaded = Index::load(fold.index.kv.clone()).expect("loads");
    assert_eq!(Fold::view(&reloaded), Fold::view(&fold.index));
}
