//! Messages are found again by id, by key and by time, wherever they lie.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::lookup::{id_hash, key_hash};
use kerolox_core::record::{
    DiscardRecord, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record, ReleaseRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::{Kv, MemKv};
use kerolox_store::{AppliedRecord, FoundPage, LookupPage, MessageStanding, Store, StoreOptions};

/// Milliseconds; a message is stored every second one.
static CLOCK: AtomicI64 = AtomicI64::new(1_000);

fn open(folder: &MemFolder, kv: &Arc<MemKv>) -> Store {
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 8192, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let clock = || CLOCK.fetch_add(2, Ordering::Relaxed);
    Store::open(options, Arc::new(folder.clone()), kv.clone(), clock, |_| {}).expect("opens")
}

fn propose(store: &Store, records: &[Record]) -> Vec<AppliedRecord> {
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |applied| sender.send(applied).expect("the test waits"));
    store.propose_batch(records, FlushRequirement::Sync, done);
    answer.recv().expect("every proposal is answered").expect("stored")
}

/// A message with an id and a key; the content names both, as look-ups compare it with them.
fn message(hold: MessageHold, id: &str, key: &str) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        hold: hold.into(),
        hold_ms: 1,
        message_id: id.to_owned(),
        lookups: vec![id_hash(id), key_hash(1, key)],
        ..MessageHeader::default()
    };
    let content = Bytes::from(format!("{key:>200}"));
    Record::Message(MessageRecord { header, system: Bytes::new(), content })
}

fn begin() -> (MemFolder, Arc<MemKv>, Store) {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    let topic = MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) };
    propose(&store, &[Record::Meta(topic)]);
    (folder, kv, store)
}

fn by_id(store: &Store, id: &str) -> FoundPage {
    store
        .find(id_hash(id), &LookupPage::newest(10), |message| message.header.message_id == id)
        .expect("reads")
}

fn by_key(store: &Store, key: &str, page: &LookupPage) -> FoundPage {
    let wanted = |message: &MessageRecord| message.content.trim_ascii_start() == key.as_bytes();
    store.find(key_hash(1, key), page, wanted).expect("reads")
}

fn ids(page: &FoundPage) -> Vec<&str> {
    page.messages.iter().map(|found| found.message.header.message_id.as_str()).collect()
}

#[test]
fn a_message_is_found_by_its_id_and_says_where_it_stands() {
    let (folder, kv, store) = begin();
    let halves: Vec<Record> =
        ["open", "committed", "rolled back"].map(|id| message(MessageHold::Half, id, "k")).to_vec();
    let halves = propose(&store, &halves);
    for i in 0..300 {
        propose(&store, &[message(MessageHold::None, &format!("m{i}"), "k")]);
    }
    propose(
        &store,
        &[Record::Release(ReleaseRecord {
            held: halves[1].position,
            by: "p".into(),
            ..ReleaseRecord::default()
        })],
    );
    propose(
        &store,
        &[Record::Discard(DiscardRecord {
            held: halves[2].position,
            by: "p".into(),
            ..DiscardRecord::default()
        })],
    );

    let check = |store: &Store, name: &str| {
        for i in [0, 1, 255, 256, 299] {
            let found = by_id(store, &format!("m{i}"));
            assert_eq!(ids(&found), [format!("m{i}")], "{name}");
            assert_eq!(
                found.messages[0].standing,
                MessageStanding::Visible { queue: 0, offset: i },
                "{name}"
            );
        }
        let words =
            ["open", "committed", "rolled back"].map(|id| by_id(store, id).messages[0].standing.word());
        assert_eq!(words, ["prepared", "committed", "rolled-back"], "{name}");
        assert_eq!(by_id(store, "unknown"), FoundPage::default(), "{name}");
    };
    check(&store, "in memory");
    store.flush_index().expect("flushes");
    check(&store, "in the index");
    drop(store);
    let store = open(&folder, &kv);
    check(&store, "after a start");
    drop(store);
    check(&open(&folder, &Arc::new(MemKv::default())), "with a rebuilt index");
}

