//! Lite topics in the fold.

use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::record::{DeleteGroup, DropLite, DropLites, LiteTopic, SnapshotRecord};
use kerolox_log::DamagedRange;

use super::*;

fn create(name: &str) -> Record {
    let lite = LiteTopic { topic_id: 1, name: name.to_owned(), created_ms: 5, ..LiteTopic::default() };
    Record::Meta(MetaRecord { change: Some(MetaChange::PutLite(lite)) })
}

fn drop(name: &str, queue: u32, next: u64) -> Record {
    let lites = vec![DropLite { name: name.to_owned(), queue, next }];
    Record::Meta(MetaRecord { change: Some(MetaChange::DropLites(DropLites { topic_id: 1, lites })) })
}

fn done(queue: u32, end: u64) -> Record {
    let acked = vec![AckRange { start: 0, end }];
    let progress = QueueProgress { group_id: 1, topic_id: 1, queue, acked, ..QueueProgress::default() };
    Record::Progress(ProgressRecord::new([ProgressItem::Queue(progress)]))
}

impl Fold {
    fn create(&mut self, name: &str) -> u32 {
        match self.apply(create(name)).1 {
            Outcome::Lite { queue, .. } => queue,
            other => panic!("{other:?}"),
        }
    }

    /// The same index from disk.
    fn reloaded(&mut self) -> StateMachine {
        self.flush();
        StateMachine::load(self.index.kv.clone()).expect("loads")
    }
}

fn damaged(frame: &Frame) -> DamagedRange {
    let (position, until) = (frame.position, frame.position + STEP);
    DamagedRange { file: "0".to_owned(), position, until, reason: "in this test".to_owned() }
}

/// An index made from a snapshot and what follows it.
fn made_from(parts: Vec<SnapshotRecord>, later: &[Frame]) -> StateMachine {
    let mut index = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for part in parts {
        let record = Record::Snapshot(Box::new(part));
        let (kind, body) = (record.kind() as u8, Bytes::from(record.encode()));
        let frame = Frame { position: 0, len: 64, kind, epoch: 1, store_ms: 1, body };
        index.apply(&frame, &mut Vec::new()).expect("applies");
    }
    for frame in later {
        index.apply(frame, &mut Vec::new()).expect("applies");
    }
    index
}

#[test]
fn a_name_has_one_queue_with_offsets_of_its_own() {
    let mut fold = Fold::new();
    let (a, b) = (fold.create("a"), fold.create("b"));
    assert_eq!((a, b), (FIRST_LITE_QUEUE, FIRST_LITE_QUEUE + 1));
    assert_eq!(fold.apply(create("a")).1, Outcome::Lite { queue: a, is_new: false });
    assert_eq!(fold.send(b).1, Outcome::Visible { queue: b, offset: 0 });
    assert_eq!(fold.send(b).1, Outcome::Visible { queue: b, offset: 1 });
    assert_eq!(fold.send(FIRST_LITE_QUEUE + 2).1, Outcome::TopicGone, "nobody made it");
    for index in [&fold.reloaded(), &fold.index] {
        let names: Vec<_> =
            index.lites(1, "", 10).expect("reads").into_iter().map(|lite| lite.name).collect();
        assert_eq!((names, index.lites_len(1)), (vec!["a".to_owned(), "b".to_owned()], 2));
        let behind = index.lites(1, "a", 10).expect("reads");
        assert_eq!(behind.iter().map(|lite| lite.queue).collect::<Vec<_>>(), [b]);
        assert_eq!(index.lite(1, "c").expect("reads"), None);
    }
}

#[test]
fn a_lite_topic_goes_unless_a_message_came() {
    for flushed in [false, true] {
        let mut fold = Fold::new();
        let queue = fold.create("a");
        fold.send(queue);
        fold.apply(done(queue, 1));
        if flushed {
            fold.flush();
        }
        assert_eq!(fold.apply(drop("a", queue, 0)).1, Outcome::Deleted(false), "a message came");
        assert_eq!(fold.apply(drop("a", queue + 1, 1)).1, Outcome::Deleted(false), "another of this name");
        assert_eq!(fold.apply(drop("a", queue, 1)).1, Outcome::Deleted(true));
        assert_eq!(fold.send(queue).1, Outcome::TopicGone);
        fold.apply(done(queue, 1));
        assert_eq!(fold.index.acks(1, 1, queue).expect("reads"), None);
        assert_eq!(fold.create("a"), queue + 1, "numbers are never used again");
        assert_eq!(fold.index.lites_len(1), 1);
        let reloaded = fold.reloaded();
        assert!(Fold::view(&reloaded) == Fold::view(&fold.index), "flushed: {flushed}");
        for family in [Family::Entries, Family::Progress] {
            assert_eq!(fold.index.kv.scan(family, b"", 9).expect("memory"), [], "{family:?}");
        }
    }
}

#[test]
fn a_snapshot_has_lite_topics_and_the_number_of_the_next_one() {
    let mut fold = Fold::new();
    let (a, b) = (fold.create("a"), fold.create("b"));
    fold.send(a);
    fold.apply(done(a, 1));
    fold.apply(drop("b", b, 0));
    let (parts, before) = (fold.index.snapshot().expect("reads"), fold.frames.len());
    fold.send(a);
    assert_eq!(fold.create("c"), b + 1);
    let made = made_from(parts, &fold.frames[before..]);
    assert_eq!(made.lite(1, "a").expect("reads"), fold.index.lite(1, "a").expect("reads"));
    assert_eq!((made.lites_len(1), made.next_lite_queue()), (2, b + 2));
    assert_eq!(made.acks(1, 1, a).expect("reads"), fold.index.acks(1, 1, a).expect("reads"));
    assert_eq!(made.queue_bounds(1, a).next, 2);
}

