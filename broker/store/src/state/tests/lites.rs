//! Lite topics in the replay.

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

impl Replay {
    fn create(&mut self, name: &str) -> u32 {
        match self.apply(create(name)).1 {
            ApplyOutcome::Lite { queue, .. } => queue,
            other => panic!("{other:?}"),
        }
    }

    /// The state reloaded from its store.
    fn reloaded(&mut self) -> StateMachine {
        self.flush();
        StateMachine::load(self.state.kv.clone()).expect("loads")
    }
}

fn damaged(frame: &Frame) -> DamagedRange {
    let (position, until) = (frame.position, frame.position + STEP);
    DamagedRange { file: "0".to_owned(), position, until, reason: "in this test".to_owned() }
}

/// A state made from a snapshot and later records.
fn made_from(parts: Vec<SnapshotRecord>, later: &[Frame]) -> StateMachine {
    let mut state = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for part in parts {
        let record = Record::Snapshot(Box::new(part));
        let (kind, body) = (record.kind() as u8, Bytes::from(record.encode()));
        let frame = Frame { position: 0, len: 64, kind, epoch: 1, store_ms: 1, body };
        state.apply(&frame, &mut Vec::new()).expect("applies");
    }
    for frame in later {
        state.apply(frame, &mut Vec::new()).expect("applies");
    }
    state
}

#[test]
fn a_name_has_one_queue_with_offsets_of_its_own() {
    let mut replay = Replay::new();
    let (a, b) = (replay.create("a"), replay.create("b"));
    assert_eq!((a, b), (FIRST_LITE_QUEUE, FIRST_LITE_QUEUE + 1));
    assert_eq!(replay.apply(create("a")).1, ApplyOutcome::Lite { queue: a, is_new: false });
    assert_eq!(replay.send(b).1, ApplyOutcome::Visible { queue: b, offset: 0 });
    assert_eq!(replay.send(b).1, ApplyOutcome::Visible { queue: b, offset: 1 });
    assert_eq!(replay.send(FIRST_LITE_QUEUE + 2).1, ApplyOutcome::TopicGone, "no record created it");
    for state in [&replay.reloaded(), &replay.state] {
        let names: Vec<_> =
            state.lites.page(1, "", 10).expect("reads").into_iter().map(|lite| lite.name).collect();
        assert_eq!((names, state.queues.lite_len(1)), (vec!["a".to_owned(), "b".to_owned()], 2));
        let behind = state.lites.page(1, "a", 10).expect("reads");
        assert_eq!(behind.iter().map(|lite| lite.queue).collect::<Vec<_>>(), [b]);
        assert_eq!(state.lites.get(1, "c").expect("reads"), None);
    }
}

#[test]
fn a_lite_topic_goes_unless_a_message_came() {
    for flushed in [false, true] {
        let mut replay = Replay::new();
        let queue = replay.create("a");
        replay.send(queue);
        replay.apply(done(queue, 1));
        if flushed {
            replay.flush();
        }
        assert_eq!(replay.apply(drop("a", queue, 0)).1, ApplyOutcome::Deleted(false), "a message came");
        assert_eq!(
            replay.apply(drop("a", queue + 1, 1)).1,
            ApplyOutcome::Deleted(false),
            "another of this name"
        );
        assert_eq!(replay.apply(drop("a", queue, 1)).1, ApplyOutcome::Deleted(true));
        assert_eq!(replay.send(queue).1, ApplyOutcome::TopicGone);
        replay.apply(done(queue, 1));
        assert_eq!(replay.state.acks(1, 1, queue).expect("reads"), None);
        assert_eq!(replay.create("a"), queue + 1, "numbers are never used again");
        assert_eq!(replay.state.queues.lite_len(1), 1);
        let reloaded = replay.reloaded();
        assert!(Replay::view(&reloaded) == Replay::view(&replay.state), "flushed: {flushed}");
        for family in [KeyFamily::Entries, KeyFamily::Progress] {
            assert_eq!(replay.state.kv.scan(family, b"", 9).expect("memory"), [], "{family:?}");
        }
    }
}

#[test]
fn a_snapshot_has_lite_topics_and_the_number_of_the_next_one() {
    let mut replay = Replay::new();
    let (a, b) = (replay.create("a"), replay.create("b"));
    replay.send(a);
    replay.apply(done(a, 1));
    replay.apply(drop("b", b, 0));
    let (parts, before) = (replay.state.snapshot().expect("reads"), replay.frames.len());
    replay.send(a);
    assert_eq!(replay.create("c"), b + 1);
    let made = made_from(parts, &replay.frames[before..]);
    assert_eq!(made.lites.get(1, "a").expect("reads"), replay.state.lites.get(1, "a").expect("reads"));
    assert_eq!((made.queues.lite_len(1), made.lites.next_queue()), (2, b + 2));
    assert_eq!(made.acks(1, 1, a).expect("reads"), replay.state.acks(1, 1, a).expect("reads"));
    assert_eq!(made.queues.bounds(1, a).next, 2);
}

