//! The examples of the Rust client, each run as its head says, against a nameserver and a broker.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use kerolox_harness::{ClusterPlan, built_program};

/// Where the examples are, as sources, from the folder of the workspace.
const SOURCES: &str = "client/examples";
/// Those that are no demonstration of some seconds. The one that moves money is a folder, and `tests/run.sh money` tests it.
const OTHERS: [&str; 1] = ["throughput"];
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs all examples at the same time; returns how many there are.
///
/// # Errors
/// What the first one that failed said.
pub(super) async fn run() -> Result<usize> {
    // As the quickstart does.
    let plan = ClusterPlan::new("examples").group("broker-a", 1).flags(&["--transaction-first-check", "1s"]);
    let cluster = tokio::task::block_in_place(|| plan.start())?;
    let address = cluster.access_points();
    let mut running = Vec::new();
    for name in names()? {
        let program = built_program(&format!("examples/{name}"))?;
        let address = address.clone();
        running.push((name, tokio::task::spawn_blocking(move || output(&program, &address))));
    }
    let count = running.len();
    for (name, output) in running {
        let output = output.await?.with_context(|| format!("example {name}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "example {name} ended with {}:\n{text}{errors}", output.status);
        ensure!(!text.is_empty(), "example {name} showed nothing");
        println!("        example {name}: {}", text.lines().last().unwrap_or_default());
    }
    Ok(count)
}

fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        std::fs::read_dir(SOURCES).context("looking for the examples in the folder client/examples")?
    {
        let path: PathBuf = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|extension| extension == "rs") && !OTHERS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What a program says that is given one argument.
fn output(program: &Path, argument: &str) -> Result<Output> {
    let mut child = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > LIMIT {
            child.kill()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}