#[test]
fn lite_topics_go_with_their_parent() {
    let mut fold = Fold::new();
    let queue = fold.create("a");
    fold.send(queue);
    fold.flush();
    let delete = DeleteTopic { name: "t".into() };
    fold.apply(Record::Meta(MetaRecord { change: Some(MetaChange::DeleteTopic(delete)) }));
    assert_eq!((fold.index.lites(1, "", 9).expect("reads"), fold.index.lites_len(1)), (vec![], 0));
    let reloaded = fold.reloaded();
    for family in [Family::Lites, Family::Queues, Family::Entries] {
        assert_eq!(reloaded.kv.scan(family, b"", 9).expect("memory"), [], "{family:?}");
    }
    assert_eq!(fold.apply(create("b")).1, Outcome::TopicGone);
}

/// The record that made a lite topic lies in damage: its messages stay, under a name that says so, and a snapshot behind it
/// gives the right one.
#[test]
fn lite_topics_whose_creation_is_damaged_keep_their_messages() {
    let mut whole = Fold::new();
    let lost_at = whole.frames.len();
    let queue = whole.create("a");
    whole.send(queue);
    let snapshot = whole.index.snapshot().expect("reads");

    let mut index = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for (place, frame) in whole.frames.iter().enumerate() {
        if place == lost_at {
            index.pass_damage(&damaged(frame)).expect("memory");
        } else {
            index.apply(frame, &mut Vec::new()).expect("applies");
        }
    }
    assert_eq!(index.queue_bounds(1, queue).next, 1);
    for part in snapshot {
        let record = Record::Snapshot(Box::new(part));
        let (kind, body) = (record.kind() as u8, Bytes::from(record.encode()));
        let position = STEP * (whole.frames.len() as u64 + 1);
        let frame = Frame { position, len: 64, kind, epoch: 1, store_ms: 9_000, body };
        index.apply(&frame, &mut Vec::new()).expect("applies");
    }
    assert_eq!(index.lite(1, "a").expect("reads").map(|lite| lite.queue), Some(queue));
    assert_eq!((index.lites_len(1), index.next_lite_queue()), (1, queue + 1));

    let mut open = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for frame in &whole.frames[..lost_at] {
        open.apply(frame, &mut Vec::new()).expect("applies");
    }
    open.pass_damage(&damaged(&whole.frames[lost_at])).expect("memory");
    for frame in &whole.frames[lost_at + 1..] {
        open.apply(frame, &mut Vec::new()).expect("applies");
    }
    open.name_unknown_topics().expect("memory");
    let recovered = open.lites(1, "", 9).expect("reads");
    assert_eq!(recovered.iter().map(|lite| lite.queue).collect::<Vec<_>>(), [queue]);
    assert_eq!(recovered[0].name, format!("recovered-{queue}"));
}

/// What the index has in the store at any moment is what a power cut may leave, with a log that has lost its newest records.
#[test]
fn a_deletion_changes_nothing_in_the_store_before_it_is_flushed() {
    let mut fold = Fold::new();
    let lite = fold.create("a");
    fold.send(lite);
    fold.send(0);
    fold.apply(done(lite, 1));
    let before = Fold::view(&fold.reloaded());
    let first_lost = fold.frames.len();
    assert_eq!(fold.apply(drop("a", lite, 1)).1, Outcome::Deleted(true));
    let kept = Fold::view(&StateMachine::load(fold.index.kv.clone()).expect("loads"));
    assert_eq!(kept, before, "the log may lose the record of the end");
    // The log kept it: the fold meets it again, and a lite topic of the same name begins anew.
    let mut again = StateMachine::load(fold.index.kv.clone()).expect("loads");
    let dropped = again.apply(&fold.frames[first_lost], &mut Vec::new()).expect("applies");
    assert_eq!((dropped, again.lites_len(1)), (Outcome::Deleted(true), 0));
    assert_eq!(Fold::view(&again), Fold::view(&fold.index));
    let snapshot = fold.index.snapshot().expect("reads");
    assert!(snapshot.iter().all(|part| part.progress.is_empty() && part.lites.is_empty()), "{snapshot:?}");

    let delete = |change| Record::Meta(MetaRecord { change: Some(change) });
    fold.flush();
    let before = Fold::view(&StateMachine::load(fold.index.kv.clone()).expect("loads"));
    fold.apply(done(0, 1));
    fold.apply(delete(MetaChange::DeleteGroup(DeleteGroup { name: "g".into() })));
    fold.apply(delete(MetaChange::DeleteTopic(DeleteTopic { name: "t".into() })));
    assert_eq!(Fold::view(&StateMachine::load(fold.index.kv.clone()).expect("loads")), before);
    let reloaded = fold.reloaded();
    assert_eq!((reloaded.topics().len(), reloaded.groups().len()), (0, 0));
    assert_eq!(reloaded.kv.scan(Family::Progress, &[], 9).expect("reads"), []);
    assert_eq!(reloaded.kv.scan(Family::Queues, &[], 9).expect("reads"), []);
}
