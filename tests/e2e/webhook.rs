//! Check-backs over HTTP, against a server of the test.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use kerolox_client::Resolution;
use kerolox_harness::{Cluster, ProcessUsage};
use serde_json::Value;
use sha2::Sha256;

use crate::mqadmin::{failure, json, table};
use crate::support::{NO_CHECKS, PATIENCE, consume, eventually, expect_nothing, message, standalone_with};
use crate::transactions::producer;

/// One request that a webhook got.
#[derive(Debug, Clone)]
struct Asked {
    timestamp: String,
    signature: String,
    body: String,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A webhook that answers with status and body of `answer`; returns its URL and what it was asked.
fn webhook(answer: impl Fn(&Asked) -> (u16, String) + Send + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/checks", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&stream);
            let (status, body) = answer(&request);
            log.lock().unwrap().push(request);
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // A client that went away does not want its answer.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (url, asked)
}

fn read(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut asked = Asked { timestamp: String::new(), signature: String::new(), body: String::new() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else {
            if line.trim().is_empty() {
                break;
            }
            assert!(line.starts_with("POST /checks HTTP/1.1"), "{line}");
            continue;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "x-kerolox-timestamp" => value.clone_into(&mut asked.timestamp),
            "x-kerolox-signature" => value.clone_into(&mut asked.signature),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    asked.body = String::from_utf8(body).unwrap();
    asked
}

fn resolution(word: &str) -> (u16, String) {
    (200, format!("{{\"resolution\": \"{word}\"}}"))
}

/// Sends half messages of "payments" with these bodies from a producer that is gone at once.
async fn leave(servers: &Cluster, bodies: &[&str]) {
    let producer = producer(servers, |_| Resolution::Unknown).await;
    for body in bodies {
        let _never_decided = producer.send_in_transaction(message("payments", body)).await.unwrap();
    }
    producer.shutdown().await;
}

/// A broker whose operator allows webhooks at these places.
fn broker(allowed: &str) -> Cluster {
    standalone_with(&NO_CHECKS, &[("KEROLOX_BROKER__TRANSACTION__WEBHOOK_ALLOW", allowed)])
}

fn creation(servers: &Cluster, url: &str) -> String {
    let address = servers.brokers[0].address().unwrap();
    let attributes =
        "+message.type=TRANSACTION,+transaction.first-check=1s,+transaction.check-interval=300ms";
    format!("updateTopic -b {address} -t payments -a {attributes},+transaction.webhook={url}")
}

fn create(servers: &Cluster, url: &str) {
    table(&creation(servers, url));
}

/// What a webhook finds in the body that the message had.
fn body(asked: &Asked) -> String {
    use base64::Engine as _;
    let encoded = asked.json()["body"].as_str().unwrap().to_owned();
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_decides_when_no_producer_is_there() {
    let servers = broker("127.0.0.1");
    let (url, asked) = webhook(|asked| match body(asked).as_str() {
        "paid" => resolution("commit"),
        "cancelled" => resolution("rollback"),
        "odd" => (404, "no such order".to_owned()),
        // It makes up its mind when it is asked for the third time.
        _ if asked.json()["check"] == 3 => resolution("commit"),
        _ => resolution("unknown"),
    });
    create(&servers, &url);
    leave(&servers, &["paid", "cancelled", "odd", "slow"]).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["paid", "slow"]);
    expect_nothing(&consumer).await;

    let ns = servers.access_points();
    let listed = |state: &str| {
        let answer = json(&format!("transaction list -n {ns} -s {state}"));
        answer["brokers"][0]["transactions"].as_array().unwrap().clone()
    };
    assert_eq!(listed("rolled-back").len(), 1);
    for decided in listed("committed").iter().chain(&listed("rolled-back")) {
        assert_eq!(
            (&decided["decidedSource"], decided["decidedBy"].as_str()),
            (&"webhook".into(), Some(&*url))
        );
    }
    let open = listed("prepared");
    let story = json(&format!("transaction show -n {ns} {}", open[0]["transactionId"].as_str().unwrap()));
    assert_eq!((&story["body"], &story["checkBacks"][0]["answer"]), (&"odd".into(), &"unknown".into()));
    let stats = json(&format!("transaction stats -n {ns}"));
    assert!(stats["brokers"][0]["webhooksMisunderstood"].as_u64().unwrap() >= 1, "{stats}");
    assert_eq!(stats["brokers"][0]["webhooksFailed"], 0);

    // Every request is signed with the broker's secret, over the time and the body.
    let secret = std::fs::read_to_string(servers.brokers[0].data().join("webhook-secret")).unwrap();
    let asked = asked.lock().unwrap().clone();
    for request in &asked {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.trim().as_bytes()).unwrap();
        mac.update(format!("{}.{}", request.timestamp, request.body).as_bytes());
        let mut expected = "sha256=".to_owned();
        for byte in mac.finalize().into_bytes() {
            write!(expected, "{byte:02x}").unwrap();
        }
        assert_eq!(request.signature, expected);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.saturating_sub(Duration::from_secs(request.timestamp.parse().unwrap()));
        assert!(age < PATIENCE * 4, "{request:?}");
    }
    assert_eq!(asked[0].json()["topic"], "payments");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_down_costs_no_check_and_is_tried_again() {
    let servers = broker("127.0.0.1");
    let up = Arc::new(Mutex::new(false));
    let is_up = Arc::clone(&up);
    let (url, asked) =
        webhook(move |_| if *is_up.lock().unwrap() { resolution("commit") } else { (503, String::new()) });
    create(&servers, &url);
    leave(&servers, &["patient"]).await;
    eventually("it was tried twice", PATIENCE, || async { asked.lock().unwrap().len() >= 2 }).await;
    let ns = servers.access_points();
    let listed = json(&format!("transaction list -n {ns}"));
    assert_eq!(listed["brokers"][0]["transactions"][0]["checks"], 0, "{listed}");
    let stats = json(&format!("transaction stats -n {ns}"));
    assert!(stats["brokers"][0]["webhooksFailed"].as_u64().unwrap() >= 2, "{stats}");
    *up.lock().unwrap() = true;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["patient"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_the_operator_did_not_allow_are_not_asked() {
    let (url, asked) = webhook(|_| resolution("commit"));
    let port = url.rsplit(':').next().unwrap().to_owned();
    let servers = broker("public");
    let (loopback, metadata) =
        (format!("http://127.0.0.1:{port}"), "http://169.254.169.254/latest".to_owned());
    let disguised = [format!("http://[::ffff:127.0.0.1]:{port}"), format!("http://2130706433:{port}")];
    for url in [loopback, metadata].iter().chain(&disguised) {
        let (code, text) = failure(&creation(&servers, url));
        assert!(code == 1 && text.contains("transaction.webhook-allow"), "{url}: {code} {text}");
    }
    // What a name leads to is seen when it is asked.
    create(&servers, &format!("http://localhost:{port}"));
    leave(&servers, &["patient"]).await;
    let ns = servers.access_points();
    let failed =
        || json(&format!("transaction stats -n {ns}"))["brokers"][0]["webhooksFailed"].as_u64().unwrap();
    eventually("it was tried", PATIENCE, async || failed() >= 2).await;
    assert!(asked.lock().unwrap().is_empty());
    let log = servers.brokers[0].log();
    assert!(log.contains("localhost (") && log.contains("is not in `transaction.webhook-allow`"), "{log}");

    // With leave for the name it is asked.
    let servers = broker("localhost");
    create(&servers, &format!("http://localhost:{port}"));
    leave(&servers, &["patient"]).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["patient"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_understood_in_capitals_and_neither_kept_nor_told_when_it_is_none() {
    let (url, asked) = webhook(|asked| match body(asked).as_str() {
        "loud" => resolution("COMMIT"),
        "chatty" => (200, "the database password is swordfish".to_owned()),
        _ => (200, format!("swordfish{}", "x".repeat(512 << 20))),
    });
    let servers = broker("127.0.0.0/8");
    create(&servers, &url);
    leave(&servers, &["chatty", "endless", "loud"]).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["loud"]);
    let ns = servers.access_points();
    let misunderstood = || {
        json(&format!("transaction stats -n {ns}"))["brokers"][0]["webhooksMisunderstood"].as_u64().unwrap()
    };
    eventually("both were asked", PATIENCE, async || misunderstood() >= 2).await;
    let asked = asked.lock().unwrap().iter().map(body).collect::<Vec<_>>();
    assert!(asked.iter().any(|asked| asked == "endless"), "{asked:?}");
    let log = servers.brokers[0].log();
    assert!(
        log.contains("34 bytes that are no JSON object") && log.contains("more than 4096 bytes"),
        "{log}"
    );
    assert!(!log.contains("swordfish") && !log.contains("password"), "{log}");
    let peak = ProcessUsage::of(servers.brokers[0].pid().unwrap()).unwrap().resident_peak;
    assert!(peak < 400 << 20, "{peak} bytes for an answer of which 4096 are read");
}
