//! Order of durability: the log before the index, and the index before segments are removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{EpochRecord, MessageHeader, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::replicas::{AckDurability, ReplicaRequirement};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_replication::CommitStatus;
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, MemKv, WriteOp};
use kerolox_store::state::StateMachine;
use kerolox_store::state::check::applied_of;
use kerolox_store::{Store, StoreOptions};

/// Only records that ask for it are synced.
fn options() -> StoreOptions {
    StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 4096, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_secs(3600),
        tail_bytes: 0,
    }
}

fn open(folder: &MemFolder, kv: Arc<dyn Kv>) -> Store {
    Store::open(options(), Arc::new(folder.clone()), kv, || 1, |_| {}).expect("opens")
}

/// One of a group, which applies nothing by itself.
fn open_parked(kv: Arc<dyn Kv>) -> Store {
    Store::open_parked(options(), Arc::new(MemFolder::new()), kv, || 1, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record, durability: impl Into<AckDurability>) {
    let (sender, answer) = mpsc::channel();
    store.propose(record, durability, Box::new(move |applied| sender.send(applied).expect("the test waits")));
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

/// A key-value store that counts writes to it.
#[derive(Default)]
struct Counting {
    kv: MemKv,
    writes: AtomicUsize,
    persists: AtomicUsize,
}

impl Counting {
    fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn persists(&self) -> usize {
        self.persists.load(Ordering::Relaxed)
    }
}

impl Kv for Counting {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(family, key)
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.kv.scan(family, from, limit)
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.kv.scan_around(family, prefix, at, limit)
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.kv.write(ops)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.persists.fetch_add(1, Ordering::Relaxed);
        self.kv.persist()
    }
}

#[test]
fn a_trim_makes_the_index_durable() {
    let kv = Arc::new(Counting::default());
    let store = open(&MemFolder::new(), kv.clone());
    propose(&store, &topic(), FlushRequirement::Sync);
    (0..40).for_each(|_| propose(&store, &message(), FlushRequirement::Sync));
    let before = kv.persists();
    store.trim(&store.trim_points().next().expect("a segment was begun").expect("reads")).expect("trims");
    assert!(kv.persists() > before);
}

#[test]
fn what_is_applied_and_not_confirmed_stays_out_of_the_index_also_at_the_end() {
    let kv = Arc::new(MemKv::default());
    let store = open_parked(kv.clone());
    let (opened, settled) = store.rule(1).expect("rules");
    // The other members have nothing but the beginning, and none of them can be elected.
    store.confirm(CommitStatus { all: opened, high_watermark: opened, lease_until: u64::MAX });
    settled.recv().expect("the beginning is confirmed");
    let by_the_master = AckDurability { flush: FlushRequirement::Sync, replicas: ReplicaRequirement::Master };
    propose(&store, &topic(), by_the_master);
    assert!(store.positions().applied > opened);
    store.close();
    assert!(applied_of(&*kv).expect("reads").is_none_or(|applied| applied <= opened));
}

/// A parked store whose log holds the first record of an epoch, which changes no table, and where that ends.
fn one_record(kv: Arc<dyn Kv>) -> (Store, u64) {
    let store = open_parked(kv);
    let mut log = store.standby_log().expect("parked");
    log.append(&[Record::Epoch(EpochRecord { epoch: 1, broker: "a".to_owned() })], 1, 1).expect("appends");
    let end = log.sync().expect("syncs");
    drop(log);
    store.fold_to(end, |_, _| {}).expect("folds");
    assert_eq!(store.positions().applied, end);
    (store, end)
}

#[test]
fn a_record_that_changes_nothing_moves_the_index_on_once() {
    let kv = Arc::new(Counting::default());
    let (store, end) = one_record(kv.clone());
    store.flush_parked().expect("flushes");
    assert_eq!(applied_of(&*kv).expect("reads"), Some(end));
    let writes = kv.writes();
    store.flush_parked().expect("has nothing to do");
    assert_eq!(kv.writes(), writes);
    drop(store);
    assert_eq!(StateMachine::load(kv).expect("loads").pending_len(), 0);
}

#[test]
fn an_index_of_what_is_cut_is_gone_for_good_before_the_log_is() {
    let kv = Arc::new(Counting::default());
    let (store, _) = one_record(kv.clone());
    store.flush_parked().expect("flushes");
    let before = kv.persists();
    store.standby_log().expect("parked").truncate(store.reader().start()).expect("cuts");
    assert_eq!(applied_of(&*kv).expect("reads"), None);
    assert!(kv.persists() > before, "a crash would bring it back");
}
