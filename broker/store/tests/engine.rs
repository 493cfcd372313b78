//! The whole engine on simulated files: proposals from many threads, restarts, power cuts, failing disks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{
    LiteTopic, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record, ReleaseRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::{DiskFault, Folder, MemFolder};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{AppliedRecord, ApplyOutcome, ProposeError, StateEvent, Store, StoreError, StoreOptions};

fn options(broker: &str) -> StoreOptions {
    StoreOptions {
        broker: broker.to_owned(),
        log: LogOptions { segment_bytes: 4096, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 1024,
    }
}

fn open(folder: &MemFolder, kv: &Arc<MemKv>) -> Store {
    static CLOCK: AtomicI64 = AtomicI64::new(1_000);
    let clock = || CLOCK.fetch_add(1, Ordering::Relaxed);
    Store::open(options("a"), Arc::new(folder.clone()), kv.clone(), clock, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record) -> Result<AppliedRecord, ProposeError> {
    let (sender, answer) = mpsc::channel();
    store.propose(
        record,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("the test waits")),
    );
    answer.recv().expect("every proposal is answered")
}

fn topic(store: &Store, name: &str) {
    let put = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new(name, 2))) });
    propose(store, &put).expect("stored");
}

fn message(queue: u32, hold: MessageHold, body: &str) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        queue,
        hold: hold.into(),
        message_id: body.to_owned(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(body.to_owned()) })
}

fn contents(store: &Store, queue: u32) -> Vec<String> {
    let entries = store.state().queues.entries(1, queue, 0, 100_000).expect("reads");
    entries
        .iter()
        .map(|(_, entry)| store.read_message(entry.position, entry.len).expect("reads").1.header.message_id)
        .collect()
}

#[test]
fn many_proposers_get_distinct_offsets_and_a_restart_keeps_them() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    topic(&store, "t");
    let offsets = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, offsets) = (&store, &offsets);
            scope.spawn(move || {
                for i in 0..200 {
                    let applied = propose(store, &message(0, MessageHold::None, &format!("{thread}-{i}")))
                        .expect("stored");
                    let ApplyOutcome::Visible { offset, .. } = applied.outcome else { panic!("{applied:?}") };
                    assert!(offsets.lock().expect("no panic").insert(offset), "offset {offset} given twice");
                }
            });
        }
    });
    assert_eq!(offsets.into_inner().expect("no panic"), (0..1600).collect());
    let before = contents(&store, 0);
    let positions = store.positions();
    assert_eq!((positions.end, positions.durable), (positions.applied, positions.applied));
    store.close();
    assert_eq!(propose(&store, &message(0, MessageHold::None, "late")), Err(ProposeError::Closed));
    drop(store);
    assert_eq!(contents(&open(&folder, &kv), 0), before);
}

#[test]
fn power_cuts_keep_what_was_acknowledged_whatever_the_index_remembers() {
    let folder = MemFolder::new();
    let mut kv = Arc::new(MemKv::default());
    let store = open(&folder, &kv);
    topic(&store, "t");
    drop(store);
    let mut acknowledged = Vec::new();
    for round in 0..12u64 {
        let old_index = Arc::new(MemKv::clone(&kv));
        let store = open(&folder, &kv);
        assert_eq!(contents(&store, 0), acknowledged, "round {round}");
        for i in 0..50 {
            let id = format!("{round}-{i}");
            let held = propose(&store, &message(0, MessageHold::Half, &id)).expect("stored");
            assert_eq!(held.outcome, ApplyOutcome::Held);
            let commit = Record::Release(ReleaseRecord {
                held: held.position,
                by: "p".into(),
                ..ReleaseRecord::default()
            });
            let outcome = propose(&store, &commit).expect("stored").outcome;
            assert_eq!(outcome, ApplyOutcome::Visible { queue: 0, offset: acknowledged.len() as u64 });
            acknowledged.push(id);
        }
        drop(store);
        folder.crash(round);
        // The index is lost, older, or intact.
        kv = match round % 3 {
            0 => Arc::new(MemKv::default()),
            1 => old_index,
            _ => kv,
        };
    }
    assert_eq!(contents(&open(&folder, &kv), 0), acknowledged);
}

#[test]
fn a_failing_disk_makes_the_store_read_only_and_says_why() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    topic(&store, "t");
    propose(&store, &message(0, MessageHold::None, "kept")).expect("stored");
    folder.fail(Some(DiskFault::Sync));
    assert!(matches!(
        propose(&store, &message(0, MessageHold::None, "lost")),
        Err(ProposeError::ReadOnly(_))
    ));
    folder.fail(None);
    let error = propose(&store, &message(0, MessageHold::None, "refused")).expect_err("sticky");
    assert!(
        matches!(&error, ProposeError::ReadOnly(reason) if reason.contains("simulated disk failure")),
        "{error}"
    );
    assert!(store.failure().is_some());
    assert_eq!(contents(&store, 0), ["kept"], "only durable records are visible; reading goes on");
}

