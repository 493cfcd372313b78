//! How a member's store is opened, made anew and given up.

use std::sync::Arc;

use kerolox_log::FrameSalt;
use kerolox_log::fs::Folder;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_store::state::StateMachine;
use kerolox_store::{GuardedClock, StateEvent, Store, StoreError, StoreOptions};
use parking_lot::RwLock;

use crate::index_folder::IndexFolder;

/// The store of this member, once there is one. It is replaced when the log has to begin anew. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct StoreCell(Arc<RwLock<Option<Arc<Store>>>>);

impl StoreCell {
    /// The store, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<Store>> {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, store: Option<Arc<Store>>) -> Option<Arc<Store>> {
        std::mem::replace(&mut *self.0.write(), store)
    }
}

/// How this member's store is opened.
pub(crate) struct Stores {
    pub(crate) options: StoreOptions,
    pub(crate) folder: Arc<dyn Folder>,
    /// The folder in which both lie.
    pub(crate) data: Arc<DataFolder>,
    pub(crate) index: Arc<IndexFolder>,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) listener: Arc<dyn Fn(&StateEvent) + Send + Sync>,
}

impl Stores {
    /// Whether there is no log yet.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn is_blank(&self) -> Result<bool, StoreError> {
        Ok(kerolox_log::is_blank(&*self.folder)?)
    }

    /// Opens the store, and begins a log if there is none. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn open(&self, cell: &StoreCell) -> Result<Arc<Store>, StoreError> {
        if let Some(store) = cell.get() {
            return Ok(store);
        }
        let store = match self.open_once() {
            Err(error) => {
                self.index.absorb(error)?;
                self.index.renew(0)?;
                self.open_once()?
            }
            Ok(store) => store,
        };
        let store = Arc::new(store);
        cell.set(Some(store.clone()));
        Ok(store)
    }

    fn open_once(&self) -> Result<Store, StoreError> {
        let (options, folder, listener) = (self.options.clone(), self.folder.clone(), self.listener.clone());
        let clock = self.clock.clone();
        let now_ms = move || clock.now_ms();
        Store::open_parked(options, folder, self.index.kv(), now_ms, move |event| listener(event))
    }

    /// Opens the store anew with an empty index, in place of one whose index is damaged. Blocks.
    ///
    /// # Errors
    /// [`StoreError`], also when the log failed: that one is not opened again.
    pub(crate) fn renew(&self, cell: &StoreCell) -> Result<Arc<Store>, StoreError> {
        let held = match cell.set(None) {
            Some(old) => {
                old.retire()?;
                old.state().applied()
            }
            None => 0,
        };
        self.index.renew(held)?;
        self.open(cell)
    }

    /// Begins the copy of another member's log, without what was there. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn begin_anew(&self, cell: &StoreCell, salt: u64, base: u64) -> Result<(), StoreError> {
        self.discard(cell)?;
        kerolox_log::begin_copy(&*self.folder, FrameSalt::new(salt), base)?;
        self.open(cell).map(drop)
    }

    /// Gives up the log and its index. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn discard(&self, cell: &StoreCell) -> Result<(), StoreError> {
        if let Some(old) = cell.set(None) {
            tracing::warn!("this member is too far behind its master, and copies its log from the beginning");
            old.close();
        }
        // The index first: one that is ahead of its log must not be left.
        if let Err(error) = StateMachine::empty(self.index.kv()) {
            self.index.absorb(error)?;
            self.index.renew(0)?;
        }
        Ok(kerolox_log::remove_log(&*self.folder)?)
    }
}
