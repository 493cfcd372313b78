//! Old segments are deleted, messages that are still needed stay, and a disk that is nearly full takes no new messages.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, HalfMessage, Producer, Resolution};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2;
use serde_json::Value;

use crate::mqadmin::mqadmin;
use crate::support::{
    INVISIBLE_MIN, NO_CHECKS, PATIENCE, broker, code, consume, eventually, expect_nothing, from_client,
    message, raw, receive_one, refusal, resource, standalone,
};

const SMALL: [(&str, &str); 3] = [
    ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB"),
    ("KEROLOX_BROKER__RETENTION__TIME", "2s"),
    ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "500ms"),
];

/// A standalone broker with additional settings.
fn servers(environment: &[(&str, &str)]) -> Cluster {
    let mut servers = standalone(&NO_CHECKS);
    servers.brokers[0].stop().unwrap();
    // The first segment was reserved with another size.
    std::fs::remove_dir_all(servers.brokers[0].data()).unwrap();
    servers.brokers[0] = with(&servers, environment);
    servers.brokers[0].start().unwrap();
    servers
}

/// The broker on the same data, with additional settings; not started yet.
fn with(servers: &Cluster, environment: &[(&str, &str)]) -> ServerProcess {
    let flags = [&["--standalone"], NO_CHECKS.as_slice()].concat();
    let server = broker("broker-a", servers.folder(), &flags);
    environment.iter().fold(server, |server, (name, value)| server.env(name, value))
}

async fn producer(servers: &Cluster, topics: &[&str]) -> Producer {
    let never_asked = |half: &HalfMessage| -> Resolution { panic!("asked about {half:?}") };
    let topics = topics.iter().copied();
    let producer = servers.client().producer().topics(topics).transaction_checker_sync(never_asked);
    producer.start().await.unwrap()
}

/// Smallest offset that is left in any queue of "noise".
async fn min_offset(servers: &Cluster) -> u64 {
    queues(servers, "noise").await.iter().map(|queue| queue.min_offset).min().unwrap()
}

async fn queues(servers: &Cluster, topic: &str) -> Vec<wire::QueueStatus> {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: topic.to_owned() };
    servers.client().admin().broker(&address).describe_topic(request).await.unwrap().queues
}

/// Messages of a topic that are still there.
async fn kept(servers: &Cluster, topic: &str) -> u64 {
    queues(servers, topic).await.iter().map(|queue| queue.max_offset - queue.min_offset).sum()
}

async fn set_retention(servers: &Cluster, topic: &str, time: &str) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: topic.to_owned(),
        attributes: vec![format!("+retention.time={time}")],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
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
        servers.create_topic(topic, kind).await.unwrap();
    }
    let sender = producer(&servers, &["payments", "noise"]).await;
    let open = sender.send_in_transaction(message("payments", "open")).await.unwrap();
    sender.send(message("work", "fails at first")).await.unwrap();
    let worker = servers.consumer("workers", "work").await.unwrap();
    let mut failed = receive_one(&worker).await;
    worker.change_invisible(&mut failed, INVISIBLE_MIN).await.unwrap();

    make_noise(&sender, 60).await;
    eventually("old messages are gone", PATIENCE, async || min_offset(&servers).await > 10).await;

    let ledger = servers.consumer("ledger", "payments").await.unwrap();
    open.commit().await.unwrap();
    assert_eq!(consume(&ledger, 1).await, ["open"], "committed under the id from before");
    let again = receive_one(&worker).await;
    assert_eq!((&again.message().body()[..], again.attempt()), (&b"fails at first"[..], 2));
    worker.ack(&again).await.unwrap();

    // The rest of the log is enough to rebuild the whole state.
    let min = min_offset(&servers).await;
    servers.brokers[0].stop().unwrap();
    std::fs::remove_dir_all(servers.brokers[0].data().join("index")).unwrap();
    servers.brokers[0] = with(&servers, &SMALL);
    servers.brokers[0].start().unwrap();
    assert!(min_offset(&servers).await >= min);
    expect_nothing(&servers.consumer("ledger", "payments").await.unwrap()).await;
    expect_nothing(&servers.consumer("workers", "work").await.unwrap()).await;
    let receipt =
        producer(&servers, &["payments", "noise"]).await.send(message("noise", "more")).await.unwrap();
    assert!(receipt.offset >= 20, "offsets go on: {receipt:?}");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_messages_but_everything_else() {
    let mut servers = servers(&[]);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    servers.create_topic("noise", "NORMAL").await.unwrap();
    let sender = producer(&servers, &["payments", "noise"]).await;
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
    let late = producer(&servers, &["payments", "noise"]).await;
    let refused = late.send(message("noise", "refused")).await;
    assert!(format!("{:?}", refused.as_ref().unwrap_err()).contains("nearly full"), "{refused:?}");
    assert_eq!(refusal(refused), v2::Code::TooManyRequests);
    let health = servers.brokers[0].probe("/readyz").unwrap();
    assert!(health.status == 503 && health.body.contains("nearly full"), "{health:?}");
    assert_eq!(consume(&servers.consumer("any", "noise").await.unwrap(), 1).await, ["from before"]);
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
    assert_eq!(consume(&servers.consumer("ledger", "payments").await.unwrap(), 1).await, ["open"]);
}

