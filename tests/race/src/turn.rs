//! One turn: a new server, one leg of one client, and what both used.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kerolox_harness::keep_log;
use serde::{Deserialize, Serialize};

use crate::drive;
use crate::lane::Lane;
use crate::leg::{FlushMode, LegName};
use crate::servers::RunningServer;
use crate::task::{DriverResult, DriverTask};

/// How long a driver may take besides warm-up and window: backlog, and the last acknowledgements.
const SPARE: Duration = Duration::from_secs(600);
/// Lines of a driver's complaints that an error shows.
const TAIL_LINES: usize = 20;

/// How long, and with how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnLength {
    /// Seconds on the clock.
    pub(crate) seconds: f64,
    /// Seconds before.
    pub(crate) warmup: f64,
    /// Messages of a backlog, when not as many as the leg has by itself.
    pub(crate) backlog: Option<u64>,
}

/// Figures of a turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TurnFigures {
    /// Messages in the window.
    pub(crate) messages: u64,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Median latency of a call in the window, microseconds.
    pub(crate) p50_us: f64,
    /// See [`Self::p50_us`].
    pub(crate) p99_us: f64,
    /// See [`Self::p50_us`].
    pub(crate) p999_us: f64,
    /// Processor time of all processes of the server for a message, microseconds.
    pub(crate) server_cpu_us: f64,
    /// Most resident bytes of all processes of the server, since their start.
    pub(crate) server_resident_peak: u64,
    /// Bytes that the server wrote to disks for a message.
    pub(crate) written_per_message: f64,
}

/// Runs a leg in a new folder below `dir`.
///
/// # Errors
/// When server or driver fail, or messages are missing.
pub(crate) fn run(
    lane: &Lane,
    leg: LegName,
    flush: FlushMode,
    length: &TurnLength,
    dir: &Path,
) -> Result<TurnFigures> {
    let folder =
        tempfile::Builder::new().prefix("kerolox-race.").tempdir_in(dir).context("making a folder")?;
    let server = lane.system.start(flush, folder.path())?;
    let task = DriverTask {
        leg,
        flush,
        address: server.address.clone(),
        seconds: length.seconds,
        warmup: length.warmup,
        backlog: if leg.is_read() { length.backlog.unwrap_or(leg.backlog(length.seconds)) } else { 0 },
        bytes: leg.bytes(),
        callers: leg.callers(),
    };
    if lane.needs_help() {
        drive::fill(&task)?;
    }
    let log = folder.path().join("driver.log");
    let mut driver = Driver::start(lane.driver(&task, folder.path())?, &log)?;
    let limit = Instant::now() + task.warm_up() + task.window() + SPARE;
    let figures = driver.measure(&server, &task, limit);
    figures.with_context(|| format!("{}{}", tail(&log), server.log_tails()))
}

/// The end of what a driver complained about.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("the driver said:\n{}\n", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// A client process.
struct Driver {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Driver {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let errors = File::create(log).with_context(|| format!("making {}", log.display()))?;
        keep_log(log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn()?;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The pipe is read to its end, or the driver would block.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    fn measure(&mut self, server: &RunningServer, task: &DriverTask, limit: Instant) -> Result<TurnFigures> {
        self.line(limit, "begin")?;
        let before = server.usage()?;
        self.line(limit, "end")?;
        let after = server.usage()?;
        let result: DriverResult = serde_json::from_str(&self.line(limit, "{")?)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the driver ended with {status}");
        let there = match result.verified {
            Some(there) => there,
            None => drive::count(task, result.acknowledged)?,
        };
        result.verify(there)?;
        let each = |sum: f64| sum / result.messages as f64;
        Ok(TurnFigures {
            messages: result.messages,
            rate: result.rate(),
            p50_us: result.p50,
            p99_us: result.p99,
            p999_us: result.p999,
            server_cpu_us: each((after.cpu - before.cpu) * 1e6),
            server_resident_peak: server.usage()?.resident_peak,
            written_per_message: each((after.written - before.written) as f64),
        })
    }

    /// The next line that begins so; libraries print lines of their own.
    fn line(&mut self, limit: Instant, begin: &str) -> Result<String> {
        loop {
            match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(begin) => return Ok(line),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the driver is too late with {begin:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("the driver ended with {} before {begin:?}", self.child.wait()?)
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It mostly has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