/// No write failed, so nothing is in doubt: no restart is needed to continue.
#[test]
fn a_full_disk_refuses_new_messages_and_takes_decisions_and_goes_on_when_there_is_room() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    topic(&store, "t");
    let held = propose(&store, &message(0, MessageHold::Half, "half")).expect("stored").position;
    let used = |folder: &MemFolder| {
        let names = folder.names().into_iter();
        names.map(|name| folder.content(&name).expect("listed").len() as u64).sum()
    };
    folder.set_capacity(Some(used(&folder)));
    let mut sent = 0;
    let refused = loop {
        match propose(&store, &message(0, MessageHold::None, &format!("{sent} {}", "x".repeat(80)))) {
            Ok(_) => sent += 1,
            Err(reason) => break reason,
        }
    };
    assert_eq!(refused, ProposeError::NoRoom);
    assert!(sent < 40, "the reserved space takes some: {sent}");
    let release = Record::Release(ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() });
    propose(&store, &release).expect("a decision is taken");
    assert_eq!(propose(&store, &message(0, MessageHold::None, "still full")), Err(ProposeError::NoRoom));
    assert_eq!(store.failure(), None);
    folder.set_capacity(None);
    propose(&store, &message(0, MessageHold::None, "there is room")).expect("stored");
    store.close();
    drop(store);
    let found = contents(&open(&folder, &kv), 0);
    assert_eq!((found.len(), found.last().map(String::as_str)), (sent + 2, Some("there is room")));
}

#[test]
fn without_a_sync_a_record_is_answered_at_once_and_durable_a_little_later() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let options = StoreOptions { flush_interval: Duration::from_millis(50), ..options("a") };
    let store = Store::open(options, Arc::new(folder.clone()), kv, || 0, |_| {}).expect("opens");
    topic(&store, "t");
    let before = store.positions().durable;
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |applied| sender.send(applied).expect("the test waits"));
    store.propose(&message(0, MessageHold::None, "soon"), FlushRequirement::Async, done);
    let applied = answer.recv().expect("answered").expect("stored");
    assert!(applied.position >= before, "it lies behind the durable records");
    assert_eq!(contents(&store, 0), ["soon"]);
    while store.positions().durable <= applied.position {
        std::thread::sleep(Duration::from_millis(5));
    }
    // A failed sync after the answer makes the store read-only as well.
    folder.fail(Some(DiskFault::Sync));
    store.propose(&message(0, MessageHold::None, "perhaps"), FlushRequirement::Async, Box::new(drop));
    while store.failure().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(propose(&store, &message(0, MessageHold::None, "no")), Err(ProposeError::ReadOnly(_))));
}

#[test]
fn store_times_never_run_backwards_even_when_the_clock_does() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let mut last = 0;
    for clock_ms in [5_000, 3_000, 4_000] {
        let store = Store::open(options("a"), Arc::new(folder.clone()), kv.clone(), move || clock_ms, |_| {});
        let store = store.expect("opens");
        if last == 0 {
            topic(&store, "t");
        }
        let applied = propose(&store, &message(0, MessageHold::None, "m")).expect("stored");
        assert!(applied.store_ms >= last, "{} follows {last}", applied.store_ms);
        last = applied.store_ms;
    }
    assert_eq!(last, 5_000);
}

#[test]
fn the_data_of_another_broker_group_is_refused() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    drop(open(&folder, &kv));
    let error = Store::open(options("b"), Arc::new(folder), kv, || 0, |_| {}).err().expect("refused");
    assert!(matches!(error, StoreError::ForeignData { found, wanted } if found == "a" && wanted == "b"));
}

#[test]
fn events_tell_what_became_visible() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let (sender, events) = mpsc::channel();
    let listener = move |event: &StateEvent| sender.send(event.clone()).expect("the test listens");
    let store = Store::open(options("a"), Arc::new(folder), kv, || 7, listener).expect("opens");
    topic(&store, "t");
    propose(&store, &message(1, MessageHold::None, "m")).expect("stored");
    propose(&store, &message(1, MessageHold::Half, "h")).expect("stored");
    let seen: Vec<StateEvent> = events.try_iter().collect();
    assert_eq!(
        seen,
        [
            StateEvent::TopicsChanged,
            StateEvent::Arrived { topic_id: 1, queue: 1, end: 1 },
            StateEvent::HalfDue { due_ms: 7 }
        ]
    );
}

/// The state is larger than a segment: then segments grow, or each record would get a segment with the whole state.
#[test]
fn a_state_larger_than_a_segment_does_not_fill_the_log() {
    let folder = MemFolder::new();
    let store = open(&folder, &Arc::default());
    topic(&store, "t");
    let lite = |number: u32| {
        let name = format!("a lite topic with a name of some length {number}");
        let lite = LiteTopic { topic_id: 1, name, created_ms: 1, ..LiteTopic::default() };
        Record::Meta(MetaRecord { change: Some(MetaChange::PutLite(lite)) })
    };
    let lites: Vec<Record> = (0..2_000).map(lite).collect();
    let (sender, answer) = mpsc::channel();
    store.propose_batch(
        &lites,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("waits")),
    );
    answer.recv().expect("answered").expect("stored");
    let segments = || folder.list().expect("lists").iter().filter(|name| name.ends_with(".log")).count();
    let before = segments();
    for number in 0..200 {
        propose(&store, &message(0, MessageHold::None, &format!("{number} {}", "x".repeat(200))))
            .expect("stored");
    }
    assert!(segments() <= before + 2, "{} segments for 60 kB", segments() - before);
}
