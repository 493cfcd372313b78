//! Old segments go, what is still needed stays, and a disk that is nearly full takes no new messages.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, HalfMessage, Producer, Resolution};
use kerolox_proto::v2;
use kerolox_tests::process::Server;

use crate::support::{
    INVISIBLE_MIN, NO_CHECKS, PATIENCE, Servers, broker, code, consume, eventually, expect_nothing,
    from_client, message, raw, receive_one, refusal, resource,
};

const SMALL: [(&str, &str); 3] = [
    ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB"),
    ("KEROLOX_BROKER__RETENTION__TIME", "2s"),
    ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "500ms"),
];

/// A standalone broker with additional settings.
fn servers(environment: &[(&str, &str)]) -> Servers {
    let mut servers = Servers::standalone(&NO_CHECKS);
    servers.brokers[0].stop().unwrap();
    // The first segment was reserved with another size.
    std::fs::remove_dir_all(servers.brokers[0].data()).unwrap();
    servers.brokers[0] = with(&servers, environment);
    servers.brokers[0].start().unwrap();
    servers
}

/// The broker on the same data, with additional settings; not started yet.
fn with(servers: &Servers, environment: &[(&str, &str)]) -> Server {
    let flags = [&["--standalone"], NO_CHECKS.as_slice()].concat();
    let server = broker("broker-a", servers.folder.path(), &flags);
    environment.iter().fold(server, |server, (name, value)| server.env(name, value))
}

async fn producer(servers: &Servers) -> Producer {
    let never_asked = |half: &HalfMessage| -> Resolution { panic!("asked about {half:?}") };
    let producer =
        servers.client().producer().topics(["payments", "noise"]).transaction_checker_sync(never_asked);
    producer.start().await.unwrap()
}

/// Smallest offset that is left in any queue of "noise".
async fn min_offset(servers: &Servers) -> u64 {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: "noise".to_owned() };
    let answer = servers.client().admin().broker(&address).describe_topic(request).await.unwrap();
    answer.queues.iter().map(|queue| queue.min_offset).min().unwrap()
}

async fn make_noise(producer: &Producer, count: usize) {
    for _ in 0..count {
        producer.send(message("noise", &"x".repeat(100_000))).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_still_needed_outlives_its_segment() {
    let mut servers = servers(&SMALL);
    for (topic, kind) in [("payments", "TRANSACTION"), ("noise", "NORMAL"), ("work", "NORMAL")] {
        servers.create_topic(topic, kind).await;
    }
    let sender = producer(&servers).await;
    let open = sender.send_in_transaction(message("payments", "open")).await.unwrap();
    sender.send(message("work", "fails at first")).await.unwrap();
    let worker = servers.consumer("workers", "work").await;
    let mut failed = receive_one(&worker).await;
    worker.change_invisible(&mut failed, INVISIBLE_MIN).await.unwrap();

    make_noise(&sender, 60).await;
    eventually("old messages are gone", PATIENCE, async || min_offset(&servers).await > 10).await;

    let ledger = servers.consumer("ledger", "payments").await;
    open.commit().await.unwrap();
    assert_eq!(consume(&ledger, 1).await, ["open"], "committed under the id from before");
    let again = receive_one(&worker).await;
    assert_eq!((&again.message().body()[..], again.attempt()), (&b"fails at first"[..], 2));
    worker.ack(&again).await.unwrap();

    // What is left of the log is enough to know everything again.
    let min = min_offset(&servers).await;
    servers.brokers[0].stop().unwrap();
    std::fs::remove_dir_all(servers.brokers[0].data().join("index")).unwrap();
    servers.brokers[0] = with(&servers, &SMALL);
    servers.brokers[0].start().unwrap();
    assert!(min_offset(&servers).await >= min);
    expect_nothing(&servers.consumer("ledger", "payments").await).await;
    expect_nothing(&servers.consumer("workers", "work").await).await;
    let receipt = producer(&servers).await.send(message("noise", "more")).await.unwrap();
    assert!(receipt.offset >= 20, "offsets go on: {receipt:?}");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_messages_but_everything_else() {
    let mut servers = servers(&[]);
    servers.create_topic("payments", "TRANSACTION").await;
    servers.create_topic("noise", "NORMAL").await;
    let sender = producer(&servers).await;
    let open = sender.send_in_transaction(message("payments", "open")).await.unwrap();
    sender.send(message("noise", "from before")).await.unwrap();
    let transaction_id = open.receipt().transaction_id.clone().unwrap();
    servers.brokers[0].stop().unwrap();

    // More than any disk has: from the broker's view, the disk is full.
    let full = [
        ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1000000GiB"),
        ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "100ms"),
    ];
    servers.brokers[0] = with(&servers, &full);
    servers.brokers[0].start().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let late = producer(&servers).await;
    let refused = late.send(message("noise", "refused")).await;
    assert!(format!("{:?}", refused.as_ref().unwrap_err()).contains("nearly full"), "{refused:?}");
    assert_eq!(refusal(refused), v2::Code::TooManyRequests);
    assert_eq!(consume(&servers.consumer("any", "noise").await, 1).await, ["from before"]);
    // The broker has another address now, which the transaction of before does not know.
    let commit = v2::EndTransactionRequest {
        topic: resource("payments"),
        message_id: open.message_id().to_owned(),
        transaction_id,
        resolution: v2::TransactionResolution::Commit.into(),
        ..Default::default()
    };
    let ended = raw(&servers.brokers[0]).await.end_transaction(from_client(commit)).await.unwrap();
    assert_eq!(code(ended.into_inner().status), v2::Code::Ok);
    assert_eq!(consume(&servers.consumer("ledger", "payments").await, 1).await, ["open"]);
}
