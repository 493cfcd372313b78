//! The way in and out: the network is made, this program runs inside it, and whatever happens, it is removed.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster_network::{ClusterNetwork, ClusterNode, obstacle};

/// How the program inside ended.
#[derive(Debug)]
pub enum NetworkVisit {
    /// With this status.
    Ended(ExitStatus),
    /// It was interrupted.
    Interrupted,
    /// It was not started, for this reason.
    Impossible(String),
}

struct NetworkRemoval(ClusterNetwork);

impl Drop for NetworkRemoval {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Makes the network of a cluster, runs this program where the clients are, with the arguments that it has and `--inside PROCESS`, and
/// removes the network with every process in it.
///
/// # Errors
/// When the network cannot be made, or the program not be started.
pub async fn enter_network(nameservers: usize, brokers: usize) -> Result<NetworkVisit> {
    if let Some(why) = obstacle() {
        return Ok(NetworkVisit::Impossible(why));
    }
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let network = NetworkRemoval(ClusterNetwork::build(nameservers, brokers)?);
    let program = std::env::current_exe().context("looking for the running program")?;
    let launcher = network.0.launcher(ClusterNode::Clients);
    let mut child = Command::new(&launcher[0])
        .args(&launcher[1..])
        .arg(program)
        .args(std::env::args().skip(1))
        .args(["--inside", &std::process::id().to_string()])
        .spawn()
        .context("starting the program inside the network")?;
    let ended = tokio::task::spawn_blocking(move || child.wait());
    tokio::select! {
        status = ended => Ok(NetworkVisit::Ended(status.context("waiting for the program inside")??)),
        _ = terminated.recv() => Ok(NetworkVisit::Interrupted),
        _ = interrupted.recv() => Ok(NetworkVisit::Interrupted),
    }
}
