//! The `nameserver` program as a process: flags, configuration, signals.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::process::{program, start};

#[test]
fn it_says_where_it_listens_and_ends_by_sigterm() {
    let data = tempfile::tempdir().unwrap();
    let (mut process, address) = start(data.path(), &[]);
    std::net::TcpStream::connect(&address).unwrap();
    let begin = Instant::now();
    let pid = process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(process.0.wait().unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_port_in_use_is_reported_with_its_address() {
    let data = tempfile::tempdir().unwrap();
    let (_process, address) = start(data.path(), &[]);
    let output = program().args(["--listen", &address, "--data"]).arg(data.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(&address) && text.contains("in use"), "{text}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("nameserver.toml");
    std::fs::write(
        &file,
        "listen = \"127.0.0.1:1\"\n[routes]\nlease = \"20s\"\n[clients]\nexpiry = \"90s\"\n",
    )
    .unwrap();
    let output = program()
        .arg("--config")
        .arg(&file)
        .args(["--print-config", "--lease", "5s"])
        .env("KEROLOX_NAMESERVER__LISTEN", "127.0.0.1:2")
        .env("KEROLOX_NAMESERVER__ROUTES__LEASE", "7s")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["listen = \"127.0.0.1:2\"", "lease = \"5s\"", "expiry = \"90s\"", "max-body-bytes = \"4MiB\""]
    {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_line() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("nameserver.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nleese = \"20s\"\n").unwrap();
    let output = program().arg("--config").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("line 2") && text.contains("leese") && text.contains("nameserver.toml"), "{text}");
}
