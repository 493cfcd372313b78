//! The way in and out: the network is made, this program runs inside it, and whatever happens, it is removed.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::network::{Network, Node, obstacle};

/// How the program inside ended.
#[derive(Debug)]
pub enum Entered {
    /// With this status.
    Ended(ExitStatus),
    /// It was interrupted.
    Interrupted,
    /// It was not started, for this reason.
    Impossible(String),
}

struct Removal(Network);

impl Drop for Removal {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Makes the network, runs this program where the clients are, with the arguments that it has and `--inside PROCESS`, and
/// removes the network with every process in it.
///
/// # Errors
/// When the network cannot be made, or the program not be started.
pub async fn enter() -> Result<Entered> {
    if let Some(why) = obstacle() {
        return Ok(Entered::Impossible(why));
    }
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let network = Removal(Network::build()?);
    let program = std::env::current_exe().context("looking for the running program")?;
    let mut child = Command::new("ip")
        .args(network.0.command(Node::Clients, &program.to_string_lossy()))
        .args(std::env::args().skip(1))
        .args(["--inside", &std::process::id().to_string()])
        .spawn()
        .context("starting the program inside the network")?;
    let ended = tokio::task::spawn_blocking(move || child.wait());
    tokio::select! {
        status = ended => Ok(Entered::Ended(status.context("waiting for the program inside")??)),
        _ = terminated.recv() => Ok(Entered::Interrupted),
        _ = interrupted.recv() => Ok(Entered::Interrupted),
    }
}
