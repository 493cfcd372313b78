//! A store on a simulated disk, for seeded histories with restarts, power cuts and trims.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MetaChange, MetaRecord, ProgressItem, ProgressRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::{MemFolder, SeededChoices};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{AppliedRecord, Store, StoreOptions};

/// The initial time of the wall clock.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

pub(crate) struct Machine {
    pub(crate) seed: u64,
    pub(crate) chooser: SeededChoices,
    /// The clock of the store's records.
    pub(crate) wall_ms: Arc<AtomicI64>,
    folder: MemFolder,
    kv: Arc<MemKv>,
    store: Option<Store>,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
        let wall_ms = Arc::new(AtomicI64::new(START_MS));
        let store = Some(open(&folder, &kv, &wall_ms));
        Self { seed, chooser: SeededChoices::new(seed), wall_ms, folder, kv, store }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("open between the steps")
    }

    pub(crate) fn below(&mut self, limit: u64) -> i64 {
        i64::try_from(self.chooser.below(limit)).expect("small")
    }

    /// One of several.
    pub(crate) fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let len = of.len() as u64;
        (len > 0).then(|| of[usize::try_from(self.chooser.below(len)).expect("small")])
    }

    pub(crate) fn propose(&self, record: &Record) -> AppliedRecord {
        let (sender, answer) = mpsc::channel();
        let done = Box::new(move |applied| sender.send(applied).expect("waits"));
        self.store().propose(record, FlushRequirement::Sync, done);
        answer.recv().expect("answered").expect("stored")
    }

    /// Proposes records that are stored next to each other, all or none.
    #[allow(dead_code, reason = "not every history needs it")]
    pub(crate) fn propose_all(&self, records: &[Record]) -> Vec<AppliedRecord> {
        let (sender, answer) = mpsc::channel();
        let done = Box::new(move |applied| sender.send(applied).expect("waits"));
        self.store().propose_batch(records, FlushRequirement::Sync, done);
        answer.recv().expect("answered").expect("stored")
    }

    pub(crate) fn progress(&self, item: ProgressItem) -> AppliedRecord {
        self.propose(&Record::Progress(ProgressRecord::new([item])))
    }

    pub(crate) fn put_topic(&self, topic: Topic) {
        self.propose(&Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) }));
    }

    pub(crate) fn restart(&mut self) {
        self.store.take().expect("open").close();
        self.store = Some(open(&self.folder, &self.kv, &self.wall_ms));
    }

    /// Cuts the power; acknowledged records are on disk. The index is as old as its last flush, or lost.
    pub(crate) fn kill(&mut self, loses_index: bool) {
        let kv = if loses_index { Arc::default() } else { Arc::new((*self.kv).clone()) };
        let folder = self.folder.fork();
        folder.crash(self.chooser.next_u64());
        self.store.take();
        (self.folder, self.kv) = (folder, kv);
        self.store = Some(open(&self.folder, &self.kv, &self.wall_ms));
    }

    /// Removes old segments, if there are any.
    pub(crate) fn trim(&mut self) {
        let points: Vec<_> = self.store().trim_points().collect::<Result<_, _>>().expect("reads");
        if !points.is_empty() {
            let point = usize::try_from(self.chooser.below(points.len() as u64)).expect("small");
            self.store().trim(&points[point]).expect("trims");
        }
    }
}

fn open(folder: &MemFolder, kv: &Arc<MemKv>, wall_ms: &Arc<AtomicI64>) -> Store {
    let options = StoreOptions {
        broker: "a".into(),
        log: LogOptions { segment_bytes: 4096, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let clock = Arc::clone(wall_ms);
    let clock = move || clock.load(Ordering::Relaxed);
    Store::open(options, Arc::new(folder.clone()), kv.clone(), clock, |_| {}).expect("opens")
}

/// Runs a history for each seed. Each has its own threads; a few at a time keep the cores busy.
pub(crate) fn each_seed(histories: u64, run: impl Fn(u64) + Sync) {
    let seeds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    if seed >= histories {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}