#[test]
fn lite_topics_go_with_their_parent() {
    let mut replay = Replay::new();
    let queue = replay.create("a");
    replay.send(queue);
    replay.flush();
    let delete = DeleteTopic { name: "t".into() };
    replay.apply(Record::Meta(MetaRecord { change: Some(MetaChange::DeleteTopic(delete)) }));
    assert_eq!(
        (replay.state.lites.page(1, "", 9).expect("reads"), replay.state.queues.lite_len(1)),
        (vec![], 0)
    );
    let reloaded = replay.reloaded();
    for family in [KeyFamily::Lites, KeyFamily::Queues, KeyFamily::Entries] {
        assert_eq!(reloaded.kv.scan(family, b"", 9).expect("memory"), [], "{family:?}");
    }
    assert_eq!(replay.apply(create("b")).1, ApplyOutcome::TopicGone);
}

/// Damage hides the record that made a lite topic: its messages stay, under a name that shows this, and a later snapshot
/// restores the right one.
#[test]
fn lite_topics_whose_creation_is_damaged_keep_their_messages() {
    let mut whole = Replay::new();
    let lost_at = whole.frames.len();
    let queue = whole.create("a");
    whole.send(queue);
    let snapshot = whole.state.snapshot().expect("reads");

    let mut state = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for (place, frame) in whole.frames.iter().enumerate() {
        if place == lost_at {
            state.pass_damage(&damaged(frame)).expect("memory");
        } else {
            state.apply(frame, &mut Vec::new()).expect("applies");
        }
    }
    assert_eq!(state.queues.bounds(1, queue).next, 1);
    for part in snapshot {
        let record = Record::Snapshot(Box::new(part));
        let (kind, body) = (record.kind() as u8, Bytes::from(record.encode()));
        let position = STEP * (whole.frames.len() as u64 + 1);
        let frame = Frame { position, len: 64, kind, epoch: 1, store_ms: 9_000, body };
        state.apply(&frame, &mut Vec::new()).expect("applies");
    }
    assert_eq!(state.lites.get(1, "a").expect("reads").map(|lite| lite.queue), Some(queue));
    assert_eq!((state.queues.lite_len(1), state.lites.next_queue()), (1, queue + 1));

    let mut open = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for frame in &whole.frames[..lost_at] {
        open.apply(frame, &mut Vec::new()).expect("applies");
    }
    open.pass_damage(&damaged(&whole.frames[lost_at])).expect("memory");
    for frame in &whole.frames[lost_at + 1..] {
        open.apply(frame, &mut Vec::new()).expect("applies");
    }
    open.name_unknown_topics().expect("memory");
    let recovered = open.lites.page(1, "", 9).expect("reads");
    assert_eq!(recovered.iter().map(|lite| lite.queue).collect::<Vec<_>>(), [queue]);
    assert_eq!(recovered[0].name, format!("recovered-{queue}"));
}

/// The store's content at any moment may be all that a power cut leaves, with a log that has lost its newest records.
#[test]
fn a_deletion_changes_nothing_in_the_store_before_it_is_flushed() {
    let mut replay = Replay::new();
    let lite = replay.create("a");
    replay.send(lite);
    replay.send(0);
    replay.apply(done(lite, 1));
    let before = Replay::view(&replay.reloaded());
    let first_lost = replay.frames.len();
    assert_eq!(replay.apply(drop("a", lite, 1)).1, ApplyOutcome::Deleted(true));
    let kept = Replay::view(&StateMachine::load(replay.state.kv.clone()).expect("loads"));
    assert_eq!(kept, before, "the log may lose the record of the end");
    // The log kept the record: the replay applies it again, and a lite topic of that name begins anew.
    let mut again = StateMachine::load(replay.state.kv.clone()).expect("loads");
    let dropped = again.apply(&replay.frames[first_lost], &mut Vec::new()).expect("applies");
    assert_eq!((dropped, again.queues.lite_len(1)), (ApplyOutcome::Deleted(true), 0));
    assert_eq!(Replay::view(&again), Replay::view(&replay.state));
    let snapshot = replay.state.snapshot().expect("reads");
    assert!(snapshot.iter().all(|part| part.progress.is_empty() && part.lites.is_empty()), "{snapshot:?}");

    let delete = |change| Record::Meta(MetaRecord { change: Some(change) });
    replay.flush();
    let before = Replay::view(&StateMachine::load(replay.state.kv.clone()).expect("loads"));
    replay.apply(done(0, 1));
    replay.apply(delete(MetaChange::DeleteGroup(DeleteGroup { name: "g".into() })));
    replay.apply(delete(MetaChange::DeleteTopic(DeleteTopic { name: "t".into() })));
    assert_eq!(Replay::view(&StateMachine::load(replay.state.kv.clone()).expect("loads")), before);
    let reloaded = replay.reloaded();
    assert_eq!((reloaded.topics.all().len(), reloaded.groups.all().len()), (0, 0));
    assert_eq!(reloaded.kv.scan(KeyFamily::Progress, &[], 9).expect("reads"), []);
    assert_eq!(reloaded.kv.scan(KeyFamily::Queues, &[], 9).expect("reads"), []);
}
