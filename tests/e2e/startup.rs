//! Starting a broker: configuration, and what it refuses to start with.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kerolox_harness::{ServerProcess, built_program};

use crate::mqadmin::mqadmin;
use crate::support::{GROUP, broker, cluster_of, message, plan, standalone, start_broker};

/// What a broker that must not start says, on its last line.
fn refusal(server: &mut ServerProcess) -> String {
    server.start().unwrap_err().to_string()
}

/// The broker program with `flags` and `environment`.
fn run(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(built_program("broker").unwrap())
        .args(flags)
        .env("RUST_BACKTRACE", "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_data_folder_of_another_group_is_refused() {
    let mut servers = standalone(&[]);
    servers.brokers[0].stop().unwrap();
    // For the harness it is broker-a, so the folder stays the same.
    let mut other = ServerProcess::new(
        "broker-a",
        &built_program("broker").unwrap(),
        servers.folder(),
        &["--standalone", "--group", "broker-b"],
    );
    let said = refusal(&mut other);
    for part in ["\"broker-a\"", "\"broker-b\"", "--data", "--group"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    servers.brokers[0].start().expect("the data is unharmed");
}

#[test]
fn a_second_broker_on_the_same_data_is_refused() {
    let mut servers = standalone(&[]);
    let mut second = broker("broker-a", servers.folder(), &["--standalone"]);
    let said = refusal(&mut second);
    let data = servers.brokers[0].data();
    assert!(said.contains("in use by another broker") && said.contains(data.to_str().unwrap()), "{said}");
    assert!(servers.brokers[0].is_running());
    // A killed process holds no lock.
    servers.brokers[0].kill().unwrap();
    second.start().unwrap();
}

#[test]
fn a_port_in_use_is_named() {
    let servers = standalone(&[]);
    let address = servers.brokers[0].address().unwrap();
    let data = servers.folder().join("other");
    let output = run(&["--standalone", "--listen", address, "--data", data.to_str().unwrap()], &[]);
    let said = stderr(&output);
    assert!(said.contains(address) && said.contains("in use"), "{said}");
}

#[test]
fn a_taken_port_for_health_checks_is_an_error_where_it_was_asked_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let flags = ["--standalone", "--listen", "127.0.0.1:0", "--data", data, "--health-listen", &address];
    let said = stderr(&run(&flags, &[]));
    assert!(said.contains("health.listen") && said.contains(&address) && said.contains("off"), "{said}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broker.toml");
    std::fs::write(
        &file,
        "group = \"file\"\ncluster = \"file\"\nlisten = \"127.0.0.1:1\"\nnameservers = [\"f:1\", \"g:2\"]\n\
         [transaction]\nfirst-check = \"11s\"\ncheck-interval = \"12s\"\ncheck-max = 13\n",
    )
    .unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--print-config", "--group", "flag"];
    let output = run(
        &[&flags[..], &["--transaction-first-check", "31s"]].concat(),
        &[
            ("KEROLOX_BROKER__GROUP", "environment"),
            ("KEROLOX_BROKER__CLUSTER", "environment"),
            ("KEROLOX_BROKER__TRANSACTION__FIRST_CHECK", "21s"),
            ("KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL", "22s"),
        ],
    );
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "group = \"flag\"",
        "cluster = \"environment\"",
        "listen = \"127.0.0.1:1\"",
        "first-check = \"31s\"",
        "check-interval = \"22s\"",
        "check-max = 13",
        "segment-size = \"1GiB\"",
    ] {
        assert!(printed.lines().any(|found| found == line), "{line} is missing in\n{printed}");
    }

    // The printed configuration is a file that yields an equal one.
    std::fs::write(&file, &printed).unwrap();
    let again = run(&["--config", file.to_str().unwrap(), "--print-config"], &[]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), printed);
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broker.toml");
    std::fs::write(&file, "[transaction]\nfirst-chekc = \"11s\"\n").unwrap();
    let said = stderr(&run(&["--config", file.to_str().unwrap(), "--print-config"], &[]));
    assert!(
        said.contains("first-chekc") && said.contains("line 2") && said.contains("broker.toml"),
        "{said}"
    );

    let said = stderr(&run(&["--print-config"], &[("KEROLOX_BROKER__TRANSACTION__FIRST_CHEKC", "11s")]));
    assert!(said.contains("first-chekc") && said.contains("KEROLOX_BROKER"), "{said}");
    let said = stderr(&run(&["--print-config"], &[("KEROLOX_BROKER__CHEKC", "1")]));
    assert!(said.contains("chekc"), "{said}");
    let said = stderr(&run(&["--print-config"], &[("KEROLOX_BROKER__TRANSACTION__FIRST_CHECK", "soon")]));
    assert!(said.contains("soon") && said.contains("first-check"), "{said}");
    let output = run(&["--transaction-first-chekc", "11s"], &[]);
    assert!(stderr(&output).contains("--transaction-first-chekc") && output.status.code() == Some(2));
}

