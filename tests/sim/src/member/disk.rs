//! What a member has on its disk: the log, the index, and a small file.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kerolox_log::fs::{Folder, MemFolder, SeededChoices};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_powercut::DiskKv;
use kerolox_replication::MemberRecord;
use kerolox_store::kv::Kv;
use kerolox_store::state::StateMachine;
use kerolox_store::{StandbyLog, Store, StoreOptions};

use crate::swarm::Swarm;

/// The index is made durable this often, in monotonic milliseconds.
const PERSIST_MS: u64 = 2_000;

#[derive(Debug, Default)]
struct Saved {
    current: Option<MemberRecord>,
    durable: Option<MemberRecord>,
}

/// A disk. Clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) folder: MemFolder,
    pub(crate) kv: Arc<DiskKv>,
    file: Rc<RefCell<Saved>>,
    /// Its log was lost, and no process has found that yet. A disk on which no log was begun has lost none.
    pub(crate) has_lost_log: bool,
    persisted: Rc<RefCell<u64>>,
}

impl Disk {
    pub(crate) fn blank() -> Self {
        let folder = MemFolder::new();
        let kv = Arc::new(DiskKv::empty(&folder));
        Self { folder, kv, file: Rc::default(), has_lost_log: false, persisted: Rc::default() }
    }

    /// What a process leaves that is killed.
    pub(crate) fn after_kill(&self) -> Self {
        let folder = self.folder.fork();
        let kv = Arc::new(self.kv.after_kill(&folder));
        Self { folder, kv, ..self.clone() }
    }

    /// What a power cut leaves.
    pub(crate) fn after_power_cut(&self, chooser: &mut SeededChoices) -> Self {
        self.folder.crash(chooser.next_u64());
        let kv = Arc::new(self.kv.after_power_cut(&self.folder, chooser));
        let mut file = self.file.borrow_mut();
        if chooser.chance(1, 2) {
            file.current = file.durable.clone();
        }
        file.durable = file.current.clone();
        Self { kv, ..self.clone() }
    }

    /// A copy of this disk without its index.
    pub(crate) fn without_index(&self) -> Self {
        Self { kv: Arc::new(DiskKv::empty(&self.folder)), ..self.clone() }
    }

    /// Whether the power is on.
    pub(crate) fn has_power(&self) -> bool {
        self.folder.list().is_ok()
    }

    /// A blank disk on which the file of this one is found, as if the log alone was lost.
    pub(crate) fn without_log(&self) -> Self {
        Self { file: self.file.clone(), has_lost_log: true, ..Self::blank() }
    }

    /// Reads the file, if there is one. What an earlier process wrote is made durable, as a start does.
    pub(crate) fn load(&self) -> Option<MemberRecord> {
        let mut file = self.file.borrow_mut();
        file.durable = file.current.clone();
        file.current.clone()
    }

    /// Whether the member on this disk has heard of its group, whatever happens to the power.
    pub(crate) fn knows_its_group(&self) -> bool {
        if self.has_lost_log {
            return false;
        }
        let file = self.file.borrow();
        file.durable
            .as_ref()
            .and_then(|record| record.memory.as_ref())
            .is_some_and(|memory| memory.name.version > 0)
    }

    pub(crate) fn write(&self, file: &MemberRecord) -> Result<(), String> {
        self.check_power()?;
        self.file.borrow_mut().current = Some(file.clone());
        Ok(())
    }

    pub(crate) fn sync_file(&self) -> Result<(), String> {
        self.check_power()?;
        let mut file = self.file.borrow_mut();
        file.durable = file.current.clone();
        Ok(())
    }

    fn check_power(&self) -> Result<(), String> {
        self.folder.list().map(drop).map_err(|error| error.to_string())
    }

    pub(crate) fn persist_index(&self, now_ms: u64) -> Result<(), String> {
        let mut persisted = self.persisted.borrow_mut();
        if now_ms.saturating_sub(*persisted) >= PERSIST_MS || now_ms < *persisted {
            *persisted = now_ms;
            self.kv.persist().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Opens the log on the disk, or begins one whose salt follows from `life`.
    pub(crate) fn open(&self, group: &str, life: u64, swarm: &Swarm) -> Result<Store, String> {
        let options = StoreOptions {
            broker: group.to_owned(),
            log: LogOptions {
                segment_bytes: swarm.segment_bytes,
                step_bytes: swarm.segment_bytes / 4,
                checkpoint_bytes: swarm.segment_bytes / 3,
                ..LogOptions::new(FrameSalt::new(0x5A17 + life))
            },
            waiting_bytes_max: 1 << 20,
            flush_interval: Duration::from_secs(3600),
            tail_bytes: 2048,
        };
        let store = Store::open_parked(options, Arc::new(self.folder.clone()), self.kv.clone(), || 0, |_| {});
        store.map_err(|error| error.to_string())
    }

    /// Throws log and index away; the index first, so that none is left that belongs to no log.
    pub(crate) fn empty(&self) -> Result<(), String> {
        drop(StateMachine::empty(self.kv.clone()).map_err(|error| error.to_string())?);
        kerolox_log::remove_log(&self.folder).map_err(|error| error.to_string())
    }
}

/// The log of a store that is driven by hand.
pub(crate) fn parked(store: &Store) -> Result<StandbyLog<'_>, String> {
    store.standby_log().ok_or_else(|| "the log is not parked".to_owned())
}

/// Where the log's durable records end.
pub(crate) fn held(store: &Store) -> Result<u64, String> {
    Ok(parked(store)?.held())
}
