//! Order of durability: the log before the index, and the index before segments are removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, MemKv, WriteOp};
use kerolox_store::state::check::applied_of;
use kerolox_store::{Store, StoreOptions};

/// Only records that ask for it are synced.
fn open(folder: &MemFolder, kv: Arc<dyn Kv>) -> Store {
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 4096, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_secs(3600),
        tail_bytes: 0,
    };
    Store::open(options, Arc::new(folder.clone()), kv, || 1, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record, flush: FlushRequirement) {
    let (sender, answer) = mpsc::channel();
    store.propose(record, flush, Box::new(move |applied| sender.send(applied).expect("the test waits")));
    answer.recv().expect("every proposal is answered").expect("stored");
}

fn topic() -> Record {
    Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) })
}

fn message() -> Record {
    let header = MessageHeader { topic_id: 1, message_id: "m".into(), ..MessageHeader::default() };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(vec![7; 300]) })
}

#[test]
fn changes_of_topics_are_synced_whatever_they_ask_for() {
    let store = open(&MemFolder::new(), Arc::new(MemKv::default()));
    propose(&store, &topic(), FlushRequirement::Async);
    assert_eq!(store.positions().durable, store.positions().end);
}

#[test]
fn the_index_is_flushed_when_the_log_is_durable_and_not_before() {
    let kv = Arc::new(MemKv::default());
    let store = open(&MemFolder::new(), kv.clone());
    propose(&store, &topic(), FlushRequirement::Sync);
    propose(&store, &message(), FlushRequirement::Async);
    // Several times the flush interval of the index.
    std::thread::sleep(Duration::from_millis(700));
    assert!(applied_of(&*kv).expect("reads").expect("an index") <= store.positions().durable);
    propose(&store, &message(), FlushRequirement::Sync);
    store.flush_index().expect("flushed");
    assert_eq!(applied_of(&*kv).expect("reads"), Some(store.positions().end));
}

#[test]
fn an_index_that_knows_more_than_the_log_is_made_again() {
    let kv = Arc::new(MemKv::default());
    let store = open(&MemFolder::new(), kv.clone());
    propose(&store, &topic(), FlushRequirement::Sync);
    propose(&store, &message(), FlushRequirement::Sync);
    drop(store);
    let store = open(&MemFolder::new(), kv);
    assert!(store.state().topics.all().is_empty());
    assert_eq!(store.state().queues.bounds(1, 0).next, 0);
}

/// Counts the calls that make it durable.
#[derive(Default)]
struct Counting(MemKv, AtomicUsize);

impl Kv for Counting {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(family, key)
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.0.scan(family, from, limit)
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.0.scan_around(family, prefix, at, limit)
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        self.0.write(ops)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.persist()
    }
}

#[test]
fn a_trim_makes_the_index_durable() {
    let kv = Arc::new(Counting::default());
    let store = open(&MemFolder::new(), kv.clone());
    propose(&store, &topic(), FlushRequirement::Sync);
    (0..40).for_each(|_| propose(&store, &message(), FlushRequirement::Sync));
    let before = kv.1.load(Ordering::Relaxed);
    store.trim(&store.trim_points().next().expect("a segment was begun").expect("reads")).expect("trims");
    assert!(kv.1.load(Ordering::Relaxed) > before);
}
