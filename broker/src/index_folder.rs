//! # Index
//!
//! The index's store of this broker, which is rebuilt when it turns out to be damaged: everything in it follows from the log. The
//! key-value store is watched: damage that any call meets is recorded once. `broker.rs`, or the task that changes roles in a group,
//! then retires the store, creates an empty index, and opens the store anew on the same log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kerolox_rocks::RocksKv;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_store::StoreError;
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, WriteOp};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Pause before a rebuild for each previous one, up to a limit.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSES_MAX: u32 = 30;

/// The folder with the index. One task at a time rebuilds it; any thread may report damage.
pub(crate) struct IndexFolder {
    path: PathBuf,
    kv: Mutex<Arc<WatchedKv>>,
    notes: Notes,
    /// Log position up to which the index was applied before it was found damaged.
    held: AtomicU64,
}

/// The condition of the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The damage, until the index is replaced.
    pub(crate) now: Option<String>,
    /// Number of rebuilds since the process began, and the last reason.
    pub(crate) remade: Option<(u32, String)>,
}

impl Damage {
    fn times(&self) -> u32 {
        self.remade.as_ref().map_or(0, |(times, _)| *times)
    }
}

impl IndexFolder {
    /// Opens the index at `path` in the folder `data`, or creates one: also in place of a damaged one.
    ///
    /// # Errors
    /// [`KvError`] when it cannot be opened for another reason, or a new one cannot be created.
    pub(crate) fn open(path: PathBuf, data: Arc<DataFolder>) -> Result<Self, KvError> {
        let notes = Notes { damage: watch::Sender::new(Damage::default()), data };
        let kv = match RocksKv::open(&path) {
            Err(KvError::Damaged(reason)) => {
                notes.damaged(0, &reason);
                let kv = begin(&path)?;
                notes.remade();
                kv
            }
            opened => opened?,
        };
        let kv = Mutex::new(Arc::new(WatchedKv::new(kv, &notes)));
        Ok(Self { path, kv, notes, held: AtomicU64::new(0) })
    }

    /// The current store.
    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        self.kv.lock().clone()
    }

    /// The condition of the index.
    pub(crate) fn damage(&self) -> Damage {
        self.notes.damage.borrow().clone()
    }

    /// Completes when the index is damaged, at once if it already is.
    pub(crate) fn is_damaged(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut damage = self.notes.damage.subscribe();
        async move {
            // The sender lives in `self`; without it no damage is reported any more.
            if damage.wait_for(|damage| damage.now.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Consumes an error of the store that reports a damaged index; returns any other one.
    ///
    /// # Errors
    /// Any other error.
    pub(crate) fn absorb(&self, error: StoreError) -> Result<(), StoreError> {
        let Some(reason) = error.index_damage() else { return Err(error) };
        self.notes.damaged(self.damage().times(), &reason);
        if self.damage().now.is_some() { Ok(()) } else { Err(error) }
    }

    /// Creates an empty index in place of the damaged one, which held the log before `held`. Users of the old one get errors. Blocks.
    ///
    /// # Errors
    /// [`KvError`]
    pub(crate) fn renew(&self, held: u64) -> Result<(), KvError> {
        let mut kv = self.kv.lock();
        kv.kv.close();
        let new = begin(&self.path)?;
        self.notes.remade();
        *kv = Arc::new(WatchedKv::new(new, &self.notes));
        self.held.fetch_max(held, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the index after writing it out. Blocks.
    pub(crate) fn close(&self) {
        self.kv.lock().kv.close();
    }

    /// Pause before a rebuild: a disk that damages one index after the other must not keep the broker busy.
    pub(crate) fn pause(&self) -> Duration {
        PAUSE * self.damage().times().min(PAUSES_MAX)
    }

    /// Log position up to which the index was applied before it was found damaged; 0 if it never was.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

fn begin(path: &Path) -> Result<RocksKv, KvError> {
    kerolox_rocks::remove(path)?;
    RocksKv::open(path)
}

/// Recorded damage. Clones share it.
#[derive(Clone)]
struct Notes {
    damage: watch::Sender<Damage>,
    data: Arc<DataFolder>,
}

impl Notes {
    /// Records damage. The first one stays until there is a new index. A call on an earlier index, from before rebuild `times`, reports
    /// nothing new. If the data folder is gone, files are missing for another reason.
    fn damaged(&self, times: u32, reason: &str) {
        if self.data.look().is_err() {
            return;
        }
        self.damage.send_if_modified(|damage| {
            let is_new = damage.now.is_none() && damage.times() == times;
            if is_new {
                tracing::error!(
                    reason,
                    "the index is damaged; it is removed and rebuilt from the log, which holds everything: check the disk"
                );
                damage.now = Some(reason.to_owned());
            }
            is_new
        });
    }

    fn remade(&self) {
        self.damage.send_modify(|damage| {
            let times = damage.times();
            damage.remade = damage.now.take().map(|reason| (times + 1, reason)).or(damage.remade.take());
        });
    }
}

/// Records damage that any call meets.
struct WatchedKv {
    kv: RocksKv,
    notes: Notes,
    /// Number of rebuilds when this one was opened.
    times: u32,
}

impl WatchedKv {
    fn new(kv: RocksKv, notes: &Notes) -> Self {
        let times = notes.damage.borrow().times();
        Self { kv, notes: notes.clone(), times }
    }

    fn watched<T>(&self, outcome: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Damaged(reason)) = &outcome {
            self.notes.damaged(self.times, reason);
        }
        outcome
    }
}

impl Kv for WatchedKv {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.watched(self.kv.get(family, key))
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.watched(self.kv.scan(family, from, limit))
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.watched(self.kv.scan_around(family, prefix, at, limit))
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        self.watched(self.kv.write(ops))
    }

    fn persist(&self) -> Result<(), KvError> {
        self.watched(self.kv.persist())
    }
}
