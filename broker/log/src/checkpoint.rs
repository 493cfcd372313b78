//! A small file that says how far the log is known to be durable, so that recovery need not read what was fine before.
//!
//! Two slots of 32 bytes, written in turn, so that a torn write leaves the other one: sequence number (u64), durable
//! position (u64), salt of the log (u64), format version (u32), CRC-32C of the first 28 bytes (u32); little-endian.
//! The file may lag behind: it never claims more than what was synced.

use std::io;
use std::sync::Arc;

use crate::fs::{File, Folder};
use crate::salt::Salt;

pub(crate) const NAME: &str = "checkpoint";
const SLOT_LEN: usize = 32;
const VERSION: u32 = 1;

pub(crate) struct Checkpoint {
    file: Arc<dyn File>,
    newest: Slot,
}

/// What the newest slot says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slot {
    sequence: u64,
    /// Everything before this position was durable once.
    pub(crate) durable: u64,
    /// Salt of the log; none before anything was noted.
    pub(crate) salt: Option<Salt>,
}

impl Checkpoint {
    /// Opens the file, or creates it. A file that cannot be understood counts as absent: recovery then reads more.
    pub(crate) fn open(folder: &dyn Folder) -> io::Result<Self> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            let file = folder.create(NAME)?;
            folder.sync()?;
            return Ok(Self { file, newest: Slot::default() });
        }
        let file = folder.open(NAME)?;
        let newest = newest(&*file)?.unwrap_or_default();
        Ok(Self { file, newest })
    }

    /// What it says, without touching anything; `None` when there is no checkpoint or it cannot be understood.
    pub(crate) fn peek(folder: &dyn Folder) -> io::Result<Option<Slot>> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        newest(&*folder.open(NAME)?)
    }

    /// What it says.
    pub(crate) fn newest(&self) -> Slot {
        self.newest
    }

    /// Everything before this position was durable once.
    pub(crate) fn durable(&self) -> u64 {
        self.newest.durable
    }

    /// Notes that everything before `durable` of the log with this salt was synced.
    pub(crate) fn advance(&mut self, durable: u64, salt: Salt) -> io::Result<()> {
        let sequence = self.newest.sequence + 1;
        self.newest = Slot { sequence, durable, salt: Some(salt) };
        self.file.write_at(&encode(sequence, durable, salt), (sequence % 2) * SLOT_LEN as u64)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The newest intact slot.
fn newest(file: &dyn File) -> io::Result<Option<Slot>> {
    let mut bytes = [0; 2 * SLOT_LEN];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes.as_chunks().0.iter().filter_map(decode).max_by_key(|slot| slot.sequence))
}

fn encode(sequence: u64, durable: u64, salt: Salt) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&sequence.to_le_bytes());
    slot[8..16].copy_from_slice(&durable.to_le_bytes());
    slot[16..24].copy_from_slice(&salt.get().to_le_bytes());
    slot[24..28].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..28]);
    slot[28..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_LEN]) -> Option<Slot> {
    let long = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("4 bytes"));
    let intact = short(28) == crc32c::crc32c(&slot[..28]) && short(24) == VERSION;
    intact.then(|| Slot { sequence: long(0), durable: long(8), salt: Some(Salt::new(long(16))) })
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
            checkpoint.advance(position, Salt::new(position)).expect("written");
        }
        let found = || {
            let found = Checkpoint::open(&folder).expect("again").newest();
            (found.durable, found.salt)
        };
        assert_eq!(found(), (300, Some(Salt::new(300))));
        folder.flip(NAME, SLOT_LEN + 8);
        assert_eq!(found(), (200, Some(Salt::new(200))));
        folder.flip(NAME, 30);
        assert_eq!(found(), (0, None));
    }
}
