//! Where in the log the state stands, and whose log that is.

use std::sync::Arc;

use kerolox_core::record::{SnapshotRecord, TrimRecord};
use kerolox_log::Frame;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};
use crate::state::table::StateTable;
use crate::state::{FORMAT, keys};

/// Position, time, epoch and owner of what was applied.
pub(super) struct LogHead {
    kv: Arc<dyn Kv>,
    /// Everything before this position is applied.
    pub(super) applied: u64,
    /// What `applied` was at the last flush.
    flushed: u64,
    /// Everything before this position was given up.
    pub(super) trimmed: u64,
    /// Store time of the newest record, milliseconds since the Unix epoch.
    pub(super) store_ms: i64,
    /// Epoch of the newest record; 0 without one.
    pub(super) epoch: u32,
    /// Broker group that the log belongs to; empty before the first record.
    pub(super) broker: String,
}

impl LogHead {
    pub(super) fn new(kv: &Arc<dyn Kv>) -> Self {
        Self {
            kv: kv.clone(),
            applied: 0,
            flushed: 0,
            trimmed: 0,
            store_ms: 0,
            epoch: 0,
            broker: String::new(),
        }
    }

    /// A record was applied.
    pub(super) fn advance(&mut self, frame: &Frame) {
        assert!(frame.position >= self.applied, "records are applied once and in the order of the log");
        self.store_ms = self.store_ms.max(frame.store_ms);
        self.epoch = frame.epoch;
        self.applied = frame.end();
    }
}

impl StateTable for LogHead {
    fn families(&self) -> &'static [KeyFamily] {
        &[]
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let kv = &*self.kv;
        let known = |key: &[u8]| {
            keys::state_u64(kv, key)?
                .ok_or_else(|| StoreError::Index(String::from_utf8_lossy(key).into_owned()))
        };
        self.applied = known(keys::APPLIED)?;
        self.flushed = self.applied;
        self.trimmed = known(keys::TRIMMED)?;
        // An index from before this key was kept knows no time; the next record brings one.
        self.store_ms = keys::state_u64(kv, keys::STORE_MS)?.map_or(0, u64::cast_signed);
        // Nor the epoch: it was always the first one.
        self.epoch = keys::state_u32(kv, keys::EPOCH)?.unwrap_or(1);
        let broker = kv.get(KeyFamily::State, keys::BROKER)?;
        let broker = broker.ok_or_else(|| StoreError::Index("broker".to_owned()))?;
        self.broker = String::from_utf8_lossy(&broker).into_owned();
        Ok(())
    }

    fn write_snapshot_head(&self, head: &mut SnapshotRecord) {
        head.broker.clone_from(&self.broker);
    }

    fn apply_snapshot(&mut self, part: &mut SnapshotRecord) -> Result<(), StoreError> {
        if part.part == 0 {
            self.broker = std::mem::take(&mut part.broker);
        }
        Ok(())
    }

    fn changes(&self, ops: &mut Vec<WriteOp>) {
        ops.push(keys::put_state(keys::FORMAT, &FORMAT.to_be_bytes()));
        ops.push(keys::put_state(keys::APPLIED, &self.applied.to_be_bytes()));
        ops.push(keys::put_state(keys::STORE_MS, &self.store_ms.to_be_bytes()));
        ops.push(keys::put_state(keys::EPOCH, &self.epoch.to_be_bytes()));
        ops.push(keys::put_state(keys::TRIMMED, &self.trimmed.to_be_bytes()));
        ops.push(keys::put_state(keys::BROKER, self.broker.as_bytes()));
    }

    fn flushed(&mut self) {
        self.flushed = self.applied;
    }

    /// A record that changes nothing else moves the position: without that on disk, it would be applied again at each start.
    fn pending_len(&self) -> usize {
        usize::from(self.applied > self.flushed)
    }

    fn trim(&mut self, trim: &TrimRecord) -> Result<(), StoreError> {
        self.trimmed = self.trimmed.max(trim.before);
        Ok(())
    }
}