#[test]
fn a_word_that_is_no_value_is_an_error_that_lists_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broker.toml");
    std::fs::write(&file, "[log]\nflush = \"fast\"\n").unwrap();
    for said in [
        stderr(&run(&["--print-config", "--flush", "fast"], &[])),
        stderr(&run(&["--print-config"], &[("KEROLOX_BROKER__LOG__FLUSH", "fast")])),
        stderr(&run(&["--print-config", "--config", file.to_str().unwrap()], &[])),
    ] {
        assert!(said.contains("\"fast\" is none of sync, async") && said.contains("flush"), "{said}");
    }
    let said = stderr(&run(&["--print-config"], &[("KEROLOX_BROKER__REPLICATION__ACKS", "some")]));
    assert!(said.contains("\"some\" is none of all, quorum, master"), "{said}");
    let said = stderr(&run(&["--print-config", "--auto-create", "yes"], &[]));
    assert!(said.contains("\"yes\" is none of on, off, standalone"), "{said}");
}

#[test]
fn half_of_a_webhook_secret_is_refused() {
    let mut servers = standalone(&[]);
    servers.brokers[0].stop().unwrap();
    let file = servers.brokers[0].data().join("webhook-secret");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let said = refusal(&mut servers.brokers[0]);
    assert!(said.contains("webhook secret has 32 characters instead of 64"), "{said}");
    std::fs::write(&file, &whole).unwrap();
    servers.brokers[0].start().unwrap();
}

#[test]
fn mqadmin_waits_for_the_first_broker_of_a_cluster_that_was_just_started() {
    let mut servers = cluster_of(1, &[], &[]);
    let nameserver = servers.access_points();
    let command = format!("updateTopic -n {nameserver} -c DefaultCluster -t orders");
    let early = std::thread::spawn(move || mqadmin(&command));
    // It finds no broker at first.
    std::thread::sleep(std::time::Duration::from_millis(500));
    start_broker(&mut servers, "broker-a", &["--nameserver", &nameserver]);
    let run = early.join().unwrap();
    assert_eq!(run.code, 0, "{run:?}");
    let empty = cluster_of(1, &[], &[]);
    let run = mqadmin(&format!("updateTopic -n {} -c DefaultCluster -t orders", empty.access_points()));
    assert!(run.code != 0 && run.stderr.contains("no broker is registered"), "{run:?}");
}

#[test]
fn errors_are_one_line_without_a_backtrace() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let output = run(&["--data", data], &[]);
    let said = stderr(&output);
    assert!(said.contains("--nameserver") && said.contains("--standalone"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// What others may do with each file and folder below `path`: nothing is what they should.
fn open_to_others(path: &Path) -> Vec<String> {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut open = Vec::new();
    if mode & 0o077 != 0 {
        open.push(format!("{} {mode:o}", path.display()));
    }
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        open.extend(entries.flat_map(|entry| open_to_others(&entry.unwrap().path())));
    }
    open
}

/// The folders are there already, and open to everybody.
#[tokio::test]
async fn data_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let data = folder.path().join(format!("{name}-data"));
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    make("nameserver-1");
    make("broker-a");
    let mut servers = plan().group(GROUP, 1).folder(folder.path()).start().unwrap();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "secret")).await.unwrap();
    servers.brokers[0].stop().unwrap();
    for server in [&servers.nameservers[0], &servers.brokers[0]] {
        let open = open_to_others(&server.data());
        assert!(open.is_empty(), "{open:?}");
    }
}

/// Started by a shell with a low limit that may be raised.
#[test]
fn the_limit_of_open_files_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    for (program, more) in [("broker", "--standalone"), ("nameserver", "")] {
        let line = format!(
            "ulimit -Sn 300; ulimit -Hn 3000; exec {} {more} --listen 127.0.0.1:0 --health-listen 127.0.0.1:0 --data {}",
            built_program(program).unwrap().display(),
            folder.path().join(program).display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_up = said.any(|line| line.unwrap().contains("listening"));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap_or_default();
        child.kill().unwrap();
        child.wait().unwrap();
        let row = limits.lines().find(|row| row.starts_with("Max open files")).unwrap_or_default();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert!(is_up && words[3..5] == ["3000", "3000"], "{program}: {row}");
    }
}
