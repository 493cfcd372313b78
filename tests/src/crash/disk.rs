//! A file system of its own whose power can be cut: an ext4 file system in an image file, on a loop device.
//!
//! The cut is the kernel's: after the shutdown call of ext4 (also used by xfstests) the file system writes nothing any
//! more, so unsynced data in its page cache is gone when it is unmounted. Mounting it again replays its
//! journal, as after a real cut. The image belongs to the file system of the machine, which lives on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use kerolox_harness::SeededRandom;

/// EXT4_IOC_SHUTDOWN with its argument; Python has a safe ioctl in its standard library.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(folder, 0x8004587d, struct.pack('I', int(sys.argv[2])))
";
/// Tries to unmount, a tenth of a second apart: files of a killed process may be open for a moment more.
const UNMOUNT_TRIES: u32 = 50;

/// The kernel's treatment of unwritten data in a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Neither data nor the journal is written: all that was not synced is lost.
    Hard,
    /// The journal is written, data is not: names and lengths of files survive that no sync asked for.
    JournalWritten,
    /// Everything is written: a cut at a quiet moment.
    AllWritten,
}

impl Cut {
    /// A random cut, mostly a hard one.
    pub(super) fn choose(random: &mut SeededRandom) -> Self {
        match random.below(8) {
            0 => Self::AllWritten,
            1 | 2 => Self::JournalWritten,
            _ => Self::Hard,
        }
    }

    /// The argument of the call: EXT4_GOING_FLAGS_NOLOGFLUSH, _LOGFLUSH or _DEFAULT.
    fn flags(self) -> &'static str {
        match self {
            Self::Hard => "2",
            Self::JournalWritten => "1",
            Self::AllWritten => "0",
        }
    }
}

/// A mounted image.
#[derive(Debug, Clone)]
pub struct MountedDisk {
    /// File that holds the file system.
    pub image: PathBuf,
    /// Folder where it is mounted.
    pub mounted_at: PathBuf,
}

impl MountedDisk {
    /// Cuts the power, and mounts the file system again. No process may use it.
    pub(super) fn cut(&self, cut: Cut) -> Result<()> {
        command(
            "python3",
            ["-c".as_ref(), SHUTDOWN.as_ref(), self.mounted_at.as_path(), cut.flags().as_ref()],
        )
        .context("shutting the file system down (EXT4_IOC_SHUTDOWN)")?;
        self.unmount()?;
        command("mount", ["-o".as_ref(), "loop".as_ref(), self.image.as_path(), self.mounted_at.as_path()])
            .context("mounting the file system again")
    }

    fn unmount(&self) -> Result<()> {
        let mut tries = 1;
        loop {
            match command("umount", [self.mounted_at.as_path()]) {
                Err(_) if tries < UNMOUNT_TRIES => thread::sleep(Duration::from_millis(100)),
                unmounted => return unmounted,
            }
            tries += 1;
        }
    }
}

fn command<const N: usize>(program: &str, arguments: [&Path; N]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
