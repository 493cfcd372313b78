//! Comparing an index with the state that follows from its log.

use std::sync::Arc;

use bytes::Bytes;
use kerolox_core::group::Group;
use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::record::{
    AckRange, CarriedOrigin, CheckedHalf, DeleteGroup, DeleteTopic, DropLite, DropLites, LiteTopic,
    MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, ProgressItem, ProgressRecord,
    QueueProgress, QueueState, Record, TrimRecord,
};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_log::Frame;
use kerolox_store::StoreError;
use kerolox_store::kv::{KeyFamily, Kv, MemKv, WriteOp};
use kerolox_store::state::StateMachine;
use kerolox_store::state::check::{DifferenceKind, LogReplay, StateComparison, applied_of};

fn frames(records: Vec<Record>) -> Vec<Frame> {
    let frame = |(i, record): (usize, Record)| Frame {
        position: 64 + 64 * i as u64,
        len: 64,
        kind: record.kind() as u8,
        epoch: 1,
        store_ms: 5,
        body: Bytes::from(record.encode()),
    };
    records.into_iter().enumerate().map(frame).collect()
}

fn change(change: MetaChange) -> Record {
    Record::Meta(MetaRecord { change: Some(change) })
}

fn message(hold: MessageHold) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        hold: hold.into(),
        // All in one bucket.
        lookups: vec![7, 8],
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() })
}

/// A topic and a group with 301 messages, one half message that is checked back manually, one scheduled message, an
/// acknowledgement, a lite topic, and message groups moving to another queue.
fn story() -> Vec<Frame> {
    let dedup = [("dedup".to_owned(), "id".to_owned())];
    let mut records = vec![
        change(MetaChange::PutTopic(Topic { attributes: dedup.clone().into(), ..Topic::new("t", 1) })),
        change(MetaChange::PutGroup(Group::new("g"))),
        message(MessageHold::Half),
        message(MessageHold::Until),
    ];
    records.extend((0..300).map(|_| message(MessageHold::None)));
    let carried = CarriedOrigin { position: 192, offset: Some(0), store_ms: 5, visible_ms: 5 };
    let header = MessageHeader { topic_id: 1, carried: Some(carried), ..MessageHeader::default() };
    records.push(Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() }));
    let acked = vec![AckRange { start: 0, end: 7 }];
    let queue = QueueProgress { group_id: 1, topic_id: 1, acked, ..QueueProgress::default() };
    records.push(Record::Progress(ProgressRecord::new([ProgressItem::Queue(queue)])));
    let rechecked = CheckedHalf {
        held: 192,
        next_check_ms: Some(9),
        by: "an administrator".into(),
        ..CheckedHalf::default()
    };
    records.push(Record::Progress(ProgressRecord::new([ProgressItem::Checked(rechecked)])));
    let lite = LiteTopic { topic_id: 1, name: "a".into(), ..LiteTopic::default() };
    records.push(change(MetaChange::PutLite(lite)));
    let mut known = MessageHeader { topic_id: 1, ..MessageHeader::default() };
    known.set_dedup(Some(7));
    records.push(Record::Message(MessageRecord {
        header: known,
        system: Bytes::new(),
        content: Bytes::new(),
    }));
    // The topic gets a second queue, so that message groups have to move.
    let types = vec![MessageType::Normal.into(), MessageType::Fifo.into()];
    records.push(change(MetaChange::PutTopic(Topic {
        types,
        attributes: dedup.into(),
        ..Topic::new("t", 2)
    })));
    frames(records)
}

/// A broker's index after these records; the first `flushed` of them are in a separate batch.
fn index_of(frames: &[Frame], flushed: usize) -> Arc<MemKv> {
    let kv = Arc::new(MemKv::default());
    let mut index = StateMachine::empty(kv.clone()).expect("memory");
    for (i, frame) in frames.iter().enumerate() {
        index.apply(frame, &mut Vec::new()).expect("applies");
        if i + 1 == flushed || i + 1 == frames.len() {
            kv.write(index.changes()).expect("memory");
            index.flushed();
        }
    }
    kv
}

fn compare(frames: &[Frame], kv: &MemKv) -> StateComparison {
    let applied = applied_of(kv).expect("reads").expect("an index");
    let mut replay = LogReplay::until(applied);
    frames.iter().for_each(|frame| replay.take(frame).expect("known records"));
    replay.compare(kv).expect("reads")
}

#[test]
fn an_index_agrees_with_its_log_whenever_it_was_flushed() {
    let frames = story();
    for (held, flushed) in [(frames.len(), 9), (frames.len(), 290), (200, 20), (3, 3)] {
        let comparison = compare(&frames, &index_of(&frames[..held], flushed));
        assert_eq!(comparison.differences, 0, "{:?}", comparison.examples);
        assert!(comparison.keys > 8, "{comparison:?}");
    }
}

