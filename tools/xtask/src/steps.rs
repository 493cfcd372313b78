//! Steps of `verify`: which there are, and how they run.
//!
//! Steps of Cargo wait for each other, since they share a build folder. All others run beside them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// What a step needs for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Cargo's build folder.
    Cargo,
    /// Nothing: runs beside the others.
    Light,
}

/// A check with a name; Bash runs its script at the root of the repository, after `deploy/setup.sh`.
struct Step {
    name: &'static str,
    lane: Lane,
    script: &'static str,
}

const STEPS: &[Step] = &[
    Step { name: "format", lane: Lane::Light, script: "cargo fmt --all --check" },
    Step {
        name: "format-rust-sdk",
        lane: Lane::Light,
        script: "cargo fmt --manifest-path tests/sdk/rust/Cargo.toml --check",
    },
    Step {
        name: "format-go",
        lane: Lane::Light,
        script: "setup_go && files=\"$(gofmt -l tests/sdk/go)\" && { [ -z \"$files\" ] || fail \"gofmt -w would change $files\"; }",
    },
    Step { name: "spelling", lane: Lane::Light, script: "setup_checkers && \"$KEROLOX_CHECKERS/typos\"" },
    // Reads all that Git tracks in a moment; in Cargo's lane since Cargo starts it.
    Step { name: "english", lane: Lane::Cargo, script: "cargo xtask english" },
    Step {
        name: "licences",
        lane: Lane::Light,
        // Advisories need a database from the network: the release check-list has them.
        script: "setup_checkers && \"$KEROLOX_CHECKERS/cargo-deny\" --locked --workspace --log-level warn check --hide-inclusion-graph licenses bans sources",
    },
    Step {
        name: "clippy",
        lane: Lane::Cargo,
        // --all-targets leaves out what a plain `cargo test` does not run.
        script: "cargo clippy --release --locked --workspace --all-targets -- -D warnings \
            && cargo clippy --release --locked --workspace --test e2e --test conformance -- -D warnings",
    },
    Step {
        name: "documentation",
        lane: Lane::Cargo,
        // Of crates that only the workspace uses, the documentation may point to private items.
        script: "RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
            cargo doc --release --locked --workspace --no-deps --lib",
    },
    Step { name: "unit", lane: Lane::Cargo, script: "tests/run.sh unit" },
];

/// A step that ended.
struct Outcome {
    name: &'static str,
    took: Duration,
    output: String,
    passed: bool,
}

/// Runs the steps that read only.
pub(crate) fn verify(root: &Path, only: &[String], skip: &[String]) -> Result<()> {
    for name in only.iter().chain(skip) {
        let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        ensure!(known.contains(&name.as_str()), "no step {name:?}; there are {}", known.join(", "));
    }
    let is_wanted = |step: &&Step| {
        (only.is_empty() || only.iter().any(|name| name == step.name))
            && skip.iter().all(|name| name != step.name)
    };
    let wanted: Vec<&Step> = STEPS.iter().filter(is_wanted).collect();
    let begun = Instant::now();
    prepare(root)?;
    let outcomes = run_lanes(root, &wanted);
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    for outcome in &failed {
        println!("\n==> {} failed:\n{}", outcome.name, outcome.output.trim_end());
    }
    let took = begun.elapsed().as_secs();
    println!("\nverify: {} passed, {} failed, {took} s", outcomes.len() - failed.len(), failed.len());
    if !failed.is_empty() {
        bail!("{}", failed.iter().map(|outcome| outcome.name).collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// Runs the steps that read only, then everything that the README promises.
pub(crate) fn verify_all(root: &Path) -> Result<()> {
    verify(root, &[], &["unit".to_owned()])?;
    for script in ["tests/run.sh", "deploy/quickstart.sh --once"] {
        let begun = Instant::now();
        let status = bash(root, script).status().with_context(|| script.to_owned())?;
        ensure!(status.success(), "{script} failed after {} s", begun.elapsed().as_secs());
        println!("{script}: {} s", begun.elapsed().as_secs());
    }
    Ok(())
}

/// Installs what several steps need, so that no two of them do it at once.
fn prepare(root: &Path) -> Result<()> {
    let status = bash(root, "setup_build && setup_checkers").status().context("cannot run bash")?;
    ensure!(status.success(), "a tool is missing, see above");
    Ok(())
}

/// Runs one step after the other in the lane of Cargo, all others beside it.
fn run_lanes(root: &Path, steps: &[&Step]) -> Vec<Outcome> {
    let outcomes = Mutex::new(Vec::new());
    let finish = |step: &Step| {
        let outcome = run(root, step);
        let word = if outcome.passed { "ok    " } else { "FAILED" };
        println!("{word} {:16} {:6.1} s", outcome.name, outcome.took.as_secs_f64());
        outcomes.lock().expect("no step panics").push(outcome);
    };
    std::thread::scope(|scope| {
        for lane in [Lane::Cargo, Lane::Light] {
            let finish = &finish;
            scope.spawn(move || steps.iter().filter(|step| step.lane == lane).for_each(|step| finish(step)));
        }
    });
    outcomes.into_inner().expect("no step panics")
}

/// Runs a step and keeps what it prints.
fn run(root: &Path, step: &Step) -> Outcome {
    let begun = Instant::now();
    let output = bash(root, &format!("{{ {}; }} 2>&1", step.script)).output();
    let (passed, output) = match output {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => (false, format!("cannot run bash: {error}")),
    };
    Outcome { name: step.name, took: begun.elapsed(), output, passed }
}

/// Bash at the root of the repository, with the functions of `deploy/setup.sh` and the build environment.
fn bash(root: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    let script = format!("set -euo pipefail; . deploy/setup.sh; . deploy/env.sh; {script}");
    command.args(["-c", &script]).current_dir(root).stdin(Stdio::null());
    command
}
