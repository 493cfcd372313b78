//! Where groups start, where they stand, and resets under their consumers, with `mqadmin`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kerolox_client::SimpleConsumer;
use kerolox_proto::v2::Code;
use serde_json::Value;

use crate::mqadmin::{failure, json, table};
use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, bodies, body, cluster_of, consume, expect_nothing, message, receive, receive_one, refusal,
};

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

async fn send(servers: &Cluster, bodies: &[&str]) {
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for body in bodies {
        producer.send_to("broker-a", Some(0), message("orders", body)).await.unwrap();
    }
}

/// Sum of a number over all queues of a group.
fn sum(progress: &Value, number: &str) -> u64 {
    progress["queues"].as_array().unwrap().iter().map(|queue| queue[number].as_u64().unwrap()).sum()
}

/// Lag, in flight, retrying, ready.
fn standing(servers: &Cluster, group: &str) -> [u64; 4] {
    let progress = json(&format!("consumerProgress -n {} -g {group} -t orders", servers.access_points()));
    ["diff", "inflight", "retrying", "ready"].map(|number| sum(&progress, number))
}

#[tokio::test]
async fn a_group_starts_where_it_is_told() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let broker = servers.brokers[0].address().unwrap().to_owned();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    send(&servers, &["a", "b"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = now_ms();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&servers, &["c"]).await;
    let mut late = Vec::new();
    for (group, from, expected) in [
        ("early", "earliest".to_owned(), vec!["a", "b", "c"]),
        ("timed", between.to_string(), vec!["c"]),
        ("ancient", "2020-01-31T08:00:00Z".to_owned(), vec!["a", "b", "c"]),
        ("late", "latest".to_owned(), vec![]),
    ] {
        table(&format!("updateSubGroup -b {broker} -g {group} --attributes +consume.from={from}"));
        let consumer = servers.consumer(group, "orders").await.unwrap();
        assert_eq!(consume(&consumer, expected.len()).await, expected, "{group}");
        expect_nothing(&consumer).await;
        late.push(consumer);
    }
    let (code, text) = failure(&format!("updateSubGroup -b {broker} -g x --attributes +consume.from=soon"));
    assert!(code == 1 && text.contains("consume.from"), "{code} {text}");
}

#[tokio::test]
async fn what_comes_while_the_broker_is_down_reaches_a_group_that_began_with_what_comes() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    send(&servers, &["old"]).await;
    let broker = servers.brokers[0].address().unwrap().to_owned();
    table(&format!("updateSubGroup -b {broker} -g late --attributes +consume.from=latest"));
    expect_nothing(&servers.consumer("late", "orders").await.unwrap()).await;
    send(&servers, &["new"]).await;
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(consume(&servers.consumer("late", "orders").await.unwrap(), 1).await, ["new"]);
}

#[tokio::test]
async fn progress_is_exact() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    send(&servers, &["1", "2", "3", "4", "5", "6"]).await;
    assert_eq!(failure(&format!("consumerProgress -n {ns} -g billing")).0, 4, "no such group yet");
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut held = receive_some(&consumer, 4).await;
    consumer.ack(&held[1]).await.unwrap();
    assert_eq!(standing(&servers, "billing"), [5, 3, 0, 2]);
    let progress = json(&format!("consumerProgress -n {ns} -g billing -t orders"));
    let first = &progress["queues"][0];
    assert_eq!((&first["brokerOffset"], &first["consumerOffset"]), (&6.into(), &0.into()));
    consumer.ack(&held[0]).await.unwrap();
    let progress = json(&format!("consumerProgress -n {ns} -g billing"));
    assert_eq!(progress["queues"][0]["consumerOffset"], 2);
    assert_eq!(progress["diffTotal"], 4);
    consumer.change_invisible(&mut held[2], Duration::from_secs(600)).await.unwrap();
    assert_eq!(standing(&servers, "billing"), [4, 1, 1, 2]);
    let shown = table(&format!("consumerProgress -n {ns} -g billing -t orders"));
    assert!(shown.contains("Consume Diff Total: 4") && shown.contains("#Broker Offset"), "{shown}");
    let overview = json(&format!("consumerProgress -n {ns}"));
    assert_eq!(
        (&overview["groups"][0]["group"], &overview["groups"][0]["diff"]),
        (&"billing".into(), &4.into())
    );
    assert_eq!(failure(&format!("consumerProgress -n {ns} -g billing -t nowhere")).0, 4);
}

