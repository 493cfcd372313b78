//! A key-value store that a power cut leaves with a prefix of its batches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kerolox_log::fs::{Folder, MemFolder, SeededChoices};
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, MemKv, WriteOp};

/// The index of the simulated machine. It has power as long as the folder of the log has.
pub struct DiskKv {
    power: MemFolder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: MemKv,
    durable: MemKv,
    /// Batches since `durable`.
    unsaved: Vec<Vec<WriteOp>>,
}

impl DiskKv {
    /// One that holds nothing.
    pub fn empty(power: &MemFolder) -> Self {
        Self { power: power.clone(), state: Mutex::default() }
    }

    /// What a power cut leaves: everything persisted, and of the batches behind it as many as `chooser` says, each whole.
    pub fn after_power_cut(&self, power: &MemFolder, chooser: &mut SeededChoices) -> Self {
        let state = self.lock();
        let kept = chooser.below(state.unsaved.len() as u64 + 1);
        let left = state.durable.clone();
        for batch in state.unsaved.iter().take(usize::try_from(kept).expect("at most the length")) {
            left.write(batch.clone()).expect("a map in memory does not fail");
        }
        Self::holding(power, left)
    }

    /// What a process leaves that is killed.
    pub fn after_kill(&self, power: &MemFolder) -> Self {
        Self::holding(power, self.lock().current.clone())
    }

    fn holding(power: &MemFolder, pairs: MemKv) -> Self {
        let state = State { current: pairs.clone(), durable: pairs, unsaved: Vec::new() };
        Self { power: power.clone(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_power(&self) -> Result<(), KvError> {
        self.power.list().map(drop).map_err(|error| KvError::Failed(error.to_string()))
    }
}

impl Kv for DiskKv {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.lock().current.get(family, key)
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.lock().current.scan(family, from, limit)
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.lock().current.scan_around(family, prefix, at, limit)
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        self.check_power()?;
        let mut state = self.lock();
        state.current.write(ops.clone())?;
        state.unsaved.push(ops);
        Ok(())
    }

    fn persist(&self) -> Result<(), KvError> {
        self.check_power()?;
        let mut state = self.lock();
        state.durable = state.current.clone();
        state.unsaved.clear();
        Ok(())
    }
}
