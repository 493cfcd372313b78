//! Opening a store whose index has much to catch up with: progress, cancellation, and resumption.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, MemKv, WriteOp};
use kerolox_store::state::check::applied_of;
use kerolox_store::{RebuildProgress, Store, StoreError, StoreOpening, StoreOptions};

/// Each changes two keys of the index, which is written to its store every 50,000 keys.
const HALVES: usize = 60_000;

fn open(folder: &MemFolder, kv: Arc<dyn Kv>, opening: &StoreOpening) -> Result<Store, StoreError> {
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions {
            segment_bytes: 4 << 20,
            checkpoint_bytes: 1 << 20,
            ..LogOptions::new(FrameSalt::new(7))
        },
        waiting_bytes_max: 1 << 30,
        flush_interval: Duration::from_secs(3600),
        tail_bytes: 0,
    };
    Store::open_watched(options, Arc::new(folder.clone()), kv, || 1, |_| {}, opening)
}

/// A log of several segments.
fn written() -> MemFolder {
    let folder = MemFolder::new();
    let store = open(&folder, Arc::new(MemKv::default()), &StoreOpening::default()).expect("opens");
    let topic = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 1))) });
    store.propose(&topic, FlushRequirement::Sync, Box::new(|applied| assert!(applied.is_ok())));
    let header = MessageHeader { topic_id: 1, hold: MessageHold::Half.into(), ..MessageHeader::default() };
    let half = Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() });
    for _ in 1..HALVES {
        store.propose(&half, FlushRequirement::Async, Box::new(|applied| assert!(applied.is_ok())));
    }
    let (sender, answer) = mpsc::channel();
    store.propose(
        &half,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("waits")),
    );
    answer.recv().expect("answered").expect("stored");
    folder
}

/// The action when the index is first written to its store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtFirst {
    GoOn,
    Stop,
    Sleep(Duration),
}

/// Records the progress whenever the index is written to its store or made durable.
struct Watching {
    kv: MemKv,
    opening: Arc<StoreOpening>,
    at_first: AtFirst,
    written: Mutex<Vec<RebuildProgress>>,
    persisted: Mutex<Vec<RebuildProgress>>,
}

impl Watching {
    fn new(kv: MemKv, opening: &Arc<StoreOpening>, at_first: AtFirst) -> Arc<Self> {
        let (written, persisted) = Default::default();
        Arc::new(Self { kv, opening: opening.clone(), at_first, written, persisted })
    }
}

impl Kv for Watching {
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
        // An index that starts from nothing is emptied before the state machine is created.
        if let Some(progress) = self.opening.progress() {
            let mut written = self.written.lock().expect("no panic");
            written.push(progress);
            match self.at_first {
                AtFirst::Stop => self.opening.stop(),
                AtFirst::Sleep(time) if written.len() == 1 => std::thread::sleep(time),
                AtFirst::Sleep(_) | AtFirst::GoOn => {}
            }
        }
        self.kv.write(ops)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.persisted.lock().expect("no panic").extend(self.opening.progress());
        self.kv.persist()
    }
}

#[test]
fn progress_grows_up_to_the_end() {
    let folder = written();
    let opening = Arc::new(StoreOpening::default());
    assert_eq!(opening.progress(), None);
    let kv = Watching::new(MemKv::default(), &opening, AtFirst::GoOn);
    let store = open(&folder, kv.clone(), &opening).expect("opens");
    let seen = kv.written.lock().expect("no panic").clone();
    assert!(seen.len() > 1, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].position <= pair[1].position), "{seen:?}");
    assert!((1..99).contains(&seen[0].percent()), "{seen:?}");
    let done = opening.progress().expect("it was applied");
    assert_eq!((done.position, done.percent()), (store.positions().end, 100));
    assert_eq!(store.positions().applied, store.positions().end);
    assert_eq!(store.state().transactions.open_total(), HALVES as u64);
}

#[test]
fn a_stopped_fold_is_gone_on_with() {
    let folder = written();
    let opening = Arc::new(StoreOpening::default());
    let kv = Watching::new(MemKv::default(), &opening, AtFirst::Stop);
    let stopped = open(&folder, kv.clone(), &opening).err().expect("stopped");
    assert!(matches!(stopped, StoreError::Stopped), "{stopped}");
    let halfway = opening.progress().expect("it was applied");
    assert!(halfway.position < halfway.end, "{halfway:?}");
    let kept = MemKv::clone(&kv.kv);
    assert_eq!(applied_of(&kept).expect("reads"), Some(halfway.position));

    let again = Arc::new(StoreOpening::default());
    let store = open(&folder, Watching::new(kept, &again, AtFirst::GoOn), &again).expect("opens");
    assert_eq!(again.progress().expect("it was applied").from, halfway.position);
    assert_eq!(store.positions().applied, store.positions().end);
    assert_eq!(store.state().transactions.open_total(), HALVES as u64);
}

#[test]
fn a_long_fold_makes_durable_what_it_has() {
    let folder = written();
    let opening = Arc::new(StoreOpening::default());
    // Longer than a replay may take without making the index durable.
    let slow = AtFirst::Sleep(Duration::from_millis(2100));
    let kv = Watching::new(MemKv::default(), &opening, slow);
    drop(open(&folder, kv.clone(), &opening).expect("opens"));
    let persisted = kv.persisted.lock().expect("no panic");
    assert!(persisted.iter().any(|progress| progress.position < progress.end), "{persisted:?}");
}

#[test]
fn an_index_that_is_up_to_date_has_nothing_to_fold() {
    let folder = written();
    let kv = Arc::new(MemKv::default());
    drop(open(&folder, kv.clone(), &StoreOpening::default()).expect("opens"));
    let opening = StoreOpening::default();
    // Nothing has to be applied, so nothing can be cancelled.
    opening.stop();
    drop(open(&folder, kv, &opening).expect("opens"));
    let progress = opening.progress().expect("the log was looked at");
    assert_eq!((progress.from, progress.percent()), (progress.end, 100));
}
