//! A process that the kernel holds to a container's limits: its memory by a control group, its open files by their hard limit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Memory of a broker, in bytes, page cache included.
pub(super) const MEMORY: u64 = 256 << 20;
/// Files that a broker may have open.
pub(super) const FILES: u32 = 1024;
/// Where memory controllers are: of the first version, and of the second, alone or beside the first. With the name of the limit.
const CONTROLLERS: [(&str, &str); 3] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/unified", "memory.max"),
];

/// A control group of its own; gone with this.
#[derive(Debug)]
pub(super) struct Cage {
    group: PathBuf,
    script: PathBuf,
}

impl Cage {
    /// A cage named `name` for `program`.
    ///
    /// # Errors
    /// In words why this machine has none.
    pub(super) fn build(name: &str, program: &Path, folder: &Path) -> Result<Self> {
        let mut last = anyhow::anyhow!("there is no memory controller");
        for (mount, limit) in CONTROLLERS {
            match Self::below(Path::new(mount), limit, name, program, folder) {
                Ok(cage) => return Ok(cage),
                Err(error) => last = error,
            }
        }
        Err(last
            .context("no control group can be made; it takes root, and a memory controller that may be used"))
    }

    fn below(mount: &Path, limit: &str, name: &str, program: &Path, folder: &Path) -> Result<Self> {
        let group = mount.join(format!("kerolox-hostile-{}-{name}", std::process::id()));
        let script = folder.join(format!("{name}.sh"));
        fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
        // From here on it is removed when something fails.
        let cage = Self { group, script };
        // Elsewhere these would become plain files.
        for file in ["cgroup.procs", limit] {
            anyhow::ensure!(cage.group.join(file).exists(), "{} has no {file}", mount.display());
        }
        fs::write(cage.group.join(limit), MEMORY.to_string()).context("setting the limit of memory")?;
        let text = format!(
            "#!/bin/sh\necho $$ > {}/cgroup.procs || exit 9\nulimit -n {FILES} || exit 9\nexec {} \"$@\"\n",
            cage.group.display(),
            program.display()
        );
        fs::write(&cage.script, text)?;
        fs::set_permissions(&cage.script, fs::Permissions::from_mode(0o700))?;
        Ok(cage)
    }

    /// Starts the program inside when it is run.
    pub(super) fn script(&self) -> &Path {
        &self.script
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // A group can be removed once its last process is gone, which takes a moment.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