#[test]
fn every_kind_of_difference_is_found() {
    let frames = story();
    for family in KeyFamily::ALL {
        let pairs = index_of(&frames, 1).scan(family, b"", 100).expect("memory");
        assert!(!pairs.is_empty(), "the story fills family {family:?}");
        for (key, value) in pairs {
            let state = String::from_utf8_lossy(&key).into_owned();
            if family == KeyFamily::State && (state == "applied" || state == "format") {
                continue;
            }
            let mut other = value.clone();
            other.push(1);
            // The bucket.
            let whole = if family == KeyFamily::Lookups { key[..6].to_vec() } else { key.clone() };
            let behind = [&key[..], &[7]].concat();
            for (op, at, how) in [
                (WriteOp::Delete(family, key.clone()), &whole, DifferenceKind::Missing),
                (WriteOp::Put(family, key.clone(), other), &whole, DifferenceKind::Different),
                (WriteOp::Put(family, behind.clone(), value.clone()), &behind, DifferenceKind::Unexpected),
            ] {
                let kv = index_of(&frames, 1);
                kv.write(vec![op]).expect("memory");
                let found = compare(&frames, &kv);
                assert_eq!(found.differences, 1);
                let first = &found.examples[0];
                assert_eq!((first.family, &first.key, first.how), (family, at, how));
            }
        }
    }
}

/// Deleted entries stay in the store until its position advances with the flush.
#[test]
fn a_deletion_makes_no_difference_before_it_is_flushed_nor_behind() {
    let queue = FIRST_LITE_QUEUE;
    let header = MessageHeader { topic_id: 1, queue, ..MessageHeader::default() };
    let acked = vec![AckRange { start: 0, end: 1 }];
    let progress = QueueProgress { group_id: 1, topic_id: 1, queue, acked, ..QueueProgress::default() };
    let lites = vec![DropLite { name: "a".into(), queue, next: 1 }];
    let mut records = story();
    let next = records[records.len() - 1].end();
    let more = frames(vec![
        Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() }),
        Record::Progress(ProgressRecord::new([ProgressItem::Queue(progress)])),
        change(MetaChange::DropLites(DropLites { topic_id: 1, lites })),
        change(MetaChange::DeleteGroup(DeleteGroup { name: "g".into() })),
        change(MetaChange::DeleteTopic(DeleteTopic { name: "t".into() })),
    ]);
    records.extend(more.into_iter().map(|frame| Frame { position: frame.position + next, ..frame }));
    let held = records.len() - 3;
    for deleted in 1..=3 {
        let kv = index_of(&records[..held], held);
        let mut index = StateMachine::load(kv.clone()).expect("loads");
        for frame in &records[held..held + deleted] {
            index.apply(frame, &mut Vec::new()).expect("applies");
        }
        assert_eq!(compare(&records[..held], &kv).differences, 0);
        kv.write(index.changes()).expect("memory");
        assert_eq!(compare(&records[..held + deleted], &kv).differences, 0);
        assert!(compare(&records[..held], &kv).differences > 0, "without the deletion it is damage");
    }
}

#[test]
fn what_a_trim_removed_ahead_of_the_index_is_no_difference() {
    let mut records = story();
    let held = records.len();
    let queues = vec![QueueState { topic_id: 1, queue: 0, next: 280, newest_ms: 5 }];
    let trim = frames(vec![Record::Trim(TrimRecord { before: 9_000, queues })]).remove(0);
    records.push(Frame { position: records[held - 1].end(), ..trim });
    let kv = index_of(&records[..held], held);
    let blocks = || kv.scan(KeyFamily::Entries, b"", 9).expect("memory").len();
    assert_eq!(blocks(), 2);
    StateMachine::load(kv.clone()).expect("loads").apply(&records[held], &mut Vec::new()).expect("applies");
    assert_eq!(blocks(), 1);
    assert_eq!(compare(&records, &kv).differences, 0);
    assert_eq!(compare(&records[..held], &kv).differences, 1);
}

#[test]
fn an_index_of_another_format_has_no_position() {
    let kv = MemKv::default();
    assert_eq!(applied_of(&kv).expect("reads"), None);
    kv.write(vec![WriteOp::Put(KeyFamily::State, b"format".to_vec(), vec![0, 0, 0, 99])]).expect("memory");
    assert_eq!(applied_of(&kv).expect("reads"), None);
}

#[test]
fn a_fold_without_entries_counts_all_the_same() {
    let mut replay = LogReplay::without_entries();
    story().iter().for_each(|frame| replay.take(frame).expect("known records"));
    assert_eq!(replay.state().queues.bounds(1, 0).next, 301);
    assert_eq!(replay.state().transactions.open_total(), 1);
}

#[test]
fn an_unknown_record_is_named() {
    let unknown = Frame { kind: 250, ..story().remove(0) };
    let error = LogReplay::until(u64::MAX).take(&unknown).expect_err("unknown");
    assert!(matches!(error, StoreError::Record { position: 64, .. }), "{error}");
}
