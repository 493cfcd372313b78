//! The shells of a page: one in which its commands run after each other, and terminals with what goes on running.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Longest that a command may take.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Longest until a server takes connections.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);
/// Longest until it says in its terminal that it serves; it takes connections before. One that writes elsewhere, or waits for others,
/// does not say so.
const SERVE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at what has to come.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Marks the processes of a page by its folder, so that all of them can be found at its end.
const PAGE_MARK: &str = "KEROLOX_MANUAL_PAGE";
/// Marks the processes of a run by the number of its process.
const RUN_MARK: &str = "KEROLOX_MANUAL_RUN";

/// Where the shells of a page run: its folder, the one beside it, and the environment.
#[derive(Debug)]
pub(crate) struct PagePlace {
    /// Folder and home of the page.
    pub(crate) home: PathBuf,
    /// Folder of the scripts and outputs of its commands, and of stand-ins.
    pub(crate) control: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

impl PagePlace {
    fn bash(&self) -> Command {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(&self.home).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .env("HOME", &self.home)
            .env(PAGE_MARK, &self.home)
            .env(RUN_MARK, std::process::id().to_string());
        command
    }

    /// Kills every process that was started in a shell of this page.
    pub(crate) fn kill_all(&self) {
        kill_marked(PAGE_MARK, &self.home.to_string_lossy());
    }
}

/// Kills every process that was started by this run.
pub(crate) fn kill_run() {
    kill_marked(RUN_MARK, &std::process::id().to_string());
}

/// Kills the processes that have a variable with this value in their environment.
fn kill_marked(variable: &str, value: &str) {
    let mark = format!("{variable}={value}").into_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(process) = number.and_then(Pid::from_raw) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|each| each == mark) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct CommandOutcome {
    pub(crate) exit: i32,
    /// Both of its outputs.
    pub(crate) output: String,
}

/// The shell in which the commands of a page run.
#[derive(Debug)]
pub(crate) struct PageShell {
    child: Child,
    input: ChildStdin,
    exits: mpsc::Receiver<String>,
    control: PathBuf,
    commands: usize,
}

impl PageShell {
    /// Starts the shell.
    ///
    /// # Errors
    /// When there is no bash.
    pub(crate) fn start(place: &PagePlace) -> Result<Self> {
        let mut child = place
            .bash()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting bash")?;
        let mut input = child.stdin.take().expect("stdin is piped");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, exits) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        // Jobs have process groups of their own, as at a terminal.
        writeln!(input, "set -m")?;
        Ok(Self { child, input, exits, control: place.control.clone(), commands: 0 })
    }

    /// Runs a command to its end. Jobs that it leaves in the background go on.
    ///
    /// # Errors
    /// When it takes longer than a minute, or ends the shell.
    pub(crate) fn run(&mut self, command: &str) -> Result<CommandOutcome> {
        self.commands += 1;
        let script = self.control.join(format!("command-{}", self.commands));
        let output = self.control.join(format!("output-{}", self.commands));
        fs::write(&script, format!("{command}\n"))?;
        // `$?` stays what the command made it.
        writeln!(
            self.input,
            "{{ . '{}'; }} >'{}' 2>&1 </dev/null; code=$?; echo $code; (exit $code)",
            script.display(),
            output.display()
        )?;
        let exit = match self.exits.recv_timeout(COMMAND_LIMIT) {
            Ok(exit) => exit.trim().parse().with_context(|| format!("bash said {exit:?}"))?,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("no end after {COMMAND_LIMIT:?}; until then:\n{}", read(&output))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the shell ended:\n{}", read(&output)),
        };
        Ok(CommandOutcome { exit, output: read(&output) })
    }
}

impl Drop for PageShell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal in which something goes on running.
#[derive(Debug)]
pub(crate) struct PageTerminal {
    child: Child,
    output: PathBuf,
    /// Lines that a page has shown.
    pub(crate) shown: usize,
}

impl PageTerminal {
    /// Starts a command in a new terminal, and waits until its servers take connections, and a while for them to say that they serve.
    ///
    /// # Errors
    /// When it ends before that, or they do not within a minute.
    pub(crate) fn start(place: &PagePlace, name: &str, command: &str, listens: &[String]) -> Result<Self> {
        let output = place.control.join(format!("terminal-{name}"));
        let file = File::options().append(true).create(true).open(&output)?;
        let shown = read(&output).lines().count();
        let child = place
            .bash()
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .context("starting bash")?;
        let mut terminal = Self { child, output, shown };
        for address in listens {
            terminal.wait_for(address)?;
        }
        Ok(terminal)
    }

    fn wait_for(&mut self, address: &str) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(address.replace("localhost", "127.0.0.1")).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} and does not listen on {address}:\n{}", self.text());
            }
            if begun.elapsed() > LISTEN_LIMIT {
                bail!("nothing listens on {address}:\n{}", self.text());
            }
            thread::sleep(LOOK_PAUSE);
        }
        let listens = Instant::now();
        let says_so = |text: String| text.lines().skip(self.shown).any(|line| line.ends_with(address));
        while listens.elapsed() < SERVE_LIMIT && !says_so(self.text()) {
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    /// All that the terminal shows.
    pub(crate) fn text(&self) -> String {
        read(&self.output)
    }

    /// Presses Ctrl-C, and waits for the end.
    ///
    /// # Errors
    /// When it goes on for a minute.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, Signal::INT).context("interrupting")?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > COMMAND_LIMIT {
                bail!("goes on after Ctrl-C:\n{}", self.text());
            }
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }
}

impl Drop for PageTerminal {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
