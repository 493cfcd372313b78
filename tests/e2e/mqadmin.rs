//! Runs of `mqadmin` and `kerolox-inspect`, and what they print.

use std::process::Command;

use kerolox_harness::built_program;
use serde_json::Value;

/// What one run of the program came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `mqadmin` with the words of `line`, where `'` keeps words together.
pub(crate) fn mqadmin(line: &str) -> Run {
    run("mqadmin", line, &[])
}

/// Runs `kerolox-inspect` in the way of [`mqadmin`].
pub(crate) fn inspect(line: &str) -> Run {
    run("kerolox-inspect", line, &[])
}

/// Runs a program with the words of `line`, and with environment variables.
pub(crate) fn run(program: &str, line: &str, environment: &[(&str, &str)]) -> Run {
    let mut words = Vec::new();
    for (number, part) in line.split('\'').enumerate() {
        if number % 2 == 1 { words.push(part) } else { words.extend(part.split_whitespace()) }
    }
    let output = Command::new(built_program(program).unwrap())
        .args(words)
        .env_remove("NAMESRV_ADDR")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    Run {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The standard output of a command that succeeds without a word of complaint.
pub(crate) fn table(line: &str) -> String {
    let run = mqadmin(line);
    assert!(run.code == 0 && run.stderr.is_empty(), "{line}: {run:?}");
    run.stdout
}

/// Runs a command with JSON output, and returns the parsed output.
pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(&table(&format!("{line} --output json"))).unwrap()
}

/// Exit code and explanation of a command that fails; the JSON form must agree.
pub(crate) fn failure(line: &str) -> (i32, String) {
    let plain = mqadmin(line);
    assert!(plain.stdout.is_empty() && !plain.stderr.is_empty(), "{line}: {plain:?}");
    let json_run = mqadmin(&format!("{line} --output json"));
    assert_eq!(json_run.code, plain.code, "{line}: {json_run:?}");
    (plain.code, plain.stderr)
}

/// The cells of each row below the header, which must have as many.
pub(crate) fn rows(table: &str) -> Vec<Vec<&str>> {
    let mut lines = table.lines();
    let header = lines.next().expect("there is a header");
    assert!(header.starts_with('#'), "{table}");
    lines.map(|line| line.split_whitespace().collect()).collect()
}
