//! A server process's description of itself: its figures, its files, its settings without secrets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kerolox_proto::kerolox as pb;
use procfs::process::Process;

use crate::health::{HealthCheck, HealthChecks, HealthState};
use crate::process;

/// Files of the data folder that are listed.
const FILES_MAX: usize = 10_000;
/// Words in names of settings whose values are not shown.
const SECRETS: [&str; 3] = ["secret", "password", "token"];

/// A server process that can be asked about itself. Clones share everything.
#[derive(Clone)]
pub struct InspectedProcess {
    /// "nameserver" or "broker".
    pub kind: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// When it started.
    pub started: Instant,
    /// Its data folder.
    pub data: PathBuf,
    /// Its settings as TOML.
    pub config: String,
    /// Its health checks.
    pub checks: HealthChecks,
}

impl InspectedProcess {
    /// The description without what the process serves: clients and tasks of its runtime are left at 0. With `in_full`, also
    /// threads, files and settings.
    ///
    /// Reads `/proc` and the data folder: call it where blocking is fine.
    pub fn describe(&self, in_full: bool) -> pb::DescribeServerResponse {
        let process = Process::myself().ok();
        let stat = process.as_ref().and_then(|process| process.stat().ok());
        let space = rustix::fs::statvfs(&self.data).ok();
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            space.as_ref().map_or(0, |space| blocks(space).saturating_mul(space.f_frsize))
        };
        pb::DescribeServerResponse {
            kind: self.kind.to_owned(),
            version: self.version.to_owned(),
            pid: std::process::id(),
            uptime_ms: millis(self.started.elapsed()),
            checks: (self.checks)().iter().map(check).collect(),
            cpu_ms: stat.as_ref().map_or(0, |stat| ticks_ms(stat.utime + stat.stime)),
            resident_bytes: stat.as_ref().map_or(0, |stat| stat.rss.saturating_mul(procfs::page_size())),
            open_files: process.as_ref().and_then(|process| process.fd_count().ok()).unwrap_or(0) as u64,
            log_filter: process::log_filter(),
            data: self.data.display().to_string(),
            disk_bytes: bytes(|space| space.f_blocks),
            disk_free_bytes: bytes(|space| space.f_bavail),
            threads: if in_full { process.as_ref().map(threads).unwrap_or_default() } else { Vec::new() },
            files: if in_full { files(&self.data) } else { Vec::new() },
            config: if in_full { masked(&self.config) } else { String::new() },
            ..Default::default()
        }
    }
}

fn check(check: &HealthCheck) -> pb::ServerCheck {
    let state = match check.state {
        HealthState::Ok => "ok",
        HealthState::Warning => "warning",
        HealthState::Failed => "failed",
    };
    pb::ServerCheck { name: check.name.to_owned(), state: state.to_owned(), reason: check.reason.clone() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ticks_ms(ticks: u64) -> u64 {
    ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1)
}

fn threads(process: &Process) -> Vec<pb::ServerThread> {
    let stats = process.tasks().into_iter().flatten().filter_map(|task| task.ok()?.stat().ok());
    stats
        .map(|stat| pb::ServerThread {
            name: stat.comm,
            state: stat.state.to_string(),
            cpu_ms: ticks_ms(stat.utime + stat.stime),
        })
        .collect()
}

/// The files of a folder and of those in it, by name.
fn files(folder: &Path) -> Vec<pb::ServerFile> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop()
        && files.len() < FILES_MAX
    {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let path = entry.path();
                    let path = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                    files.push(pb::ServerFile { path, bytes: metadata.len() });
                }
                // Gone meanwhile.
                Err(_) => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.truncate(FILES_MAX);
    files
}

/// TOML without the values of secrets; names of files with secrets are none.
fn masked(toml: &str) -> String {
    let masked = |line: &str| match line.split_once('=') {
        Some((key, _)) if SECRETS.iter().any(|word| key.contains(word)) && !key.trim().ends_with("-file") => {
            format!("{}= \"***\"", key)
        }
        _ => line.to_owned(),
    };
    toml.lines().map(masked).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn inspected(data: &Path) -> InspectedProcess {
        InspectedProcess {
            kind: "broker",
            version: "1.2.3",
            started: Instant::now(),
            data: data.to_owned(),
            config: "group = \"a\"\nwebhook-secret = \"x\"\nwebhook-secret-file = \"/y\"".to_owned(),
            checks: Arc::new(|| vec![HealthCheck::warning("disk", "short")]),
        }
    }

    #[test]
    fn a_server_describes_itself_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::fs::write(folder.path().join("log").join("0"), b"12345").unwrap();
        let said = inspected(folder.path()).describe(true);
        assert_eq!((said.kind.as_str(), said.pid), ("broker", std::process::id()));
        assert!(
            said.resident_bytes > 0 && said.disk_bytes >= said.disk_free_bytes && !said.threads.is_empty()
        );
        assert_eq!(said.files, [pb::ServerFile { path: "log/0".into(), bytes: 5 }]);
        assert_eq!(said.config, "group = \"a\"\nwebhook-secret = \"***\"\nwebhook-secret-file = \"/y\"");
        assert_eq!(said.checks[0].state, "warning");
        assert!(inspected(folder.path()).describe(false).files.is_empty());
    }
}
