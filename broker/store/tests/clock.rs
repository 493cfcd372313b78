//! A leaping wall clock, and its effect on memory and retention by time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::clock::ClockPolicy;
use kerolox_core::dedup::DedupPolicy;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{AppliedRecord, ApplyOutcome, GuardedClock, Store, StoreOptions};

const START_MS: i64 = 1_700_000_000_000;
const FOUR_DAYS_MS: i64 = 4 * 24 * 3_600_000;

fn propose(store: &Store, record: &Record) -> AppliedRecord {
    let (sender, answer) = mpsc::channel();
    store.propose(
        record,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("the test waits")),
    );
    answer.recv().expect("every proposal is answered").expect("stored")
}

fn topic() -> Topic {
    let attributes = [("dedup", "id"), ("dedup.window", "10m")];
    Topic {
        id: 1,
        name: "orders".to_owned(),
        read_queues: 1,
        write_queues: 1,
        attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Topic::default()
    }
}

fn send(store: &Store, id: &str) -> AppliedRecord {
    let dedup = DedupPolicy::of(&topic()).expect("it has a window");
    let mut header = MessageHeader { topic_id: 1, message_id: id.to_owned(), ..MessageHeader::default() };
    header.set_dedup(Some(dedup.hash(id, &[])));
    propose(
        store,
        &Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from("x") }),
    )
}

fn repeats(applied: &AppliedRecord, first: &AppliedRecord) -> bool {
    matches!(applied.outcome, ApplyOutcome::Duplicate(known) if known.position == first.position)
}

#[test]
fn a_leap_of_the_wall_clock_ends_no_window_and_makes_nothing_old() {
    let (wall, monotonic) = (Arc::new(AtomicI64::new(START_MS)), Arc::new(AtomicI64::new(0)));
    let clock = {
        let (wall, monotonic) = (wall.clone(), monotonic.clone());
        GuardedClock::against(
            ClockPolicy { leap_ms: 5_000, grace_ms: 10_000 },
            move || wall.load(Ordering::Relaxed),
            move || monotonic.load(Ordering::Relaxed).unsigned_abs(),
        )
    };
    let passes = |ms, leap_ms| {
        monotonic.fetch_add(ms, Ordering::Relaxed);
        wall.fetch_add(ms + leap_ms, Ordering::Relaxed);
    };
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let (folder, kv) = (Arc::new(MemFolder::new()), Arc::new(MemKv::default()));
    let store = Store::open(options, folder, kv, move || clock.now_ms(), |_| {}).expect("opens");
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic())) }));
    let first = send(&store, "first");
    for number in 0..8 {
        passes(1_000, if number == 0 { FOUR_DAYS_MS } else { 0 });
        // Each later timestamp would drop a part of the deduplication memory.
        send(&store, &format!("during {number}"));
        let again = send(&store, "first");
        assert!(repeats(&again, &first), "during the leap: {again:?}");
        assert!(store.now_ms() < START_MS + 60_000, "the leap is not believed yet");
    }
    passes(1_000, -FOUR_DAYS_MS);
    send(&store, "afterwards");
    let again = send(&store, "first");
    assert!(repeats(&again, &first), "after the leap: {again:?}");
    let stamped = store.state().offset_at(1, 0, START_MS + 60_000).expect("reads");
    assert_eq!(stamped, store.state().queues.bounds(1, 0).next, "no message bears a time of the leap");
}
