//! Exit codes and streams of the real program where no server is needed. Everything else is tested in the cluster tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::process::{Command, Output};

fn mqadmin(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqadmin"));
    command.args(line.split_whitespace()).env_remove("NAMESRV_ADDR").env_remove("RUST_LOG").output().unwrap()
}

/// An address without a listener.
fn deserted() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn without_a_nameserver_it_says_how_to_name_one() {
    let output = mqadmin("topicList");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("NAMESRV_ADDR"), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_unreachable_nameserver_is_named() {
    let address = deserted();
    let output = mqadmin(&format!("CLUSTERLIST -n {address}"));
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}

#[test]
fn failures_are_json_too() {
    let address = deserted();
    let output = mqadmin(&format!("topicStatus -n {address} -t orders --output json"));
    assert_eq!(output.status.code(), Some(6));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit"], 6);
    assert!(error["error"].as_str().unwrap().contains(&address));
}

#[test]
fn an_unreachable_broker_is_a_failed_change() {
    let address = deserted();
    let output = mqadmin(&format!("updateTopic -b {address} -t orders --output json"));
    assert_eq!(output.status.code(), Some(6));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["brokers"][0]["ok"], &report["brokers"][0]["address"]),
        (&false.into(), &address.into())
    );
}

#[test]
fn help_and_mistakes_have_the_usual_codes() {
    assert_eq!(mqadmin("-h").status.code(), Some(0));
    assert_eq!(mqadmin("updateTopic -h").status.code(), Some(0));
    assert_eq!(mqadmin("").status.code(), Some(2));
    assert_eq!(mqadmin("nonsense").status.code(), Some(2));
}

#[test]
fn data_folders_are_read_by_another_program() {
    for line in ["store", "store verify /data --output json", "STORE dump --body"] {
        let output = mqadmin(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let said = text(&output.stderr);
        assert!(said.contains("kerolox-inspect") && said.trim_end().lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty());
    }
}

/// An administrator's machine has no RocksDB.
#[test]
fn no_storage_library_is_linked() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_mqadmin")).output().unwrap();
    let libraries = text(&output.stdout);
    assert!(libraries.contains("libc.so"), "{output:?}: is it still read right?");
    assert!(!libraries.contains("rocksdb"), "{libraries}");
}
