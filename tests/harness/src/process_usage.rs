//! What a process uses: memory and processor time, as the kernel counts them.

use std::time::Duration;

use anyhow::{Context, Result};
use procfs::process::Process;

/// What a process uses at a moment.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUsage {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// The most resident memory that it has had, in bytes.
    pub resident_peak: u64,
    /// Processor time since the process began, on all cores, in user and kernel mode.
    pub cpu: Duration,
}

impl ProcessUsage {
    /// What a process uses now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let (stat, status) = Process::new(pid.try_into()?)
            .and_then(|process| Ok((process.stat()?, process.status()?)))
            .with_context(|| format!("reading what process {pid} uses"))?;
        let ticks = stat.utime + stat.stime;
        Ok(Self {
            resident: stat.rss * procfs::page_size(),
            resident_peak: status.vmhwm.context("a process without memory")? << 10,
            cpu: Duration::from_millis(ticks * 1000 / procfs::ticks_per_second()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_show() {
        let before = ProcessUsage::of(std::process::id()).unwrap();
        let mut block = vec![0_u8; 64 << 20];
        let mut after = before;
        while after.cpu < before.cpu + Duration::from_millis(50) {
            block.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            after = ProcessUsage::of(std::process::id()).unwrap();
        }
        assert!(after.resident >= before.resident + (32 << 20), "{before:?} {after:?}");
        assert!(ProcessUsage::of(u32::MAX >> 1).is_err());
    }
}
