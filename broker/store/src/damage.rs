//! Damage found in the log, remembered for health checks and tools.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use kerolox_log::{DamagedRange, LogError};

use crate::error::StoreError;
use crate::state::QueueRepair;

/// Number of ranges that are remembered; a log with more has other problems.
const RANGES_MAX: usize = 1000;

/// Damaged ranges by their beginning.
#[derive(Default)]
pub(crate) struct Damage {
    ranges: Mutex<BTreeMap<u64, DamagedRange>>,
    /// Effect on the index when it was brought up to date; known once the store is open.
    repairs: OnceLock<Vec<QueueRepair>>,
}

impl Damage {
    /// Remembers a range, and logs it the first time.
    pub(crate) fn note(&self, range: &DamagedRange) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.range(..=range.position).next_back();
        if before.is_some_and(|(_, known)| range.until <= known.until) || ranges.len() >= RANGES_MAX {
            return;
        }
        tracing::error!(damage = %range, "part of the log cannot be read");
        ranges.retain(|_, known| known.position < range.position || known.until > range.until);
        ranges.insert(range.position, range.clone());
    }

    /// Remembers the damage that an error reports, and passes the error on.
    pub(crate) fn notice(&self, error: LogError) -> LogError {
        if let LogError::Damaged(range) = &error {
            self.note(range);
        }
        error
    }

    /// Remembers the effect on the queues when the store was opened, and logs it.
    pub(crate) fn note_repairs(&self, repairs: &[QueueRepair]) {
        for repair in repairs.iter().take(RANGES_MAX) {
            tracing::error!("the index was brought up to date over damage in the log: {repair}");
        }
        self.repairs.get_or_init(|| repairs.to_vec());
    }

    pub(crate) fn repairs(&self) -> Vec<QueueRepair> {
        self.repairs.get().cloned().unwrap_or_default()
    }

    pub(crate) fn ranges(&self) -> Vec<DamagedRange> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl StoreError {
    /// Whether a record could not be read because the log is damaged there. A retry will not help; everything else
    /// stays readable.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Log(LogError::Damaged(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_remembered_once_and_as_a_whole() {
        let damage = Damage::default();
        let range = |position, until| DamagedRange {
            file: "f".into(),
            position,
            until,
            reason: "checksum does not match".into(),
        };
        for (position, until) in [(200, 240), (100, 140), (300, 400), (320, 360), (100, 280), (300, 400)] {
            damage.note(&range(position, until));
        }
        assert_eq!(damage.ranges(), [range(100, 280), range(300, 400)]);
        let error = damage.notice(LogError::Damaged(range(500, 540)));
        assert!(StoreError::Log(error).is_damage());
        assert_eq!(damage.ranges().len(), 3);
    }
}
