//! A real store in memory, for unit tests.

use std::sync::Arc;
use std::time::Duration;

use kerolox_log::fs::MemFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{Store, StoreOptions};

/// An open store of an empty broker with segments of this size, whose clock is `now_ms`.
pub(crate) fn store_in_memory(segment_bytes: u64, now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Store {
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let (log, kv) = (Arc::new(MemFolder::new()), Arc::new(MemKv::default()));
    Store::open(options, log, kv, now_ms, |_| {}).expect("opens")
}
