//! ServerProcess processes: started on a free port, stopped, killed, and started again on the same port and data.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kept_logs::keep_log;

/// How long a server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long a server may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long a health probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that an error shows.
const TAIL_LINES: usize = 40;

/// A server process. Dropping it kills the process.
#[derive(Debug)]
pub struct ServerProcess {
    name: String,
    /// Words of a command that runs the program, such as those that bring it to another place; mostly none.
    launcher: Vec<String>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    address: Option<String>,
    health: Option<String>,
    /// What the process says on standard output. The lock only lets a server be shared between threads.
    lines: Option<Mutex<mpsc::Receiver<String>>>,
    child: Option<Child>,
}

/// An answer to a health probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthProbe {
    /// Status of HTTP.
    pub status: u16,
    /// What it says.
    pub body: String,
}

impl ServerProcess {
    /// A server that keeps its data and log below `folder`, in files that carry `name`; not started yet. Address and
    /// data folder are added to the `arguments`.
    pub fn new(name: &str, program: &Path, folder: &Path, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            launcher: Vec::new(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            folder: folder.to_owned(),
            address: None,
            health: None,
            lines: None,
            child: None,
        }
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has another program run, such as a script that holds the usual one to some limits.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Has the program run by a command, whose process becomes that of the program.
    #[must_use]
    pub fn launched_by(mut self, command: &[String]) -> Self {
        command.clone_into(&mut self.launcher);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Has the process listen on `address`, `HOST:PORT`, instead of any free port.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// The name of its files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach the server; known after the first start.
    ///
    /// # Errors
    /// When it was never started.
    pub fn address(&self) -> Result<&str> {
        self.address.as_deref().with_context(|| format!("the {} was never started", self.name))
    }

    /// Where the server keeps its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join(format!("{}-data", self.name))
    }

    /// Starts the process and returns how long it took until it served.
    ///
    /// # Errors
    /// When it ends or does not serve within three minutes; the end of its log is part of the error.
    pub fn start(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.begin()?;
        self.wait()?;
        Ok(started.elapsed())
    }

    /// Starts the process and returns when it answers health checks, which may be long before it serves.
    ///
    /// # Errors
    /// When it ends or does not answer any within three minutes; the end of its log is part of the error.
    pub fn begin(&mut self) -> Result<()> {
        let mut child = self.spawn()?;
        self.lines = Some(Mutex::new(read_lines(child.stdout.take().expect("stdout is piped"))));
        self.child = Some(child);
        self.health = Some(self.line_with("answers health checks on ")?);
        Ok(())
    }

    /// Waits until the process that [`Self::begin`] started serves.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn wait(&mut self) -> Result<()> {
        self.address = Some(self.line_with("listening on ")?);
        Ok(())
    }

    /// What follows `marker` on the next line that has it.
    fn line_with(&mut self, marker: &str) -> Result<String> {
        let lines = self.lines.as_mut().with_context(|| format!("the {} was never started", self.name))?;
        let lines = lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        while let Some(left) = START_LIMIT.checked_sub(started.elapsed())
            && let Ok(line) = lines.recv_timeout(left)
        {
            if let Some((_, rest)) = line.split_once(marker) {
                return Ok(rest.trim().to_owned());
            }
        }
        self.kill()?;
        bail!("the {} does not serve; the end of its log:\n{}", self.name, self.log_tail())
    }

    /// Asks for `path`, such as `/readyz`.
    ///
    /// # Errors
    /// When the server was never started, or gives no answer of HTTP.
    pub fn probe(&self, path: &str) -> Result<HealthProbe> {
        let address =
            self.health.as_deref().with_context(|| format!("the {} was never started", self.name))?;
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(PROBE_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("reading from {address}"))?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        match (status, body) {
            (Some(status), Some(body)) => Ok(HealthProbe { status, body }),
            _ => bail!("{address} gave no answer of HTTP: {answer:?}"),
        }
    }

    /// Starts the process and kills it after `delay`, wherever it has got to.
    ///
    /// # Errors
    /// When the process cannot be started or killed.
    pub fn start_and_kill(&mut self, delay: Duration) -> Result<()> {
        self.child = Some(self.spawn()?);
        thread::sleep(delay);
        self.kill()
    }

    /// `kill -9`: the process gets no chance to tidy up. Harmless when it does not run.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).with_context(|| format!("killing the {}", self.name))?;
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end well within 15 seconds; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        let asked = self.signal("TERM");
        let child = self.child.as_mut().with_context(|| format!("the {} does not run", self.name))?;
        let started = Instant::now();
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                if asked.is_ok() && status.success() {
                    return Ok(());
                }
                bail!("the {} ended with {status}; the end of its log:\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        bail!("the {} did not end within {STOP_LIMIT:?}; the end of its log:\n{}", self.name, self.log_tail())
    }

    /// Lets the process stand still, as on a machine that hangs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets a process go on that stands still.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// Sends the process a signal by its name, such as `STOP`.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn signal(&self, name: &str) -> Result<()> {
        let (pid, option) = (self.pid()?.to_string(), format!("-{name}"));
        let status = Command::new("kill").args([&option, &pid]).status().context("starting kill")?;
        if !status.success() {
            bail!("kill {option} {pid} failed for the {}", self.name);
        }
        Ok(())
    }

    /// The process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().with_context(|| format!("the {} does not run", self.name))?.id())
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .with_context(|| format!("opening {}", self.log_path().display()))?;
        keep_log(&self.log_path())?;
        let mut words = self.launcher.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        Command::new(words.next().expect("a program at the least"))
            .args(words)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("--listen")
            .arg(self.address.as_deref().unwrap_or("127.0.0.1:0"))
            .args(["--health-listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = self.kill();
    }
}

/// Reads lines in a thread of its own, so that waiting for one can end; the channel closes when the process does.
fn read_lines(source: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            // The pipe is read to its end even without a receiver, or the server would block.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A "server" that is a shell script.
    fn script(folder: &Path, text: &str) -> ServerProcess {
        ServerProcess::new("broker", Path::new("/bin/sh"), folder, &["-c", text, "server"])
    }

    #[test]
    fn the_address_comes_from_the_line_and_is_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = script(
            folder.path(),
            "echo \"$@\" >&2; echo starting; echo 'broker x answers health checks on h:1'; \
             echo 'broker x listening on 127.0.0.1:4711'; exec sleep 60",
        );
        server.start().unwrap();
        assert_eq!(server.address().unwrap(), "127.0.0.1:4711");
        assert!(server.is_running());
        server.kill().unwrap();
        assert!(!server.is_running());
        server.start().unwrap();
        let log = server.log_tail();
        assert!(log.contains("--listen 127.0.0.1:0") && log.contains("--listen 127.0.0.1:4711"), "{log}");
    }

    #[test]
    fn a_server_that_ends_is_an_error_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let error = script(folder.path(), "echo 'disk on fire' >&2; exit 3").start().unwrap_err();
        assert!(error.to_string().contains("disk on fire"), "{error}");
    }

    #[test]
    fn a_stop_lets_the_server_tidy_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = script(
            folder.path(),
            "trap 'echo tidy >&2; exit 0' TERM; echo 'x answers health checks on h:2'; echo 'x listening on h:1'; \
             while true; do sleep 0.05; done",
        );
        server.start().unwrap();
        server.stop().unwrap();
        assert!(!server.is_running() && server.log_tail().contains("tidy"));
        assert!(server.stop().is_err(), "it runs no more");
    }
}
