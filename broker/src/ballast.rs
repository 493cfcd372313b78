//! A file of zeros in the data folder, whose space is released for a moment when the index cannot be opened on a full disk: so a
//! broker starts there, and consumers can empty it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kerolox_log::fs::{Folder as _, OsFolder, free_bytes};
use kerolox_store::kv::KvError;

/// Bytes of the file: many times what RocksDB needs to open an index.
const BYTES: u64 = 16 << 20;
/// Minimum size of the file on a disk that stays full.
const BYTES_MIN: u64 = 1 << 20;
const NAME: &str = "ballast";

/// The ballast file of a data folder.
#[derive(Debug, Clone)]
pub(crate) struct DiskBallast {
    folder: PathBuf,
}

impl DiskBallast {
    /// The ballast file in the folder `data`.
    pub(crate) fn new(data: &Path) -> Self {
        Self { folder: data.to_owned() }
    }

    /// Grows the file to its full size, if more than that and `spare` bytes are free. A failure is retried the next time.
    pub(crate) fn make_if_free(&self, spare: u64) {
        let made = free_bytes(&self.folder).and_then(|free| {
            let is_due = self.len() < BYTES && free >= spare.saturating_add(2 * BYTES);
            if is_due { self.make(BYTES) } else { Ok(()) }
        });
        if let Err(error) = made {
            tracing::debug!(%error, "the ballast file cannot be created");
        }
    }

    /// Opens an index, with the file's space if there is no other, and takes back what remains of that.
    ///
    /// # Errors
    /// The error of `open`.
    pub(crate) fn lend<T>(&self, open: impl Fn() -> Result<T, KvError>) -> Result<T, KvError> {
        match open() {
            Err(error) if error.is_full() && self.len() > 0 => {
                if let Err(error) = self.give_up() {
                    tracing::warn!(%error, "the ballast file cannot be truncated");
                }
                let opened = open();
                let mut bytes = BYTES;
                while bytes >= BYTES_MIN && self.make(bytes).is_err() {
                    bytes /= 2;
                }
                tracing::warn!(
                    left = self.len(),
                    "the disk is full: the index was opened in the space of the ballast file"
                );
                opened
            }
            opened => opened,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    fn len(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |file| file.len())
    }

    fn make(&self, bytes: u64) -> io::Result<()> {
        let folder = OsFolder::create(&self.folder)?;
        let file = folder.open(NAME).or_else(|_| folder.create(NAME))?;
        let allocated = file.allocate(bytes);
        if allocated.is_err() {
            // A partly written file would seem complete.
            file.set_len(0)?;
        }
        allocated
    }

    fn give_up(&self) -> io::Result<()> {
        File::options().write(true).open(self.path())?.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_lent_when_the_disk_is_full_and_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let ballast = DiskBallast::new(folder.path());
        ballast.make_if_free(u64::MAX);
        assert_eq!(ballast.len(), 0, "others need the room");
        let full = || KvError::Failed("IO error: No space left on device".to_owned());
        let tries = Cell::new(0);
        let open = || {
            tries.set(tries.get() + 1);
            if ballast.len() > 0 { Err(full()) } else { Ok(tries.get()) }
        };
        assert_eq!(ballast.lend(open), Ok(1));
        ballast.make_if_free(0);
        assert_eq!(ballast.len(), BYTES);
        assert_eq!(ballast.lend(open), Ok(3), "the second try had the room");
        assert_eq!(ballast.len(), BYTES);
        assert_eq!(
            ballast.lend(|| Err::<(), _>(KvError::Damaged("damaged".to_owned()))),
            Err(KvError::Damaged("damaged".to_owned()))
        );
        assert_eq!(ballast.len(), BYTES);
    }
}
