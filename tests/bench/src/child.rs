//! A second process that uses a store, so that it can be killed, starts from nothing, and has its memory for itself.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kerolox_core::flush::FlushRequirement;
use kerolox_store::Store;
use serde::{Deserialize, Serialize};

use crate::engine::{self, LoadProducer};
use crate::machine;
use crate::messages::{MessageMaker, MessageShape};

/// Messages between two reports.
const REPORT_EVERY: u64 = 10_000;
const IN_FLIGHT: usize = 64;

/// What the other process is to do.
#[derive(Debug, clap::Subcommand)]
pub enum ChildTask {
    /// Opens a store, and proposes messages until it is killed.
    #[command(hide = true)]
    Fill(ChildWork),
    /// Opens a store, and ends without closing it.
    #[command(hide = true)]
    Open(ChildWork),
}

/// On what.
#[derive(Debug, Clone, clap::Args)]
pub struct ChildWork {
    /// The data folder.
    pub folder: PathBuf,
    /// Queues to create in an empty store.
    pub queues: u32,
    /// Bytes of a message body.
    pub body: usize,
    /// Messages per batch.
    pub batch: usize,
}

/// What it says, one line of JSON each.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ChildReport {
    /// Seconds until the store was open.
    pub opened: f64,
    /// Seconds until the index held everything.
    pub caught_up: f64,
    /// Messages that this process proposed so far.
    pub proposed: u64,
    /// End of the log.
    pub end: u64,
    /// Bytes of memory in use.
    pub resident: u64,
    /// Most of it.
    pub resident_peak: u64,
}

impl ChildTask {
    /// Does it, in this process.
    ///
    /// # Errors
    /// When the store fails.
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Fill(work) => fill(work),
            Self::Open(work) => open(work).map(drop),
        }
    }
}

fn open(work: &ChildWork) -> anyhow::Result<(Arc<Store>, ChildReport)> {
    let begin = Instant::now();
    let store = engine::open(&work.folder)?;
    let opened = begin.elapsed().as_secs_f64();
    while store.positions().applied < store.positions().end {
        std::thread::sleep(Duration::from_millis(1));
    }
    let said = ChildReport { opened, caught_up: begin.elapsed().as_secs_f64(), ..ChildReport::default() };
    said.say(&store, 0)?;
    Ok((store, said))
}

fn fill(work: &ChildWork) -> anyhow::Result<()> {
    let (store, said) = open(work)?;
    let mut queues = engine::queues(&store);
    if queues.is_empty() {
        queues = engine::create_queues(&store, work.queues)?;
    }
    let maker = MessageMaker::new(MessageShape::plain(work.body), 0);
    let mut producer = LoadProducer::new(store.clone(), maker, queues, FlushRequirement::Async, IN_FLIGHT);
    let (mut next, mut told) = (REPORT_EVERY, Ok(()));
    producer.run(work.batch, |proposed| {
        if proposed >= next {
            told = said.say(&store, proposed);
            next += REPORT_EVERY;
        }
        told.is_err()
    })?;
    told
}

impl ChildReport {
    /// Prints it, with where the store stands now.
    fn say(self, store: &Store, proposed: u64) -> anyhow::Result<()> {
        let said = Self {
            proposed,
            end: store.positions().end,
            resident: machine::resident(),
            resident_peak: machine::resident_peak(),
            ..self
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&said)?)?;
        Ok(out.flush()?)
    }
}

/// The other process, from this side. It is killed when this is dropped.
pub struct OtherProcess {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl OtherProcess {
    /// Starts this program with a task: `fill` or `open`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(task: &str, work: &ChildWork) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg(task).arg(&work.folder);
        command.args([work.queues.to_string(), work.body.to_string(), work.batch.to_string()]);
        let mut process =
            command.stdout(Stdio::piped()).spawn().context("cannot start this program again")?;
        let out = process.stdout.take().context("no pipe to the other process")?;
        Ok(Self { process, lines: BufReader::new(out).lines() })
    }

    /// The next thing that it says.
    ///
    /// # Errors
    /// When it ended.
    pub fn hear(&mut self) -> anyhow::Result<ChildReport> {
        let line = self.lines.next().context("the other process ended too early; see what it printed")??;
        serde_json::from_str(&line).with_context(|| format!("the other process said {line:?}"))
    }

    /// Listens until it has proposed that many messages.
    ///
    /// # Errors
    /// See [`Self::hear`].
    pub fn hear_until(&mut self, proposed: u64) -> anyhow::Result<ChildReport> {
        loop {
            let said = self.hear()?;
            if said.proposed >= proposed {
                return Ok(said);
            }
        }
    }

    /// Kills it, whatever it is doing.
    ///
    /// # Errors
    /// The system's error.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        // Both fail when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
