//! A disk that is small, and full on request. Mounting it takes root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Name of the file that takes all room.
const FILLER: &str = "filler";
/// The disk is filled in pieces of so many bytes, the last ones small.
const PIECES: [usize; 3] = [1 << 20, 1 << 14, 1 << 10];

/// A file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size`, such as `160m`, at a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the system refuses, as it does without root.
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "small-disk"]).arg(at);
        ensure!(mount.status().context("starting mount")?.success(), "mounting needs root");
        Ok(Self(at.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes every byte that is left.
    ///
    /// # Errors
    /// When the file that takes them cannot be written for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.0.join(FILLER))?;
        for piece in PIECES {
            loop {
                match file.write_all(&vec![1; piece]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling a disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Self::fill`] took, if anything.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn make_room(&self) -> Result<()> {
        match fs::remove_file(self.0.join(FILLER)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("making room"),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
