//! The `nameserver` program as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends the process whatever happens to the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nameserver"))
}

/// A nameserver on a free port, unless `flags` say otherwise, and its address.
pub(crate) fn start(data: &Path, flags: &[&str]) -> (Process, String) {
    let mut command = program();
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(["--health-listen", "off"]).args(flags).arg("--data").arg(data);
    command.stdout(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("nameserver listening on ").expect(&line).to_owned();
    (process, address)
}
