//! # Index
//!
//! The index's store of this broker, which is made anew when it turns out to be damaged: everything in it follows from the log. The
//! key-value store is watched: whatever call meets damage, it is noted once. `broker.rs`, or the task that changes roles in a group,
//! then retires the store, begins an empty index, and opens the store anew on the same log.

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

/// Pause before the index is made anew for each time that it was before, up to so many.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSES_MAX: u32 = 30;

/// The folder with the index. One task at a time makes it anew; anybody may notice damage.
pub(crate) struct IndexFolder {
    path: PathBuf,
    kv: Mutex<Arc<WatchedKv>>,
    notes: Notes,
    /// What the index held before it was found damaged, as a log position.
    held: AtomicU64,
}

/// How the index is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// What is wrong with it, until there is another one.
    pub(crate) now: Option<String>,
    /// How often it was made anew since the process began, and why the last time.
    pub(crate) remade: Option<(u32, String)>,
}

impl Damage {
    fn times(&self) -> u32 {
        self.remade.as_ref().map_or(0, |(times, _)| *times)
    }
}

impl IndexFolder {
    /// Opens the index at `path` in the folder `data`, or begins one: also in place of one that is damaged.
    ///
    /// # Errors
    /// [`KvError`] when it cannot be opened for another reason, or a new one cannot be made.
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

    /// The store of the moment.
    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        self.kv.lock().clone()
    }

    /// How the index is.
    pub(crate) fn damage(&self) -> Damage {
        self.notes.damage.borrow().clone()
    }

    /// Completes when the index is damaged, at once when it is.
    pub(crate) fn is_damaged(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut damage = self.notes.damage.subscribe();
        async move {
            // The sender lives in `self`; without it nobody notices anything any more.
            if damage.wait_for(|damage| damage.now.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes an error of the store that says that the index is damaged; any other one comes back.
    ///
    /// # Errors
    /// The error itself.
    pub(crate) fn absorb(&self, error: StoreError) -> Result<(), StoreError> {
        let Some(reason) = error.index_damage() else { return Err(error) };
        self.notes.damaged(self.damage().times(), &reason);
        if self.damage().now.is_some() { Ok(()) } else { Err(error) }
    }

    /// Begins an empty index in place of the damaged one, which held what lies before `held` in the log. Whoever still has the old one
    /// gets errors. Blocks.
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

    /// Ends the use of the index, which is written out. Blocks.
    pub(crate) fn close(&self) {
        self.kv.lock().kv.close();
    }

    /// How long to wait before it is made anew: a disk that damages one after the other is not to keep the broker busy.
    pub(crate) fn pause(&self) -> Duration {
        PAUSE * self.damage().times().min(PAUSES_MAX)
    }

    /// Up to where in the log the index was, before it was found damaged; 0 when it never was.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

fn begin(path: &Path) -> Result<RocksKv, KvError> {
    kerolox_rocks::remove(path)?;
    RocksKv::open(path)
}

/// What was noticed. Clones share it.
#[derive(Clone)]
struct Notes {
    damage: watch::Sender<Damage>,
    data: Arc<DataFolder>,
}

impl Notes {
    /// The first damage stays until there is a new index. What a call meets that still has an earlier one, made anew fewer than `times`
    /// times, is no news. In a data folder that is gone files are missing for another reason.
    fn damaged(&self, times: u32, reason: &str) {
        if self.data.look().is_err() {
            return;
        }
        self.damage.send_if_modified(|damage| {
            let is_new = damage.now.is_none() && damage.times() == times;
            if is_new {
                tracing::error!(
                    reason,
                    "the index is damaged; it is removed and made again from the log, which holds everything: see after the disk"
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

/// Tells of damage that any call meets.
struct WatchedKv {
    kv: RocksKv,
    notes: Notes,
    /// How often the index had been made anew when this one was opened.
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
