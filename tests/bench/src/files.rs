//! Folders of benchmarks: their size, and whether their files are in memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

/// Files in a folder and the folders in it.
///
/// # Errors
/// The system's error.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// Bytes of the files in a folder, as long as they are said to be.
pub fn bytes(folder: &Path) -> u64 {
    let files = files(folder).unwrap_or_default();
    // RocksDB may remove one meanwhile.
    files.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Drops the contents of a folder's files from the page cache, so that the next read of them comes from the disk. Syncs
/// them first, since only synced pages can be dropped.
///
/// # Errors
/// With the system's error.
pub fn make_cold(folder: &Path) -> io::Result<()> {
    for path in files(folder)? {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads a folder's files in the order of their names, as long as there are some of `bytes` bytes left.
///
/// # Errors
/// The system's error.
pub fn read_plainly(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut paths = files(folder)?;
    paths.sort();
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    for path in paths {
        let mut file = File::open(path)?;
        while left > 0 {
            let n = file.read(&mut buffer)? as u64;
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
        }
    }
    Ok(())
}