/// More than any disk has: from the broker's view, room is short, but not too short for sends.
const SHORT: [(&str, &str); 4] = [
    ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_LOW", "1000000GiB"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1B"),
    ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "100ms"),
];

fn said(command: &str, servers: &Cluster) -> Value {
    let run = mqadmin(&format!("{command} -n {} --output json", servers.access_points()));
    serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("no JSON: {run:?}"))
}

#[tokio::test]
async fn short_room_costs_no_unread_message_unless_the_operator_lets_it() {
    const SENT: u64 = 40;
    // Nothing but what an operator without opinions gets.
    let mut servers = servers(&SHORT);
    servers.create_topic("noise", "NORMAL").await.unwrap();
    let sender = producer(&servers, &["noise"]).await;
    make_noise(&sender, usize::try_from(SENT).unwrap()).await;
    for (group, messages) in [("nearly-done-with-a-rather-long-name", 36), ("hardly-begun", 2)] {
        let consumer = servers.consumer(group, "noise").await.unwrap();
        let mut done = 0;
        while done < messages {
            for delivery in consumer.receive(1, INVISIBLE_MIN).await.unwrap_or_default() {
                consumer.ack(&delivery).await.unwrap();
                done += 1;
            }
        }
    }
    // Several looks at the disk.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(kept(&servers, "noise").await, SENT);
    let progress = said("consumerProgress -g hardly-begun", &servers);
    assert_eq!(progress["removedUnreadTotal"], 0, "{progress}");

    // It gets worse: sends are refused, and nothing goes.
    servers.brokers[0].stop().unwrap();
    let full = [SHORT.as_slice(), &[("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1000000GiB")]].concat();
    servers.brokers[0] = with(&servers, &full);
    servers.brokers[0].start().unwrap();
    let late = producer(&servers, &["noise"]).await;
    eventually("sends are refused", PATIENCE, async || {
        let sent = late.send(message("noise", "refused")).await;
        sent.is_err() && refusal(sent) == v2::Code::TooManyRequests
    })
    .await;
    assert!(kept(&servers, "noise").await >= SENT);

    servers.brokers[0].stop().unwrap();
    let early = [SHORT.as_slice(), &[("KEROLOX_BROKER__RETENTION__REMOVE_EARLY", "true")]].concat();
    servers.brokers[0] = with(&servers, &early);
    servers.brokers[0].start().unwrap();
    eventually("old segments go early", PATIENCE, async || kept(&servers, "noise").await < SENT / 2).await;
    let lost = async |group: &str| {
        let progress = said(&format!("consumerProgress -g {group}"), &servers);
        progress["removedUnreadTotal"].as_u64().unwrap()
    };
    eventually("it is counted", PATIENCE, async || lost("hardly-begun").await > 0).await;
    let (little, much) = (lost("nearly-done-with-a-rather-long-name").await, lost("hardly-begun").await);
    assert!(little < much && much < SENT, "{little} of 4 unread, {much} of 38");
    let logged = async || {
        let log = servers.brokers[0].log();
        log.lines().any(|line| {
            line.contains("WARN")
                && line.contains("unread messages")
                && line.contains("group hardly-begun lost")
        })
    };
    eventually("the log says so", PATIENCE, logged).await;
    let checked = said("check readiness", &servers);
    let rows = checked["checks"].as_array().unwrap();
    let words = format!("group hardly-begun lost {much} of topic noise");
    let is_told = |row: &Value| row["state"] == "warning" && row["reason"].as_str().unwrap().contains(&words);
    assert!(rows.iter().any(is_told), "{checked}");
}

