//! What the machine is, and what this process uses of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kerolox_log::fs::free_bytes;
use serde::Serialize;

/// Facts that belong to every figure.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// Type of the file system under the data folder, and its device.
    pub file_system: String,
    /// Bytes free on it at the start.
    pub free: u64,
    /// Processes that wanted a core, on average over the last minute, at the start.
    pub load: f64,
}

impl MachineFacts {
    /// This machine, with the data in `folder`.
    pub fn look(folder: &Path) -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kilobytes("/proc/meminfo", "MemTotal").unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(folder),
            free: free_bytes(folder).unwrap_or(0),
            load: read("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} cores, {} GiB of memory, Linux {}, {}, {:.1} GB free, load {:.2}",
            self.cpu,
            self.cores,
            (self.memory + (1 << 29)) >> 30,
            self.kernel,
            self.file_system,
            self.free as f64 / 1e9,
            self.load
        )
    }
}

/// Bytes of memory that this process has in use now.
pub fn resident() -> u64 {
    kilobytes("/proc/self/status", "VmRSS").unwrap_or(0)
}

/// Most bytes of memory that this process had in use.
pub fn resident_peak() -> u64 {
    kilobytes("/proc/self/status", "VmHWM").unwrap_or(0)
}

/// What a thread had of the processor, seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadTime {
    /// Time on a core.
    pub used: f64,
    /// Time in which it could have gone on, but others had the cores.
    pub waited: f64,
}

/// The threads of this process by name; threads of the same name are added up.
#[derive(Debug, Clone, Default)]
pub struct ThreadTimes(pub BTreeMap<String, ThreadTime>);

impl ThreadTimes {
    /// The times so far.
    pub fn now() -> Self {
        let mut times: BTreeMap<String, ThreadTime> = BTreeMap::new();
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Self::default() };
        for task in tasks.flatten().map(|task| task.path()) {
            let name = read(task.join("comm")).trim().to_owned();
            let line = read(task.join("schedstat"));
            let mut seconds = line.split(' ').map(|word| word.parse::<u64>().unwrap_or(0) as f64 / 1e9);
            let time = times.entry(name).or_default();
            time.used += seconds.next().unwrap_or(0.0);
            time.waited += seconds.next().unwrap_or(0.0);
        }
        Self(times)
    }

    /// What was used since `earlier`, threads that used nothing left out.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut times = self.0.clone();
        for (name, before) in &earlier.0 {
            if let Some(time) = times.get_mut(name) {
                time.used -= before.used;
                time.waited -= before.waited;
            }
        }
        times.retain(|_, time| time.used > 0.0005);
        Self(times)
    }

    /// All threads together.
    pub fn total(&self) -> ThreadTime {
        let mut total = ThreadTime::default();
        for time in self.0.values() {
            total.used += time.used;
            total.waited += time.waited;
        }
        total
    }

    /// The thread that used most.
    pub fn busiest(&self) -> f64 {
        self.0.values().map(|time| time.used).fold(0.0, f64::max)
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|word| word.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let kilobytes: u64 = field(path, name)?.split(' ').next()?.parse().ok()?;
    Some(kilobytes << 10)
}

/// The mount with the longest path that holds the folder.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = read("/proc/mounts");
    let holder = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, path, kind) = (words.next()?, words.next()?, words.next()?);
            folder.starts_with(path).then_some((path.len(), device, kind))
        })
        .max_by_key(|(len, ..)| *len);
    holder.map_or_else(
        || "an unknown file system".to_owned(),
        |(_, device, kind)| format!("{kind} on {device}"),
    )
}
