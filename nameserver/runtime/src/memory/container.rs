//! How much memory this process may use: as its container allows, else as the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted: the second version, alone or beside the first.
const MOUNTS_V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Where the memory controller of the first version is mounted.
const MOUNT_V1: &str = "/sys/fs/cgroup/memory";

/// Bytes that this process may use at the most; `None` when the system does not say.
pub(super) fn limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let files = limit_files(&groups);
    let limits = files.iter().filter_map(|file| parse(&fs::read_to_string(file).ok()?));
    limits.chain(machine).min()
}

/// The files that hold limits of the groups, in the words of `/proc/self/cgroup`: each group is held to those of its parents too. In
/// a container the names are often those outside of it, and its own group is the root of what it sees.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            for mount in MOUNTS_V2 {
                files.extend(up(Path::new(mount), group, "memory.max"));
            }
        } else if controllers.split(',').any(|name| name == "memory") {
            files.extend(up(Path::new(MOUNT_V1), group, "memory.limit_in_bytes"));
        }
    }
    files
}

/// `file` in a group and in all above it.
fn up(mount: &Path, group: &str, file: &str) -> Vec<PathBuf> {
    let group = mount.join(group);
    group.ancestors().take_while(|folder| folder.starts_with(mount)).map(|folder| folder.join(file)).collect()
}

/// The bytes in a limit file; `max` is no limit. The first version writes a very large number for that, which the machine's
/// memory is below.
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The machine's memory in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_looked_for_in_the_group_and_above_it() {
        let files = |text: &str| -> Vec<String> {
            limit_files(text).iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            files("8:pids:/a\n4:cpu,memory:/a/b\n"),
            [
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        let both = files("0::/x\n");
        assert!(both.contains(&"/sys/fs/cgroup/x/memory.max".to_owned()));
        assert!(both.contains(&"/sys/fs/cgroup/unified/memory.max".to_owned()));
        assert!(files("nonsense").is_empty());
    }

    #[test]
    fn limits_are_read() {
        assert_eq!((parse("268435456\n"), parse("max\n"), parse("")), (Some(256 << 20), None, None));
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       1024 kB\n"), Some(1 << 20));
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20));
    }
}
