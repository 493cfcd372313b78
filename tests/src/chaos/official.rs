//! A producer of the official SDK for Python: a process beside the clients, in their network, that sends what it is told.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kerolox_harness::kept_logs;

use super::TOPIC;

const SCRIPT: &str = include_str!("official.py");
/// How long it may take to start, with everything that it loads.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The process. Dropping it ends it.
pub(super) struct Official {
    child: Child,
    pipes: Arc<Mutex<Pipes>>,
}

struct Pipes {
    told: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Official {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Official {
    /// Starts it with the interpreter `python`, which has the SDK. The SDK writes its log below `home`, or where the logs are kept. It is
    /// told one nameserver: this SDK cannot use a list.
    pub(super) async fn start(python: &Path, home: &Path, nameserver: &str) -> Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, nameserver, TOPIC])
            .env("HOME", kept_logs().as_deref().unwrap_or(home))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let told = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let official = Self { child, pipes: Arc::new(Mutex::new(Pipes { told, answers })) };
        let said = tokio::time::timeout(START_LIMIT, official.ask(String::new())).await;
        let said = said.context("the producer of the official SDK does not start")??;
        ensure!(said == "ready", "the producer of the official SDK says {said:?} instead of ready");
        Ok(official)
    }

    /// Sends a message with the SDK's own retries. After an error the outcome of the message is unknown.
    pub(super) async fn send(&self, body: &[u8]) -> Result<()> {
        let mut line = String::with_capacity(2 * body.len() + 1);
        for byte in body {
            write!(line, "{byte:02x}").expect("a String takes everything");
        }
        line.push('\n');
        match self.ask(line).await?.as_str() {
            "ok" => Ok(()),
            said => bail!("the official SDK: {said}"),
        }
    }

    /// The next line that it says after it was told something.
    async fn ask(&self, line: String) -> Result<String> {
        let pipes = self.pipes.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let mut pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
            pipes.told.write_all(line.as_bytes())?;
            let mut said = String::new();
            let length = pipes.answers.read_line(&mut said)?;
            ensure!(length > 0, "the producer of the official SDK has ended");
            Ok(said.trim_end().to_owned())
        });
        asked.await.context("asking the official SDK")?
    }
}
