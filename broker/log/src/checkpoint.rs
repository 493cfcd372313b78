//! A small file that says how far the log is known to be durable, so that recovery need not read what was fine before.
//!
//! Two slots of 32 bytes, written in turn, so that a torn write leaves the other one: sequence number (u64), durable
//! position (u64), format version (u32), zero (u32), CRC-32C of the first 24 bytes (u32), zero (u32); little-endian.
//! The file may lag behind: it never claims more than what was synced.

use std::io;
use std::sync::Arc;

use crate::fs::{File, Folder};

const NAME: &str = "checkpoint";
const SLOT_LEN: usize = 32;
const VERSION: u32 = 1;

pub(crate) struct Checkpoint {
    file: Arc<dyn File>,
    sequence: u64,
    durable: u64,
}

impl Checkpoint {
    /// Opens the file, or creates it. A file that cannot be understood counts as absent: recovery then reads more.
    pub(crate) fn open(folder: &dyn Folder) -> io::Result<Self> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            let file = folder.create(NAME)?;
            folder.sync()?;
            return Ok(Self { file, sequence: 0, durable: 0 });
        }
        let file = folder.open(NAME)?;
        let (sequence, durable) = newest(&*file)?.unwrap_or((0, 0));
        Ok(Self { file, sequence, durable })
    }

    /// The durable position, without touching anything; `None` when there is no checkpoint or it cannot be understood.
    pub(crate) fn peek(folder: &dyn Folder) -> io::Result<Option<u64>> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        Ok(newest(&*folder.open(NAME)?)?.map(|(_, durable)| durable))
    }

    /// Everything before this position was durable once.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Notes that everything before `durable` was synced.
    pub(crate) fn advance(&mut self, durable: u64) -> io::Result<()> {
        self.sequence += 1;
        self.durable = durable;
        let slot = (self.sequence % 2) * SLOT_LEN as u64;
        self.file.write_at(&encode(self.sequence, durable), slot)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Sequence number and position of the newest intact slot.
fn newest(file: &dyn File) -> io::Result<Option<(u64, u64)>> {
    let mut bytes = [0; 2 * SLOT_LEN];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes.chunks_exact(SLOT_LEN).filter_map(decode).max())
}

fn encode(sequence: u64, durable: u64) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&sequence.to_le_bytes());
    slot[8..16].copy_from_slice(&durable.to_le_bytes());
    slot[16..20].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..24]);
    slot[24..28].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, u64)> {
    let crc = u32::from_le_bytes(slot.get(24..28)?.try_into().ok()?);
    let version = u32::from_le_bytes(slot.get(16..20)?.try_into().ok()?);
    if crc != crc32c::crc32c(&slot[..24]) || version != VERSION {
        return None;
    }
    let sequence = u64::from_le_bytes(slot[..8].try_into().ok()?);
    let durable = u64::from_le_bytes(slot[8..16].try_into().ok()?);
    Some((sequence, durable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFolder;

    #[test]
    fn the_newest_intact_slot_counts() {
        let folder = MemFolder::new();
        let mut checkpoint = Checkpoint::open(&folder).expect("new");
        assert_eq!(checkpoint.durable(), 0);
        for position in [100, 200, 300] {
            checkpoint.advance(position).expect("written");
        }
        assert_eq!(Checkpoint::open(&folder).expect("again").durable(), 300);
        folder.flip(NAME, SLOT_LEN + 8);
        assert_eq!(Checkpoint::open(&folder).expect("again").durable(), 200);
    }
}