#[tokio::test]
async fn a_topic_that_keeps_less_gives_its_messages_up_early() {
    let servers = servers(&[("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "100ms")]);
    for topic in ["short", "work", "noise"] {
        servers.create_topic(topic, "NORMAL").await.unwrap();
    }
    let sender = producer(&servers, &["noise"]).await;
    for topic in ["short", "work", "noise"] {
        sender.send(message(topic, "fails at first")).await.unwrap();
    }
    let worker = servers.consumer("workers", "work").await.unwrap();
    let mut failed = receive_one(&worker).await;
    worker.change_invisible(&mut failed, INVISIBLE_MIN).await.unwrap();
    sender.send(message("work", "unwanted")).await.unwrap();

    set_retention(&servers, "short", "300ms").await;
    set_retention(&servers, "work", "300ms").await;
    eventually("old messages are gone", PATIENCE, async || {
        kept(&servers, "short").await + kept(&servers, "work").await == 0
    })
    .await;
    assert_eq!(kept(&servers, "noise").await, 1, "other topics keep theirs");
    expect_nothing(&servers.consumer("late", "short").await.unwrap()).await;
    assert_eq!(consume(&servers.consumer("late", "noise").await.unwrap(), 1).await, ["fails at first"]);
    // A failed delivery is repeated, however old the message is; the other one is gone for the group.
    let again = receive_one(&worker).await;
    assert_eq!((&again.message().body()[..], again.attempt()), (&b"fails at first"[..], 2));
    worker.ack(&again).await.unwrap();
    expect_nothing(&worker).await;
    let receipt = sender.send(message("short", "new")).await.unwrap();
    assert_eq!(consume(&servers.consumer("late", "short").await.unwrap(), 1).await, ["new"]);
    assert!(receipt.offset <= 1, "offsets go on: {receipt:?}");
}

#[tokio::test]
async fn segments_wait_for_the_topic_that_keeps_longest() {
    let mut servers = servers(&SMALL);
    servers.create_topic("noise", "NORMAL").await.unwrap();
    servers.create_topic("archive", "NORMAL").await.unwrap();
    set_retention(&servers, "archive", "1h").await;
    let sender = producer(&servers, &["noise"]).await;
    sender.send(message("archive", "for long")).await.unwrap();
    make_noise(&sender, 30).await;
    // Several times as long as the broker keeps what no topic wants longer.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(min_offset(&servers).await, 0, "the archive needs the segments");
    assert_eq!(consume(&servers.consumer("reader", "archive").await.unwrap(), 1).await, ["for long"]);

    // The size is that of the whole broker: it counts more.
    servers.brokers[0].stop().unwrap();
    let sized = [SMALL.as_slice(), &[("KEROLOX_BROKER__RETENTION__LOG_SIZE", "2MiB")]].concat();
    servers.brokers[0] = with(&servers, &sized);
    servers.brokers[0].start().unwrap();
    eventually("the log is small", PATIENCE, async || kept(&servers, "archive").await == 0).await;
    expect_nothing(&servers.consumer("late", "archive").await.unwrap()).await;
}
