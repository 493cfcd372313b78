//! The command that runs a test suite.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Environment variable with the address that answers the suite's requests.
const HARNESS: &str = "KEROLOX_HARNESS";
/// How long the command may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at whether it has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The running command. Dropping it asks the command to end, and kills it when it does not.
pub(super) struct SuiteCommand {
    child: Child,
}

impl SuiteCommand {
    /// # Errors
    /// When the command is empty or cannot be started.
    pub(super) fn start(command: &[String], harness: SocketAddr) -> Result<Self> {
        let (program, arguments) = command.split_first().context("no command")?;
        let child = Command::new(program)
            .args(arguments)
            .env(HARNESS, harness.to_string())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Self { child })
    }

    /// Its exit code, as a shell has it, when it has ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(super) async fn wait(&mut self) -> Result<u8> {
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for the command")? {
                return Ok(exit_code(status));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for SuiteCommand {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        // Whatever fails here, the last resort follows.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while !self.has_ended() && asked.elapsed() < STOP_LIMIT {
            thread::sleep(LOOK_PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that a signal ended has 128 and the number of the signal.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> SuiteCommand {
        let command = ["/bin/sh", "-c", text].map(str::to_owned);
        SuiteCommand::start(&command, "127.0.0.1:9".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_is_the_commands() {
        assert_eq!(script("test $KEROLOX_HARNESS = 127.0.0.1:9").wait().await.unwrap(), 0);
        assert_eq!(script("exit 3").wait().await.unwrap(), 3);
        assert_eq!(script("kill -9 $$").wait().await.unwrap(), 137);
    }

    #[test]
    fn a_dropped_command_may_tidy_up() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, tidy) = (folder.path().join("ready"), folder.path().join("tidy"));
        let text = format!(
            "trap 'touch {}; exit' TERM; touch {}; while true; do sleep 0.05; done",
            tidy.display(),
            ready.display()
        );
        let command = script(&text);
        let started = Instant::now();
        while !ready.exists() && started.elapsed() < STOP_LIMIT {
            thread::sleep(LOOK_PAUSE);
        }
        drop(command);
        assert!(tidy.exists());
    }
}
