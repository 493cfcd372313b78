//! A small file with the position up to which the log is known to be durable, so that recovery need not read
//! everything.
//!
//! Two slots of 64 bytes, written in turn, so that a torn write leaves the other one: sequence number (u64), durable
//! position (u64), salt of the log (u64), format version (u32), zeros (u32), length and checksum of the last frame before that
//! position (u32 each, zeros where they are not known), zeros, and in the last 4 bytes the CRC-32C of the others;
//! little-endian. The file may lag behind: it never claims more than what was synced.
//! Slots of version 1 had 32 bytes: nothing of the last frame, and the CRC-32C of 28 bytes behind them. Where one is intact, a
//! broker of that version wrote last, or this one was interrupted while converting the file: slots of version 2 beside it do
//! not count.

use std::io;
use std::sync::Arc;

use crate::fs::{File, Folder};
use crate::last::{LastFrame, Watermark};
use crate::salt::FrameSalt;

pub(crate) const NAME: &str = "checkpoint";
const SLOT_LEN: usize = 64;
const VERSION: u32 = 2;
/// Slots of version 1, which are read.
const OLD_SLOT_LEN: usize = 32;
const OLD_VERSION: u32 = 1;

pub(crate) struct Checkpoint {
    file: Arc<dyn File>,
    newest: Slot,
    /// Set when version 1 was found: the next write replaces both slots at once.
    is_old: bool,
}

/// The content of the newest slot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slot {
    sequence: u64,
    /// Everything before this position was durable once.
    pub(crate) durable: u64,
    /// Salt of the log; none before the first write.
    pub(crate) salt: Option<FrameSalt>,
    /// The frame that ends at `durable`.
    last: Option<LastFrame>,
}

impl Slot {
    /// The durable position, and the last frame before it.
    pub(crate) fn watermark(&self) -> Watermark {
        Watermark { position: self.durable, last: self.last }
    }
}

impl Checkpoint {
    /// Opens the file, or creates it. An unreadable file counts as absent: recovery then reads more.
    pub(crate) fn open(folder: &dyn Folder) -> io::Result<Self> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            let file = folder.create(NAME)?;
            folder.sync()?;
            return Ok(Self { file, newest: Slot::default(), is_old: false });
        }
        let file = folder.open(NAME)?;
        let (newest, is_old) = newest(&*file)?;
        Ok(Self { file, newest: newest.unwrap_or_default(), is_old })
    }

    /// The newest slot, read without changing anything; `None` when there is no valid checkpoint.
    pub(crate) fn peek(folder: &dyn Folder) -> io::Result<Option<Slot>> {
        if !folder.list()?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        Ok(newest(&*folder.open(NAME)?)?.0)
    }

    /// The newest slot.
    pub(crate) fn newest(&self) -> Slot {
        self.newest
    }

    /// Everything before this position was durable once.
    pub(crate) fn durable(&self) -> u64 {
        self.newest.durable
    }

    /// Records up to where the log with this salt was synced.
    pub(crate) fn advance(&mut self, to: Watermark, salt: FrameSalt) -> io::Result<()> {
        if std::mem::take(&mut self.is_old) {
            // First the slot whose loss leaves the version 1 content intact.
            self.newest.sequence |= 1;
            self.newest.sequence += 1;
            self.write(to, salt)?;
        }
        self.write(to, salt)
    }

    fn write(&mut self, to: Watermark, salt: FrameSalt) -> io::Result<()> {
        let sequence = self.newest.sequence + 1;
        self.newest = Slot { sequence, durable: to.position, salt: Some(salt), last: to.last };
        self.file.write_at(&encode(&self.newest, salt), (sequence % 2) * SLOT_LEN as u64)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The newest intact slot, and whether it is one of version 1.
fn newest(file: &dyn File) -> io::Result<(Option<Slot>, bool)> {
    let mut bytes = [0; 2 * SLOT_LEN];
    file.read_at(&mut bytes, 0)?;
    let old = bytes[..SLOT_LEN].as_chunks().0.iter().filter_map(decode_old).max_by_key(|slot| slot.sequence);
    if old.is_some() {
        return Ok((old, true));
    }
    Ok((bytes.as_chunks().0.iter().filter_map(decode).max_by_key(|slot| slot.sequence), false))
}

fn encode(new: &Slot, salt: FrameSalt) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&new.sequence.to_le_bytes());
    slot[8..16].copy_from_slice(&new.durable.to_le_bytes());
    slot[16..24].copy_from_slice(&salt.get().to_le_bytes());
    slot[24..28].copy_from_slice(&VERSION.to_le_bytes());
    if let Some(last) = new.last {
        slot[32..36].copy_from_slice(&last.len.to_le_bytes());
        slot[36..40].copy_from_slice(&last.crc.to_le_bytes());
    }
    let crc = crc32c::crc32c(&slot[..SLOT_LEN - 4]);
    slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_LEN]) -> Option<Slot> {
    let found = fields(slot, VERSION)?;
    let (len, crc) = (short(slot, 32), short(slot, 36));
    Some(Slot { last: (len > 0).then_some(LastFrame { len, crc }), ..found })
}

