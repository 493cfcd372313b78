//! Processes of Java.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kerolox_harness::keep_log;

/// How long a server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Lines of a log that an error shows.
const TAIL_LINES: usize = 30;

/// A Java process; dropping it kills it.
#[derive(Debug)]
pub(super) struct JvmProcess {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

/// A program of Java.
#[derive(Debug)]
pub(super) struct JvmProgram<'a> {
    pub(super) name: &'static str,
    /// Options of the JVM.
    pub(super) options: &'a [&'a str],
    /// Folder of the jars.
    pub(super) jars: &'a Path,
    pub(super) class: &'a str,
    pub(super) arguments: &'a [String],
    /// Its home, and where it keeps its log.
    pub(super) folder: &'a Path,
}

impl JvmProgram<'_> {
    /// Starts the program, which leaves nothing outside of its folder.
    pub(super) fn start(&self) -> Result<JvmProcess> {
        let log = self.folder.join(format!("{}.log", self.name));
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        keep_log(&log)?;
        let places = ["user.home", "java.io.tmpdir", "rocketmq.home.dir"];
        let child = Command::new("java")
            .args(self.options)
            .args(places.map(|place| format!("-D{place}={}", self.folder.display())))
            .arg("-cp")
            .arg(self.jars.join("*"))
            .arg(self.class)
            .args(self.arguments)
            .env("ROCKETMQ_HOME", self.folder)
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting java")?;
        Ok(JvmProcess { name: self.name, log, child })
    }
}

impl JvmProcess {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    pub(super) fn wait_until(&mut self, is_ready: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            if is_ready(self) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the {} ended with {status}{}", self.name, self.log_tail());
            }
            if started.elapsed() > START_LIMIT {
                bail!("the {} is not ready after {START_LIMIT:?}{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it ends well.
    pub(super) fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the {} ended with {status}{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Whether it has printed these words.
    pub(super) fn has_said(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(words))
    }

    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("\n--- end of the log of the {}:\n{tail}", self.name)
    }
}

impl Drop for JvmProcess {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes properties.
pub(super) fn write_properties(path: &Path, settings: &[(&str, String)]) -> Result<()> {
    let text: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The folder that an environment variable names, which a function of `deploy/setup.sh` sets.
///
/// # Errors
/// When it is not set.
pub(crate) fn folder_in(variable: &str, setup: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(variable);
    folder
        .map(PathBuf::from)
        .with_context(|| format!("{variable} names no folder; run {setup} of deploy/setup.sh"))
}

/// The version in the name of a jar, `NAME-VERSION.jar`.
pub(super) fn version_of(jars: &Path, name: &str) -> Result<String> {
    for entry in fs::read_dir(jars).with_context(|| format!("looking into {}", jars.display()))? {
        let file = entry?.file_name().into_string().unwrap_or_default();
        let version = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".jar"));
        if let Some(version) =
            version.filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        {
            return Ok(version.to_owned());
        }
    }
    bail!("{} has no {name}", jars.display())
}
