//! One acknowledging master for each epoch, and one that serves readers at a time.

use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Reigns {
    /// The process that acknowledged something in an epoch.
    acknowledging: BTreeMap<u32, u64>,
}

impl Reigns {
    pub(crate) fn acked(&mut self, epoch: u32, life: u64) -> Result<(), String> {
        let first = *self.acknowledging.entry(epoch).or_insert(life);
        if first == life {
            return Ok(());
        }
        Err(format!("processes {first} and {life} acknowledge in epoch {epoch}"))
    }

    /// `ruling`: who takes itself for the only master at this moment.
    pub(crate) fn served(ruling: &[(u64, u32)]) -> Result<(), String> {
        if ruling.len() <= 1 {
            return Ok(());
        }
        Err(format!("a reader is answered while these rule, by process and epoch: {ruling:?}"))
    }
}