async fn receive_some(consumer: &SimpleConsumer, count: usize) -> Vec<kerolox_client::Delivery> {
    let mut held = consumer.receive(count, INVISIBLE).await.unwrap();
    held.sort_by_key(kerolox_client::Delivery::offset);
    assert_eq!(held.len(), count);
    held
}

#[tokio::test]
async fn a_reset_reaches_consumers_that_are_at_work() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    send(&servers, &["1", "2", "3", "4"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = now_ms();
    send(&servers, &["5", "6"]).await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut held = receive_some(&consumer, 6).await;
    consumer.ack(&held[0]).await.unwrap();
    consumer.change_invisible(&mut held[1], Duration::from_secs(600)).await.unwrap();

    let dry = json(&format!("resetOffset -n {ns} -g billing -t orders --to offset:2 -q 0 --dry-run"));
    let queue = &dry["queues"][0];
    for (name, expected) in [
        ("from", 1),
        ("to", 2),
        ("diffBefore", 5),
        ("diffAfter", 4),
        ("inflightDropped", 4),
        ("retryingDropped", 1),
    ] {
        assert_eq!(queue[name], expected, "{name}: {dry}");
    }
    assert_eq!(standing(&servers, "billing"), [5, 4, 1, 0], "a dry run changes nothing");

    table(&format!("resetOffset -n {ns} -g billing -t orders --to offset:2 -q 0"));
    assert_eq!(standing(&servers, "billing"), [4, 0, 0, 4]);
    for old in &held {
        assert_eq!(refusal(consumer.ack(old).await), Code::InvalidReceiptHandle);
    }
    let again = receive(&consumer, 4).await;
    assert_eq!(bodies(&again), ["3", "4", "5", "6"]);
    assert!(again.iter().all(|delivery| delivery.attempt() == 1));
    for delivery in &again {
        consumer.ack(delivery).await.unwrap();
    }

    // A consumer that waits hears of it.
    let waiting = tokio::spawn(async move { (receive_one(&consumer).await, consumer) });
    table(&format!("resetOffsetByTime -n {ns} -g billing -t orders -s -1 -q 0 -o 5"));
    let (sixth, consumer) = waiting.await.unwrap();
    assert_eq!(body(&sixth), "6");
    consumer.ack(&sixth).await.unwrap();

    table(&format!("resetOffsetByTime -n {ns} -g billing -t orders -s {between}"));
    assert_eq!(consume(&consumer, 2).await, ["5", "6"]);
    let id = again.iter().find(|delivery| body(delivery) == "4").unwrap().message_id().to_owned();
    table(&format!("resetOffset -n {ns} -g billing -t orders --to id:{id}"));
    assert_eq!(consume(&consumer, 3).await, ["4", "5", "6"]);
    table(&format!("resetOffset -n {ns} -g billing -t orders --to earliest"));
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 6).await.len(), 6, "a reset is durable when it is answered");
    table(&format!("resetOffset -n {ns} -g billing -t orders --to earliest"));
    table(&format!("resetOffsetByTime -n {ns} -g billing -t orders -s now"));
    expect_nothing(&consumer).await;

    for (line, code) in [
        (format!("resetOffset -n {ns} -g absent -t orders --to latest"), 4),
        (format!("resetOffset -n {ns} -g billing -t nowhere --to latest"), 4),
        (format!("resetOffset -n {ns} -g billing -t orders --to id:nothing"), 4),
        (format!("resetOffset -n {ns} -g billing -t orders --to offset:7 -q 0"), 1),
        (format!("resetOffset -n {ns} -g billing -t orders --to latest -q 9"), 4),
    ] {
        assert_eq!(failure(&line).0, code, "{line}");
    }
}
