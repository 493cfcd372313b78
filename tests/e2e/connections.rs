//! Connections that strangers make: how many there may be, and how long each may take to become useful.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kerolox_harness::{ServerProcess, built_program};
use tokio::net::TcpSocket;

use crate::support::{PATIENCE, consume, eventually, message, standalone_with};

const TOPIC: &str = "orders";
/// A greeting of HTTP/2: its preface, and settings that say nothing.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection from another address of this machine.
async fn dial(server: &ServerProcess, host: u8) -> TcpStream {
    let there: SocketAddr = server.address().unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, host], 0).into()).unwrap();
    let stream = socket.connect(there).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

/// Whether the server has closed the connection, at once or within `patience`.
fn is_closed(mut stream: &TcpStream, patience: Duration) -> bool {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if began.elapsed() >= patience {
                    return false;
                }
            }
            Err(_) => return true,
        }
    }
}

fn open_files(server: &ServerProcess) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid().unwrap())).unwrap().count()
}

#[tokio::test]
async fn idle_connections_leave_files_to_the_log_and_places_to_clients() {
    let limits = [("KEROLOX_BROKER__CONNECTIONS__MAX", "40"), ("KEROLOX_BROKER__TOPICS__AUTO_CREATE", "off")];
    let servers = standalone_with(&[], &limits);
    servers.create_topic(TOPIC, "NORMAL").await.unwrap();
    // Clients that are connected stay so.
    let producer = servers.client().producer().topic(TOPIC).start().await.unwrap();
    let consumer = servers.consumer("billing", TOPIC).await.unwrap();
    producer.send(message(TOPIC, "before")).await.unwrap();
    let before = open_files(&servers.brokers[0]);

    let mut strangers = Vec::new();
    for number in 0..200 {
        let mut stranger = dial(&servers.brokers[0], 2 + number % 20).await;
        // One that is not let in may be closed by now.
        let _ = stranger.write_all(if number % 2 == 0 { GREETING } else { b"PRI * HT" });
        strangers.push(stranger);
    }
    eventually("those who are not let in see it", PATIENCE, async || {
        strangers.iter().filter(|stranger| is_closed(stranger, Duration::ZERO)).count() >= 160
    })
    .await;
    let more = open_files(&servers.brokers[0]).saturating_sub(before);
    assert!(more <= 40, "{more} more files are open");

    producer.send(message(TOPIC, "during")).await.unwrap();
    // A new client finds a place, because those who do nothing make one.
    let other = servers.client().producer().topic(TOPIC).start().await.unwrap();
    other.send(message(TOPIC, "another")).await.unwrap();
    assert_eq!(consume(&consumer, 3).await, ["another", "before", "during"]);
    let log = servers.brokers[0].log();
    let ready = servers.brokers[0].probe("/readyz").unwrap();
    assert!(ready.status == 200 && ready.body.contains("\"connections\""), "{ready:?}");
    assert!(log.matches("connections are refused").count() <= 2, "warnings are few: {log}");
}

#[tokio::test]
async fn one_address_leaves_places_to_others() {
    let limits = [("KEROLOX_BROKER__CONNECTIONS__MAX_PER_ADDRESS", "5")];
    let servers = standalone_with(&[], &limits);
    let mut strangers = Vec::new();
    for _ in 0..30 {
        strangers.push(dial(&servers.brokers[0], 9).await);
    }
    eventually("all but five are closed", PATIENCE, async || {
        strangers.iter().filter(|stranger| is_closed(stranger, Duration::ZERO)).count() >= 25
    })
    .await;
    let other = dial(&servers.brokers[0], 10).await;
    assert!(!is_closed(&other, Duration::from_millis(500)));
}

#[tokio::test]
async fn each_stage_before_the_first_call_ends() {
    for program in ["broker", "nameserver"] {
        let folder = tempfile::tempdir().unwrap();
        let flags: &[&str] = if program == "broker" { &["--standalone"] } else { &[] };
        let mut server = ServerProcess::new(program, &built_program(program).unwrap(), folder.path(), flags);
        for (name, value) in [("GREETING", "1s"), ("FIRST_CALL", "3s")] {
            server = server.env(&format!("KEROLOX_{}__CONNECTIONS__{name}", program.to_uppercase()), value);
        }
        server.start().unwrap();
        let began = Instant::now();
        let beginnings: [(&str, &[u8]); 4] = [
            ("silent", b""),
            ("half a preface", b"PRI * HT"),
            ("half a handshake of TLS", b"\x16\x03\x01\x02\0\x01"),
            ("greeted", GREETING),
        ];
        let mut strangers = Vec::new();
        for (name, bytes) in beginnings {
            let mut stranger = dial(&server, 1).await;
            stranger.write_all(bytes).unwrap();
            strangers.push((name, stranger));
        }
        for (name, stranger) in &strangers {
            assert!(is_closed(stranger, PATIENCE), "{program}: {name}");
            assert!(began.elapsed() >= Duration::from_secs(1), "{program}: {name}: too early");
        }
        assert!(began.elapsed() >= Duration::from_secs(3), "{program}: who has greeted has longer");
    }
}

/// SDKs keep channels open and idle.
#[tokio::test]
async fn a_connection_that_was_used_may_be_idle() {
    let limits = [
        ("KEROLOX_BROKER__CONNECTIONS__GREETING", "500ms"),
        ("KEROLOX_BROKER__CONNECTIONS__FIRST_CALL", "1s"),
    ];
    let servers = standalone_with(&[], &limits);
    let mut used = crate::support::raw(&servers.brokers[0]).await;
    let ask = || crate::support::from_client(kerolox_proto::v2::HeartbeatRequest::default());
    let _ = used.heartbeat(ask()).await;
    let connected = |server: &ServerProcess| open_files(server);
    let before = connected(&servers.brokers[0]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(connected(&servers.brokers[0]) >= before, "the connection is there still");
    used.heartbeat(ask()).await.unwrap();
}
