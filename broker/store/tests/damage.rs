//! A damaged log: the rest stays usable, and the damage is reported.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{AppliedRecord, Store, StoreOptions};

const SEGMENT: &str = "00000000000000000000.log";

fn options() -> StoreOptions {
    StoreOptions {
        broker: "a".into(),
        log: LogOptions {
            segment_bytes: 1 << 16,
            checkpoint_bytes: 1 << 20,
            ..LogOptions::new(FrameSalt::new(7))
        },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    }
}

fn open(folder: &MemFolder, kv: &Arc<MemKv>) -> Store {
    Store::open(options(), Arc::new(folder.clone()), kv.clone(), || 1, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record) -> AppliedRecord {
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |applied| sender.send(applied).expect("the test waits"));
    store.propose(record, FlushRequirement::Sync, done);
    answer.recv().expect("answered").expect("stored")
}

fn send(store: &Store, id: &str) -> u64 {
    let header = MessageHeader {
        topic_id: 1,
        hold: MessageHold::None.into(),
        message_id: id.to_owned(),
        ..MessageHeader::default()
    };
    let message = MessageRecord { header, system: Bytes::new(), content: Bytes::from(id.to_owned()) };
    propose(store, &Record::Message(message)).position
}

/// A store with ten messages; returns their positions.
fn filled(folder: &MemFolder, kv: &Arc<MemKv>) -> Vec<u64> {
    let store = open(folder, kv);
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) }));
    (0..10).map(|i| send(&store, &format!("m{i}"))).collect()
}

/// Message ids by queue offset; `None` for an unreadable message.
fn contents(store: &Store) -> Vec<Option<String>> {
    let entries = store.state().queues.entries(1, 0, 0, 1000).expect("reads");
    let read = entries.iter().map(|(_, entry)| match store.read_message(entry.position, entry.len) {
        Ok((_, message)) => Some(message.header.message_id),
        Err(error) => {
            assert!(error.is_damage(), "{error}");
            assert!(
                error.to_string().contains(SEGMENT)
                    && error.to_string().contains(&entry.position.to_string())
            );
            None
        }
    });
    read.collect()
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<Option<String>> {
    numbers.into_iter().map(|i| Some(format!("m{i}"))).collect()
}

fn flip(folder: &MemFolder, position: u64) {
    folder.flip(SEGMENT, usize::try_from(position).expect("small") + 40);
}

#[test]
fn a_damaged_message_is_reported_when_it_is_read_and_the_others_stay() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let positions = filled(&folder, &kv);
    flip(&folder, positions[4]);
    let store = open(&folder, &kv);
    assert_eq!(store.damaged(), [], "no reader has met the damage yet");
    let mut expected = ids(0..10);
    expected[4] = None;
    assert_eq!(contents(&store), expected);
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!((damaged[0].position, damaged[0].until), (positions[4], positions[5]));
    send(&store, "m10");
    expected.extend(ids([10]));
    assert_eq!(contents(&store), expected);
    assert_eq!(store.damaged().len(), 1, "told once");
}

#[test]
fn an_index_is_rebuilt_from_what_can_be_read() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let positions = filled(&folder, &kv);
    flip(&folder, positions[4]);
    flip(&folder, positions[5]);
    let store = open(&folder, &Arc::new(MemKv::default()));
    assert_eq!(contents(&store), [ids(0..4), ids(6..10)].concat());
    let damaged: Vec<(u64, u64)> =
        store.damaged().iter().map(|range| (range.position, range.until)).collect();
    assert_eq!(damaged, [(positions[4], positions[6])]);
    send(&store, "m10");
    assert_eq!(contents(&store).last(), ids([10]).last());
}

/// The device loses a place in the middle of the log. The index is rebuilt all the same.
#[test]
fn an_index_is_rebuilt_around_what_the_device_cannot_read() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) }));
    let positions: Vec<u64> = (0..200).map(|i| send(&store, &format!("m{i}"))).collect();
    drop(store);
    let bad = 4096..8192;
    folder.give_up(SEGMENT, bad.start..bad.start + 512);
    // With an index only the messages themselves are missing.
    let store = open(&folder, &kv);
    let found = contents(&store);
    assert_eq!(found.len(), 200);
    let (first, last) = (store.damaged()[0].clone(), store.damaged().pop().expect("reported"));
    assert!(first.position < 8192 && last.until > 4096 && first.file == SEGMENT, "{first:?}");
    assert!(first.reason.contains("cannot be read"), "{first:?}");
    drop(store);
    let store = open(&folder, &Arc::new(MemKv::default()));
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].position <= 4096 && damaged[0].until >= 8192);
    let outside = |at: &u64| *at < damaged[0].position || *at >= damaged[0].until;
    let expected = positions.iter().enumerate().filter(|(_, at)| outside(at)).map(|(i, _)| i);
    assert_eq!(contents(&store), ids(expected));
}

/// Nothing readable follows: the device may be gone, and the index must not continue without the unreadable part.
#[test]
fn an_index_does_not_go_on_without_an_end_that_cannot_be_read() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    filled(&folder, &kv);
    // The last record is longer than the lost part, so that the end of the log is readable.
    let last = send(&open(&folder, &kv), &"x".repeat(9000));
    assert!(last < 4096);
    folder.give_up(SEGMENT, 4096..8192);
    assert_eq!(contents(&open(&folder, &kv)).len(), 11, "with an index there is nothing to read");
    let opened = Store::open(options(), Arc::new(folder), Arc::new(MemKv::default()), || 1, |_| {});
    let error = opened.err().expect("refused").to_string();
    assert!(error.contains("cannot be read at position"), "{error}");
}

#[test]
fn damage_that_recovery_meets_is_remembered() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let positions = filled(&folder, &kv);
    // Without a checkpoint, recovery reads the whole segment; the index needs nothing of it.
    folder.truncate("checkpoint", 0);
    flip(&folder, positions[4]);
    let store = open(&folder, &kv);
    assert_eq!(store.damaged().len(), 1);
    assert_eq!(contents(&store).len(), 10);
}

#[test]
fn the_owner_of_a_log_is_written_again_when_the_first_record_is_damaged() {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    filled(&folder, &kv);
    folder.flip(SEGMENT, 96);
    drop(open(&folder, &Arc::new(MemKv::default())));
    let store = open(&folder, &Arc::new(MemKv::default()));
    assert_eq!(contents(&store), ids(0..10));
}
