//! One acknowledging master for each epoch, and one that serves readers at a time.

use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct LeadershipHistory {
    /// The process that acknowledged something in an epoch.
    acknowledging: BTreeMap<u32, u64>,
}

impl LeadershipHistory {
    pub(crate) fn acked(&mut self, epoch: u32, life: u64) -> Result<(), String> {
        let first = *self.acknowledging.entry(epoch).or_insert(life);
        if first == life {
            return Ok(());
        }
        Err(format!("processes {first} and {life} acknowledge in epoch {epoch}"))
    }

    /// A leader publishes a high watermark, and the record that opened its leadership ends at `opened`: what lies before that is not
    /// confirmed by itself, since a member with other records in its place may be elected.
    pub(crate) fn published(opened: u64, high_watermark: u64) -> Result<(), String> {
        if high_watermark == 0 || high_watermark >= opened {
            return Ok(());
        }
        Err(format!(
            "{high_watermark} counts as confirmed without the record that opened the leadership, up to {opened}"
        ))
    }

    /// `ruling`: who takes itself for the only master at this moment.
    pub(crate) fn served(ruling: &[(u64, u32)]) -> Result<(), String> {
        if ruling.len() <= 1 {
            return Ok(());
        }
        Err(format!("a reader is answered while these rule, by process and epoch: {ruling:?}"))
    }
}
