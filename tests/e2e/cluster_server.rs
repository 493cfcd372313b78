//! The program `with_cluster`, which lends clusters to test suites in other languages.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kerolox_harness::built_program;
use serde_json::{Value, json};

/// The running program; whatever becomes of the test, it ends.
struct Lender(Child);

impl Drop for Lender {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            signal("-TERM", &self.0.id().to_string());
            self.0.wait().unwrap();
        }
    }
}

/// Runs a script under the program; the address takes requests.
fn lender(script: &str) -> (Lender, String) {
    let mut child = Command::new(built_program("with_cluster").unwrap())
        .args(["/bin/sh", "-c", &format!("echo $KEROLOX_HARNESS; {script}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    (Lender(child), address.trim().to_owned())
}

fn ask(address: &str, line: &str) -> Value {
    let mut stream = TcpStream::connect(address).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn is_running(process: &Value) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([name, process]).status().unwrap().success());
}

#[test]
fn servers_keep_their_address_and_end_with_the_program() {
    let (mut lender, harness) = lender("exec sleep 600");
    let started = ask(&harness, "cluster KEROLOX_BROKER__LITE__MAX_TOPICS=2");
    let broker = ask(&harness, "server 0 broker");
    assert_eq!((&started["id"], &started["broker"]), (&json!(0), &broker["address"]), "{started}");
    assert_eq!(ask(&harness, "kill 0 master")["pid"], Value::Null);
    let again = ask(&harness, "start 0 broker");
    assert_eq!(again["address"], broker["address"]);
    assert!(!is_running(&broker["pid"]) && is_running(&again["pid"]));
    let logs = ask(&harness, "logs");
    assert!(logs["logs"][0].as_str().unwrap().contains("--- broker:"), "{logs}");

    let error = |line| ask(&harness, line)["error"].to_string();
    assert!(
        error("kill 0 unheard").contains("no server unheard") && error("dance").contains("unknown request")
    );
    assert!(error("cluster KEROLOX_BROKER__LITE__MAX_TOPICS=many").contains("the end of its log"));
    let standalone = ask(&harness, "standalone");
    assert_eq!(standalone["nameserver"], Value::Null);
    let closed = ask(&harness, &format!("server {} broker", standalone["id"]))["pid"].clone();
    assert_eq!(ask(&harness, &format!("close {}", standalone["id"])), json!({}));
    assert!(
        !is_running(&closed) && error(&format!("server {} broker", standalone["id"])).contains("no cluster")
    );

    signal("-TERM", &lender.0.id().to_string());
    assert_eq!(lender.0.wait().unwrap().code(), Some(143));
    assert!(!is_running(&again["pid"]));
    TcpStream::connect(&harness).unwrap_err();
}

#[test]
fn a_group_restarts_in_turn_and_a_failed_command_shows_the_logs() {
    let (mut lender, harness) = lender("echo $$; trap 'exit 3' USR1; while true; do sleep 0.1; done");
    let mut said = BufReader::new(lender.0.stdout.take().unwrap());
    let mut shell = String::new();
    said.read_line(&mut shell).unwrap();
    ask(&harness, "group 3");
    let pid = |name: &str| ask(&harness, &format!("server 0 {name}"))["pid"].clone();
    let before = ["broker", "broker-2", "broker-3"].map(pid);
    assert_eq!(ask(&harness, "restart-in-turn 0"), json!({}));
    let after = ["broker", "broker-2", "broker-3"].map(pid);
    assert!(
        before.iter().all(|old| !is_running(old)) && after.iter().all(is_running),
        "{before:?} {after:?}"
    );
    let killed = ask(&harness, "kill 0 master");
    assert_eq!(ask(&harness, "in-sync 0"), json!({}));
    assert_ne!(ask(&harness, "server 0 master")["server"], killed["server"]);

    signal("-USR1", shell.trim());
    let mut shown = String::new();
    said.read_to_string(&mut shown).unwrap();
    assert_eq!(lender.0.wait().unwrap().code(), Some(3));
    assert!(shown.contains("--- nameserver-1:") && shown.contains("--- broker-3:"), "{shown}");
    assert!(!after.iter().any(is_running));
}