#[test]
fn a_carried_message_is_found_once() {
    let (_, _, store) = begin();
    let half = propose(&store, &[message(MessageHold::Half, "kept", "k")])[0].position;
    for i in 0..100 {
        propose(&store, &[message(MessageHold::None, &format!("m{i}"), "k")]);
    }
    let before = by_id(&store, "kept");
    let point = store.trim_points().last().expect("several segments").expect("reads");
    store.trim(&point).expect("trims");
    let after = by_id(&store, "kept");
    assert_eq!((after.messages.len(), after.messages[0].position), (1, half));
    assert_eq!(after.messages[0].store_ms, before.messages[0].store_ms);
    assert_eq!(after.messages[0].standing.word(), "prepared");
    assert_eq!(by_id(&store, "m0"), FoundPage::default(), "trimmed");
    propose(
        &store,
        &[Record::Release(ReleaseRecord { held: half, by: "p".into(), ..ReleaseRecord::default() })],
    );
    assert_eq!(by_id(&store, "kept").messages[0].standing.word(), "committed");
}

#[test]
fn a_key_gives_its_messages_newest_first_and_page_by_page() {
    let (_, _, store) = begin();
    let mut times = Vec::new();
    for i in 0..50 {
        let key = if i % 2 == 0 { "even" } else { "odd" };
        times.push(propose(&store, &[message(MessageHold::None, &format!("m{i}"), key)])[0].store_ms);
    }
    let mut page = LookupPage::newest(10);
    let mut found = Vec::new();
    loop {
        let next = by_key(&store, "even", &page);
        assert!(next.messages.len() <= 10);
        found.extend(ids(&next).into_iter().map(str::to_owned));
        match next.next {
            Some(before) => page.before = before,
            None => break,
        }
    }
    let wanted: Vec<String> = (0..25).rev().map(|i| format!("m{}", 2 * i)).collect();
    assert_eq!(found, wanted);

    let of_time = LookupPage { since_ms: times[10], until_ms: times[20], ..LookupPage::newest(100) };
    assert_eq!(ids(&by_key(&store, "even", &of_time)), ["m18", "m16", "m14", "m12", "m10"]);
}

#[test]
fn equal_hashes_are_told_apart() {
    let (_, _, store) = begin();
    let Record::Message(mut other) = message(MessageHold::None, "other", "k") else { panic!("a message") };
    other.header.lookups = vec![id_hash("wanted")];
    propose(&store, &[message(MessageHold::None, "wanted", "k"), Record::Message(other)]);
    assert_eq!(ids(&by_id(&store, "wanted")), ["wanted"]);
}

#[test]
fn a_time_gives_the_first_offset_from_there_on() {
    let (_, kv, store) = begin();
    let mut times = Vec::new();
    for i in 0..40 {
        // Several messages with equal times.
        let batch: Vec<Record> =
            (0..20).map(|j| message(MessageHold::None, &format!("m{i}-{j}"), "k")).collect();
        times.push(propose(&store, &batch)[0].store_ms);
        if i % 7 == 0 {
            store.flush_index().expect("flushes");
        }
    }
    let index = store.state();
    for (i, time) in times.iter().enumerate() {
        let first = 20 * i as u64;
        assert_eq!(index.offset_at(1, 0, *time).expect("reads"), first);
        assert_eq!(index.offset_at(1, 0, time - 1).expect("reads"), first, "nothing is of that time");
        assert_eq!(index.offset_at(1, 0, time + 1).expect("reads"), first + 20);
    }
    assert_eq!(index.offset_at(1, 0, i64::MIN).expect("reads"), 0);
    assert_eq!(index.offset_at(1, 0, i64::MAX).expect("reads"), 800);
    assert_eq!(index.offset_at(9, 9, 0).expect("reads"), 0, "an unused queue");
    let blocks = kv.scan(kerolox_store::kv::KeyFamily::Entries, b"", 100).expect("memory");
    assert!(blocks.len() > 3, "some of the entries were read from the index");
}
