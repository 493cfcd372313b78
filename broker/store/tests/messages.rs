//! The store's log lines; a separate program, because there is one subscriber for the whole process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::{DiskFault, MemFolder};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{ProposeError, Store, StoreOptions};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts errors.
struct Errors(Arc<AtomicUsize>);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Values<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn propose(store: &Store, name: &str) -> Result<(), ProposeError> {
    let put = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new(name, 2))) });
    let (sender, answer) = mpsc::channel();
    store.propose(
        &put,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("the test waits")),
    );
    answer.recv().expect("every proposal is answered").map(drop)
}

#[test]
fn a_log_that_failed_is_told_of_once() {
    let errors = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::set_global_default(Errors(errors.clone())).expect("there is no other one");
    for fault in [DiskFault::Write, DiskFault::Sync] {
        errors.store(0, Ordering::SeqCst);
        let folder = MemFolder::new();
        let options = StoreOptions {
            broker: "a".to_owned(),
            log: LogOptions { segment_bytes: 1 << 16, ..LogOptions::new(FrameSalt::new(7)) },
            waiting_bytes_max: 1 << 20,
            flush_interval: Duration::from_millis(5),
            tail_bytes: 1024,
        };
        let store = Store::open(options, Arc::new(folder.clone()), Arc::new(MemKv::default()), || 0, |_| {});
        let store = store.expect("opens");
        propose(&store, "stored").expect("stored");
        folder.fail(Some(fault));
        propose(&store, "lost").expect_err("the disk fails");
        propose(&store, "refused").expect_err("it stays read-only");
        // Longer than the writer waits for a quiet moment.
        std::thread::sleep(Duration::from_millis(1500));
        drop(store);
        assert_eq!(errors.load(Ordering::SeqCst), 1, "{fault:?}");
    }
}
