//! Dead letters: they end the delivery of their originals, and can go back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::group::Group;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{
    DeadOrigin, DeadReason, MessageHeader, MessageRecord, MetaChange, MetaRecord, ProgressItem,
    ProgressRecord, Record, RedrivenRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{ApplyOutcome, StateEvent, Store, StoreOptions, TrimPoint};

const GROUP: u32 = 1;
const TOPIC: u32 = 1;
const DEAD_TOPIC: u32 = 2;

type Events = Arc<Mutex<Vec<StateEvent>>>;

fn open(folder: &MemFolder, kv: &Arc<MemKv>, events: &Events) -> Store {
    static CLOCK: AtomicI64 = AtomicI64::new(1_000);
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 8192, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let clock = || CLOCK.fetch_add(1, Ordering::Relaxed);
    let events = events.clone();
    let listener = move |event: &StateEvent| events.lock().expect("not poisoned").push(event.clone());
    Store::open(options, Arc::new(folder.clone()), kv.clone(), clock, listener).expect("opens")
}

fn propose(store: &Store, record: &Record) -> ApplyOutcome {
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |applied| sender.send(applied).expect("the test waits"));
    store.propose(record, FlushRequirement::Sync, done);
    answer.recv().expect("every proposal is answered").expect("stored").outcome
}

fn message(topic_id: u32, id: &str, dead: Option<DeadOrigin>) -> Record {
    let header = MessageHeader { topic_id, message_id: id.to_owned(), dead, ..MessageHeader::default() };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(vec![7; 200]) })
}

fn dead_letter(offset: u64) -> Record {
    let origin = DeadOrigin {
        group_id: GROUP,
        topic_id: TOPIC,
        offset,
        attempts: 3,
        reason: DeadReason::Exhausted.into(),
        ..DeadOrigin::default()
    };
    message(DEAD_TOPIC, &format!("m{offset}"), Some(origin))
}

fn redriven(dead_offset: u64, offset: u64) -> Record {
    let redriven = RedrivenRecord {
        dead_topic_id: DEAD_TOPIC,
        dead_offset,
        group_id: GROUP,
        topic_id: TOPIC,
        offset,
        ..RedrivenRecord::default()
    };
    Record::Progress(ProgressRecord::new([ProgressItem::Redriven(redriven)]))
}

/// Ten messages, of which 4 and then 2 became dead letters.
fn build(events: &Events) -> (MemFolder, Arc<MemKv>, Store) {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv, events);
    let put = |change| Record::Meta(MetaRecord { change: Some(change) });
    propose(&store, &put(MetaChange::PutTopic(Topic::new("orders", 1))));
    propose(&store, &put(MetaChange::PutTopic(Topic::new("%DLQ%billing", 1))));
    propose(&store, &put(MetaChange::PutGroup(Group::new("billing"))));
    for offset in 0..10 {
        propose(&store, &message(TOPIC, &format!("m{offset}"), None));
    }
    for (place, offset) in [4, 2].into_iter().enumerate() {
        let outcome = propose(&store, &dead_letter(offset));
        assert_eq!(outcome, ApplyOutcome::Visible { queue: 0, offset: place as u64 });
    }
    (folder, kv, store)
}

fn open_offsets(store: &Store) -> Vec<u64> {
    let acks = store.state().acks(GROUP, TOPIC, 0).expect("reads").unwrap_or_default();
    (0..10).filter(|offset| !acks.is_done(QueueOffset::new(*offset))).collect()
}

fn id_at(store: &Store, topic_id: u32, offset: u64) -> Option<String> {
    let entry = store.state().entry(topic_id, 0, offset).expect("reads")?;
    Some(store.read_message(entry.position, entry.len).expect("reads").1.header.message_id)
}

#[test]
fn a_dead_letter_ends_its_original() {
    let (folder, kv, store) = build(&Events::default());
    let check = |store: &Store| {
        assert_eq!(open_offsets(store), [0, 1, 3, 5, 6, 7, 8, 9]);
        assert_eq!(id_at(store, DEAD_TOPIC, 0).as_deref(), Some("m4"));
        assert_eq!(id_at(store, DEAD_TOPIC, 1).as_deref(), Some("m2"));
    };
    check(&store);
    drop(store);
    check(&open(&folder, &kv, &Events::default()));
    check(&open(&folder, &Arc::new(MemKv::default()), &Events::default()));
}

#[test]
fn a_dead_letter_goes_back_once_and_without_attempts() {
    let events = Events::default();
    let (folder, kv, store) = build(&events);
    assert_eq!(propose(&store, &redriven(0, 4)), ApplyOutcome::Done);
    let reopened = StateEvent::Reopened { group_id: GROUP, topic_id: TOPIC, queue: 0, offset: 4 };
    assert_eq!(events.lock().expect("not poisoned").last(), Some(&reopened));
    assert_eq!(propose(&store, &redriven(0, 4)), ApplyOutcome::Repeated);
    assert_eq!(
        propose(&store, &redriven(7, 4)),
        ApplyOutcome::Deleted(false),
        "there is no such dead letter"
    );
    let check = |store: &Store| {
        assert_eq!(open_offsets(store), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
        let acks = store.state().acks(GROUP, TOPIC, 0).expect("reads").expect("known");
        assert_eq!(acks.attempts_of(QueueOffset::new(4)), 0);
        let is_redriven = |offset| store.state().progress.is_redriven(DEAD_TOPIC, 0, offset).expect("reads");
        assert_eq!([0, 1].map(is_redriven), [true, false]);
    };
    check(&store);
    drop(store);
    check(&open(&folder, &kv, &Events::default()));
    check(&open(&folder, &Arc::new(MemKv::default()), &Events::default()));
}

fn last_trim_point(store: &Store) -> TrimPoint {
    store.trim_points().last().expect("a point").expect("reads")
}

#[test]
fn a_dead_letter_whose_original_expired_stands_for_it_and_outlives_its_segment() {
    let (folder, kv, store) = build(&Events::default());
    let fill = |store: &Store| {
        for i in 0..90 {
            propose(store, &message(TOPIC, &format!("f{i}"), None));
        }
    };
    fill(&store);
    // The dead letter comes late, so that the trim leaves it and takes the original.
    let late = propose(&store, &dead_letter(6));
    assert_eq!(late, ApplyOutcome::Visible { queue: 0, offset: 2 });
    let first = store.trim_points().next().expect("a point").expect("reads");
    store.trim(&first).expect("trims");
    assert_eq!(id_at(&store, TOPIC, 6), None, "the original is gone");
    assert_eq!(propose(&store, &redriven(2, 6)), ApplyOutcome::Done);
    assert_eq!(id_at(&store, TOPIC, 6).as_deref(), Some("m6"));
    fill(&store);
    store.trim(&last_trim_point(&store)).expect("trims");
    assert_eq!(id_at(&store, DEAD_TOPIC, 2), None, "the dead letter is gone as well");
    let check = |store: &Store| {
        assert_eq!(id_at(store, TOPIC, 6).as_deref(), Some("m6"));
        assert!(open_offsets(store).contains(&6));
    };
    check(&store);
    drop(store);
    check(&open(&folder, &kv, &Events::default()));
    check(&open(&folder, &Arc::new(MemKv::default()), &Events::default()));
}
