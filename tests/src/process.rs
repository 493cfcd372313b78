//! Server processes: started on a free port, stopped, killed, and started again on the same port and data.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that an error shows.
const TAIL_LINES: usize = 40;

/// A server process. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    address: Option<String>,
    child: Option<Child>,
}

impl Server {
    /// A standalone broker that keeps its data and log below `folder`; not started yet.
    pub fn standalone(broker: &Path, folder: &Path, arguments: &[&str]) -> Self {
        Self::new("broker", broker, folder, &[&["--standalone"], arguments].concat())
    }

    /// A server that keeps its data and log below `folder`, in files that carry `name`; not started yet. Address and
    /// data folder are added to the `arguments`.
    pub fn new(name: &str, program: &Path, folder: &Path, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            folder: folder.to_owned(),
            address: None,
            child: None,
        }
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The program `name` that was built beside the running one, or beside the folder with the running test.
    ///
    /// # Errors
    /// When it is not there.
    pub fn program(name: &str) -> Result<PathBuf> {
        let mut path = std::env::current_exe().context("looking for the running program")?;
        path.pop();
        if path.ends_with("deps") {
            path.pop();
        }
        path.push(name);
        if !path.exists() {
            bail!("{} does not exist; build it first: cargo build --release", path.display());
        }
        Ok(path)
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
    /// When it ends or does not serve within a minute; the end of its log is part of the error.
    pub fn start(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let mut child = self.spawn()?;
        let lines = read_lines(child.stdout.take().expect("stdout is piped"));
        self.child = Some(child);
        while let Some(left) = START_LIMIT.checked_sub(started.elapsed()) {
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on ") {
                        self.address = Some(address.trim().to_owned());
                        return Ok(started.elapsed());
                    }
                }
                Err(_) => break,
            }
        }
        self.kill()?;
        bail!("the {} does not serve; the end of its log:\n{}", self.name, self.log_tail())
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
    /// When it does not run, or does not end well within ten seconds; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("the {} does not run", self.name))?;
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let started = Instant::now();
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                if asked.success() && status.success() {
                    return Ok(());
                }
                bail!("the {} ended with {status}; the end of its log:\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        bail!("the {} did not end within {STOP_LIMIT:?}; the end of its log:\n{}", self.name, self.log_tail())
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .with_context(|| format!("opening {}", self.log_path().display()))?;
        Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("--listen")
            .arg(self.address.as_deref().unwrap_or("127.0.0.1:0"))
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

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left to hear about an error.
        let _ = self.kill();
    }
}

/// Reads lines in a thread of its own, so that waiting for one can end; the channel closes when the process does.
fn read_lines(source: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            // The pipe is read to its end even when nobody listens any more, or the server would block.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A "server" that is a shell script.
    fn script(folder: &Path, text: &str) -> Server {
        let mut server = Server::standalone(Path::new("/bin/sh"), folder, &[]);
        server.arguments = vec!["-c".to_owned(), text.to_owned(), "server".to_owned()];
        server
    }

    #[test]
    fn the_address_comes_from_the_line_and_is_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = script(
            folder.path(),
            "echo \"$@\" >&2; echo starting; echo 'broker x listening on 127.0.0.1:4711'; exec sleep 60",
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
            "trap 'echo tidy >&2; exit 0' TERM; echo 'listening on h:1'; while true; do sleep 0.05; done",
        );
        server.start().unwrap();
        server.stop().unwrap();
        assert!(!server.is_running() && server.log_tail().contains("tidy"));
        assert!(server.stop().is_err(), "it runs no more");
    }
}
