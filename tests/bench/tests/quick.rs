//! The benchmarks run, and say something about everything they measure. What they say depends on the machine and is not
//! looked at.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_group_gives_figures() {
    let names = groups_of(&[]);
    assert_eq!(names, ["append", "commit", "dedup", "find", "indexed", "queues", "read", "startup"]);
}

#[test]
fn so_do_very_many_messages() {
    assert_eq!(groups_of(&["--big", "20000"]), ["big"]);
}

/// Runs the benchmarks and returns the names of the groups, after a look at their figures.
fn groups_of(arguments: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--quick", "--dir"]).arg(folder.path()).arg("--json").arg(&file).args(arguments);
    let output = command.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().last().is_some_and(|line| line.starts_with("bench: ")), "{text}");

    let report: Value = serde_json::from_slice(&std::fs::read(file).expect("written")).expect("JSON");
    let groups = report["groups"].as_array().expect("groups");
    for group in groups {
        let figures = group["figures"].as_array().expect("figures");
        let is_told = |figure: &Value| figure["value"].as_f64().is_some_and(|value| value >= 0.0);
        assert!(!figures.is_empty() && figures.iter().all(is_told), "{group}");
    }
    let left = std::fs::read_dir(folder.path()).expect("listed").count();
    assert_eq!(left, 1, "only the file of the figures is left");
    let mut names: Vec<String> =
        groups.iter().map(|group| group["name"].as_str().expect("a name").to_owned()).collect();
    names.sort_unstable();
    names
}
