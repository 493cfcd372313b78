//! The processes of both banks.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};

use kerolox_harness::keep_log;

/// How long a process may take to get to a step.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// A transfer that bank A does not know is called off when it is so old.
const GRACE_MS: &str = "1000";
/// Shorter than a killed broker is away, so that commits are left to the check-back.
const PATIENCE_MS: &str = "100";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bank {
    A,
    B,
}

impl Bank {
    pub(super) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::A => "sender",
            Self::B => "receiver",
        }
    }

    /// Where it can be made to wait, in the order in which it gets there.
    pub(super) fn steps(self) -> std::array::IntoIter<&'static str, 4> {
        match self {
            Self::A => ["sent", "debiting", "debited", "committed"],
            Self::B => ["received", "crediting", "credited", "acknowledged"],
        }
        .into_iter()
    }
}

/// What the processes said so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    pub(super) credited: u64,
    pub(super) credited_before: u64,
    pub(super) refused: u64,
    pub(super) left_to_check_back: u64,
}

/// A process that waits at a step, or has gone on from there.
pub(super) struct Waiting {
    bank: Bank,
    child: Child,
}

impl Waiting {
    pub(super) fn go_on(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut().context("stdin is piped")?;
        Ok(input.write_all(b"\n")?)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// All processes of both banks. Dropping it kills them.
pub(super) struct Parts {
    program: PathBuf,
    folder: PathBuf,
    address: String,
    said: Arc<Mutex<Said>>,
    running: Vec<Waiting>,
    kills: [u32; 2],
}

impl Parts {
    pub(super) fn new(program: &Path, folder: &Path, address: &str) -> Self {
        Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            address: address.to_owned(),
            said: Arc::default(),
            running: Vec::new(),
            kills: [0; 2],
        }
    }

    pub(super) fn said(&self) -> Said {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kills(&self, bank: Bank) -> u32 {
        self.kills[bank as usize]
    }

    /// Starts a process that works until it is killed.
    pub(super) fn start(&mut self, bank: Bank) -> Result<()> {
        let (process, _) = self.spawn(bank, None, &[])?;
        self.running.push(process);
        Ok(())
    }

    /// Starts a sender that only answers check-backs.
    pub(super) fn start_answering(&mut self) -> Result<()> {
        let (process, _) = self.spawn(Bank::A, None, &["--transfers", "0"])?;
        self.running.push(process);
        Ok(())
    }

    /// Starts a process, and returns when it waits at a step.
    pub(super) fn start_and_wait(&self, bank: Bank, step: &str) -> Result<Waiting> {
        let (process, waits) = self.spawn(bank, Some(step), &[])?;
        waits
            .recv_timeout(STEP_LIMIT)
            .with_context(|| format!("no {} got to {step:?} within {STEP_LIMIT:?}", bank.word()))?;
        Ok(process)
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, mut process: Waiting) -> Result<()> {
        process.child.kill().and_then(|()| process.child.wait())?;
        self.kills[process.bank as usize] += 1;
        Ok(())
    }

    /// Kills the process of a bank that has run for longest, and starts another one.
    pub(super) fn replace(&mut self, bank: Bank) -> Result<()> {
        let oldest = self.running.iter().position(|process| process.bank == bank).context("one runs")?;
        let process = self.running.remove(oldest);
        self.kill(process)?;
        self.start(bank)
    }

    /// Kills all processes of a bank.
    pub(super) fn stop(&mut self, bank: Bank) -> Result<()> {
        for process in self.running.extract_if(.., |process| process.bank == bank).collect::<Vec<_>>() {
            self.kill(process)?;
        }
        Ok(())
    }

    /// The receiver hears when the process waits.
    fn spawn(&self, bank: Bank, step: Option<&str>, more: &[&str]) -> Result<(Waiting, mpsc::Receiver<()>)> {
        let path = self.folder.join(format!("{}.log", bank.word()));
        let log = File::options().create(true).append(true).open(&path)?;
        keep_log(&path)?;
        let mut command = Command::new(&self.program);
        command.arg("--folder").arg(&self.folder).args([bank.word(), "--access-point", &self.address]);
        if bank == Bank::A {
            command.args(["--grace-ms", GRACE_MS, "--patience-ms", PATIENCE_MS]);
        }
        if let Some(step) = step {
            command.env("MONEY_WAIT_AT", step);
        }
        let mut child = command
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let (waits, hears) = mpsc::channel();
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            for line in lines.map_while(std::io::Result::ok) {
                if line.starts_with("waiting at ") {
                    // Who does not wait for it has dropped the other end.
                    let _ = waits.send(());
                } else {
                    note(&mut said.lock().unwrap_or_else(PoisonError::into_inner), &line);
                }
            }
        });
        Ok((Waiting { bank, child }, hears))
    }
}

/// Lines begin with the transfer's id.
fn note(said: &mut Said, line: &str) {
    let (_, what) = line.split_once(' ').unwrap_or_default();
    match what {
        "credited" => said.credited += 1,
        "credited before" => said.credited_before += 1,
        what if what.starts_with("refused") => said.refused += 1,
        what if what.contains("left to the check-back") => said.left_to_check_back += 1,
        _ => {}
    }
}