fn decode_old(slot: &[u8; OLD_SLOT_LEN]) -> Option<Slot> {
    fields(slot, OLD_VERSION)
}

/// The fields that slots of all versions share, if this slot is intact.
fn fields(slot: &[u8], version: u32) -> Option<Slot> {
    let long = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
    let checked = slot.len() - 4;
    let is_intact = short(slot, checked) == crc32c::crc32c(&slot[..checked]) && short(slot, 24) == version;
    is_intact.then(|| Slot {
        sequence: long(0),
        durable: long(8),
        salt: Some(FrameSalt::new(long(16))),
        last: None,
    })
}

fn short(slot: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(slot[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFolder;

    fn at(position: u64) -> Watermark {
        Watermark { position, last: Some(LastFrame { len: 32, crc: 7 }) }
    }

    fn found(folder: &MemFolder) -> (Watermark, Option<FrameSalt>) {
        let found = Checkpoint::open(folder).expect("again").newest();
        (found.watermark(), found.salt)
    }

    #[test]
    fn the_newest_intact_slot_counts() {
        let folder = MemFolder::new();
        let mut checkpoint = Checkpoint::open(&folder).expect("new");
        assert_eq!(checkpoint.durable(), 0);
        for position in [100, 200, 300] {
            checkpoint.advance(at(position), FrameSalt::new(position)).expect("written");
        }
        assert_eq!(found(&folder), (at(300), Some(FrameSalt::new(300))));
        folder.flip(NAME, SLOT_LEN + 8);
        assert_eq!(found(&folder), (at(200), Some(FrameSalt::new(200))));
        folder.flip(NAME, 33);
        assert_eq!(found(&folder), (Watermark::default(), None));
    }

    /// A file of version 1, byte by byte, with two slots.
    fn old() -> MemFolder {
        let folder = MemFolder::new();
        let mut bytes = Vec::new();
        for (sequence, durable) in [(4_u64, 200_u64), (3, 100)] {
            let mut slot = [sequence, durable, 7].map(u64::to_le_bytes).concat();
            slot.extend(1_u32.to_le_bytes());
            slot.extend(crc32c::crc32c(&slot).to_le_bytes());
            bytes.extend(slot);
        }
        folder.create(NAME).and_then(|file| file.write_at(&bytes, 0)).expect("written");
        folder
    }

    #[test]
    fn version_1_is_read_and_becomes_version_2_at_any_interruption() {
        let expected = (Watermark { position: 200, last: None }, Some(FrameSalt::new(7)));
        assert_eq!(found(&old()), expected);
        for cut in 0..2 {
            let folder = old();
            folder.sync().expect("synced");
            let mut checkpoint = Checkpoint::open(&folder).expect("opens");
            checkpoint.sync().expect("synced");
            folder.power_off_at(cut);
            assert!(checkpoint.advance(at(300), FrameSalt::new(7)).is_err());
            folder.crash_with(|_| true);
            let left = found(&folder);
            assert!(left == expected || left == (at(300), Some(FrameSalt::new(7))), "{left:?}");
        }
        let folder = old();
        let mut checkpoint = Checkpoint::open(&folder).expect("opens");
        checkpoint.advance(at(300), FrameSalt::new(7)).expect("written");
        assert_eq!(found(&folder).0, at(300));
        checkpoint.advance(at(400), FrameSalt::new(7)).expect("written");
        assert_eq!(found(&folder).0, at(400));
    }

    #[test]
    fn what_version_2_says_does_not_count_beside_an_intact_slot_of_version_1() {
        let folder = old();
        let newer = Slot { sequence: 9, durable: 300, salt: Some(FrameSalt::new(7)), last: None };
        let slot = encode(&newer, FrameSalt::new(7));
        folder.open(NAME).and_then(|file| file.write_at(&slot, 64)).expect("written");
        assert_eq!(found(&folder).0.position, 200);
    }

    #[test]
    fn the_bytes_of_version_2_stay_as_they_are() {
        let slot =
            Slot { sequence: 1, durable: 0x0203, salt: None, last: Some(LastFrame { len: 40, crc: 9 }) };
        let bytes = encode(&slot, FrameSalt::new(4));
        let mut expected = [0_u8; 60];
        (expected[0], expected[8], expected[9], expected[16]) = (1, 3, 2, 4);
        (expected[24], expected[32], expected[36]) = (2, 40, 9);
        assert_eq!(bytes[..60], expected);
        assert_eq!(bytes[60..], crc32c::crc32c(&expected).to_le_bytes());
    }
}
