//! Broker groups that come and go under clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Message, Producer, Resolution, SimpleConsumer};
use kerolox_proto::v2::{self, Code, Permission};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::mqadmin::{failure, json, mqadmin, table};
use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, NO_CHECKS, PATIENCE, body, cluster_of, code, consume, eventually, from_client, group, master,
    message, raw, resource, start_broker,
};

/// Longer than the Rust client keeps a route, which is 30 s.
const ROUTE_AGE: &str = "35s";

/// How many messages of a topic broker `number` stored, undecided and scheduled ones included.
async fn stored(servers: &Cluster, number: usize, topic: &str) -> u64 {
    let address: Address = servers.brokers[number].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: topic.to_owned() };
    let answer = servers.client().admin().broker(&address).describe_topic(request).await.unwrap();
    let visible: u64 = answer.queues.iter().map(|queue| queue.max_offset).sum();
    visible + answer.undecided_transactions + answer.scheduled_messages
}

/// Brokers of the queues in the route of a topic, and whether these may be written.
async fn route(servers: &Cluster, topic: &str) -> BTreeSet<(String, bool)> {
    let request = v2::QueryRouteRequest { topic: resource(topic), endpoints: None };
    let answer = raw(&servers.nameservers[0]).await.query_route(from_client(request)).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!(code(answer.status), Code::Ok);
    let queues = answer.message_queues.into_iter();
    queues
        .map(|queue| {
            let is_writable = queue.permission() == Permission::ReadWrite;
            assert!(is_writable || queue.permission() == Permission::Read, "{queue:?}");
            (queue.broker.unwrap().name, is_writable)
        })
        .collect()
}

fn expected(brokers: &[(&str, bool)]) -> BTreeSet<(String, bool)> {
    brokers.iter().map(|(name, is_writable)| ((*name).to_owned(), *is_writable)).collect()
}

/// Sends numbered messages until it is told to stop; returns their bodies. A send that fails is the end of the test.
fn keep_sending(producer: Producer, stop: Arc<AtomicBool>) -> JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let mut sent = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            let body = format!("message {}", sent.len());
            producer.send(message("orders", &body)).await.expect("no send fails");
            sent.insert(body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent
    })
}

/// Receives and acknowledges until nothing has come for a while after it was told to stop; returns what came, with the broker.
fn keep_receiving(consumer: SimpleConsumer, stop: Arc<AtomicBool>) -> JoinHandle<BTreeSet<(String, String)>> {
    tokio::spawn(async move {
        let (mut received, mut silent) = (BTreeSet::new(), 0);
        while silent < 8 {
            // One of a broker that is stopped may fail.
            let Ok(deliveries) = consumer.receive(32, INVISIBLE).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            silent = if stop.load(Ordering::Relaxed) && deliveries.is_empty() { silent + 1 } else { 0 };
            for delivery in deliveries {
                consumer.ack(&delivery).await.expect("what was received can be acknowledged");
                received.insert((delivery.broker().to_owned(), body(&delivery).to_owned()));
            }
        }
        received
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_comes_and_another_one_leaves_without_a_failed_send_or_a_lost_message() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    table(&format!("updateTopic -n {ns} -c DefaultCluster -t orders -r 2 -w 2"));
    table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing"));
    let (stop, sent_all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let sending = keep_sending(producer, stop.clone());
    let receiving = keep_receiving(servers.consumer("billing", "orders").await.unwrap(), sent_all.clone());

    start_broker(&mut servers, "broker-b", &["--nameserver", &ns]);
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", true)]));
    table(&format!("addBrokerGroup -n {ns} -b broker-b"));
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", true), ("broker-b", true)]));
    let newcomer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in 0..4 {
        newcomer.send(message("orders", &format!("newcomer {number}"))).await.unwrap();
    }
    assert_eq!(stored(&servers, 1, "orders").await, 2, "who looks at the route sends to both");

    let left = mqadmin(&format!(
        "removeBrokerGroup -n {ns} -b broker-a --wait --timeout 3m --route-age {ROUTE_AGE} -y"
    ));
    assert_eq!(left.code, 0, "{left:?}");
    assert!(left.stdout.contains("broker-a can be stopped"), "{left:?}");
    servers.brokers[0].stop().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = sending.await.expect("no send failed");
    sent.extend((0..4).map(|number| format!("newcomer {number}")));
    sent_all.store(true, Ordering::Relaxed);
    let received = receiving.await.unwrap();
    let brokers: BTreeSet<&str> = received.iter().map(|(broker, _)| broker.as_str()).collect();
    assert_eq!(brokers, BTreeSet::from(["broker-a", "broker-b"]));
    let bodies: BTreeSet<String> = received.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies, sent);
    assert_eq!(bodies.len(), received.len(), "nothing came from both");
}

#[tokio::test]
async fn what_is_sent_to_a_group_that_leaves_is_taken_by_another_one() {
    let mut servers = cluster_of(1, &["broker-a", "broker-b"], &NO_CHECKS);
    let ns = servers.access_points();
    for (topic, kind) in
        [("orders", "NORMAL"), ("payments", "TRANSACTION"), ("steps", "FIFO"), ("later", "DELAY")]
    {
        servers.create_topic(topic, kind).await.unwrap();
    }
    let closed = servers.brokers[0].address().unwrap().to_owned();
    table(&format!("updateTopic -b {closed} -t closed -p 4"));
    let producer = servers.client().producer().topics(["orders", "payments", "steps", "later"]);
    let producer = producer.transaction_checker_sync(|_| Resolution::Unknown).start().await.unwrap();
    for (topic, kind) in [("orders", ""), ("steps", "g"), ("later", "")] {
        let mut warm = Message::builder(topic).body("before");
        if !kind.is_empty() {
            warm = warm.message_group(kind);
        }
        if topic == "later" {
            warm = warm.deliver_after(Duration::from_secs(1));
        }
        producer.send_to("broker-b", None, warm.build()).await.unwrap();
    }
    producer.send_in_transaction(message("payments", "before")).await.unwrap().rollback().await.unwrap();

    let wiped = json(&format!("wipeWritePerm -n {ns} -b broker-a"));
    assert_eq!(wiped, json!({ "broker": "broker-a", "withheld": 2 }));
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", false), ("broker-b", true)]));
    let before = stored(&servers, 0, "payments").await;
    // The producer still has the routes of a moment ago.
    for number in 0..4 {
        let body = format!("order {number}");
        producer.send_to("broker-a", None, message("orders", &body)).await.unwrap();
        let step = Message::builder("steps").body(body.clone()).message_group("g").build();
        producer.send_to("broker-a", None, step).await.unwrap();
        let half = producer.send_in_transaction(message("payments", &body)).await.unwrap();
        half.commit().await.unwrap();
    }
    let due = Message::builder("later").body("due").deliver_after(Duration::from_secs(600)).build();
    let due = producer.send_to("broker-a", None, due).await.unwrap();
    for topic in ["orders", "steps", "later"] {
        assert_eq!(stored(&servers, 0, topic).await, 0, "{topic}");
    }
    assert_eq!(stored(&servers, 0, "payments").await, before);
    assert!(due.recall_handle.is_some());
    let billing = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&billing, 5).await, ["before", "order 0", "order 1", "order 2", "order 3"]);
    let ledger = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&ledger, 4).await, ["order 0", "order 1", "order 2", "order 3"]);

    // A withheld topic stays withheld across a restart, and everything comes back as it was.
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", false), ("broker-b", true)]));
    let listed = json(&format!("clusterList -n {ns}"));
    assert_eq!(
        (&listed["brokers"][0]["state"], &listed["brokers"][0]["withheld"]),
        (&json!("NO_SENDS"), &json!(2))
    );
    table(&format!("addWritePerm -n {ns} -b broker-a"));
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", true), ("broker-b", true)]));
    assert_eq!(route(&servers, "closed").await, expected(&[("broker-a", false)]), "as its own perm says");
    producer.send_to("broker-a", None, message("orders", "again")).await.unwrap();
    assert_eq!(stored(&servers, 0, "orders").await, 1);
}

#[tokio::test]
async fn without_another_group_a_send_is_stored_where_it_comes() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let (exit, said) = failure(&format!("wipeWritePerm -n {ns} -b broker-a"));
    assert!(exit == 1 && said.contains("topic orders") && said.contains("addBrokerGroup"), "{exit}: {said}");
    table(&format!("wipeWritePerm -n {ns} -b broker-a --force"));
    producer.send_to("broker-a", None, message("orders", "kept")).await.unwrap();
    assert_eq!(consume(&servers.consumer("billing", "orders").await.unwrap(), 1).await, ["kept"]);
}

/// Kinds of what waits and of what stays, with the topics or groups.
fn left(status: &Value) -> Vec<(String, String)> {
    let entries = |list: &str| status[list].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = entries("waits").into_iter().chain(entries("stays"));
    all.map(|item| {
        (text(&item["kind"]), text(if item["topic"].is_null() { &item["group"] } else { &item["topic"] }))
    })
    .collect()
}

#[tokio::test]
async fn everything_that_is_left_on_a_group_is_named() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &NO_CHECKS);
    let ns = servers.access_points();
    for (topic, kind) in
        [("orders", "NORMAL"), ("unread", "NORMAL"), ("payments", "TRANSACTION"), ("later", "DELAY")]
    {
        servers.create_topic(topic, kind).await.unwrap();
    }
    let client = servers.client();
    let producer = client.producer().topics(["orders", "unread", "payments", "later"]);
    let producer = producer.transaction_checker_sync(|_| Resolution::Unknown).start().await.unwrap();
    producer.send_to("broker-a", None, message("orders", "in flight")).await.unwrap();
    producer.send_to("broker-a", None, message("unread", "unread")).await.unwrap();
    let due = Message::builder("later").body("due").deliver_after(Duration::from_secs(600)).build();
    let due = producer.send_to("broker-a", None, due).await.unwrap();
    let mut halves = Vec::new();
    while stored(&servers, 0, "payments").await == 0 {
        halves.push(producer.send_in_transaction(message("payments", "half")).await.unwrap());
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut in_flight = Vec::new();
    eventually("the message is in flight", PATIENCE, async || {
        in_flight.extend(consumer.receive(1, INVISIBLE).await.unwrap());
        !in_flight.is_empty()
    })
    .await;
    table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing"));

    let run = mqadmin(&format!("brokerLeaveStatus -n {ns} -b broker-a --output json"));
    let status: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &status["safeToStop"], &status["withheld"]), (1, &json!(false), &json!(0)));
    let named =
        [("unfinished", "orders"), ("scheduled", "later"), ("undecided", "payments"), ("unread", "unread")];
    assert_eq!(left(&status), named.map(|(kind, topic)| (kind.to_owned(), topic.to_owned())));
    assert_eq!((&status["waits"][0]["messages"], &status["waits"][0]["inFlight"]), (&json!(1), &json!(1)));

    // One step at a time, which can be repeated.
    for _ in 0..2 {
        let run = mqadmin(&format!("removeBrokerGroup -n {ns} -b broker-a -y"));
        assert!(run.code == 1 && run.stdout.contains("consumers use it, producers do not"), "{run:?}");
    }
    consumer.ack(&in_flight[0]).await.unwrap();
    let handle = due.recall_handle.expect("a scheduled message has one");
    producer.recall("later", &handle).await.unwrap();
    for half in halves {
        half.rollback().await.unwrap();
    }
    let run = mqadmin(&format!("removeBrokerGroup -n {ns} -b broker-a -y --wait --timeout 20s"));
    assert!(run.code == 1 && run.stdout.contains("stays: no consumer group reads unread there"), "{run:?}");
    let accepted = format!("removeBrokerGroup -n {ns} -b broker-a -y --wait --leave-behind --route-age 1s");
    let run = mqadmin(&accepted);
    assert!(run.code == 0 && run.stdout.contains("it is in no routes"), "{run:?}");
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-b", true)]));
    // A second run does not rely on the answer of the first: it checks everything anew.
    assert_eq!(mqadmin(&accepted).code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_group_gets_what_the_others_have_once() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    let model = servers.brokers[0].address().unwrap().to_owned();
    let settings = "-r 6 -w 4 -a +message.type=FIFO,+retention.time=12h,+dedup=id";
    table(&format!("updateTopic -n {ns} -b {model} -t orders {settings}"));
    table(&format!("updateTopic -n {ns} -b {model} -t closed -p 4"));
    table(&format!("updateTopic -n {ns} -b {model} -t wide -r 9 -w 9"));
    table(&format!("updateSubGroup -b {model} -g billing -o true -r 3 --attributes +retry.exhausted=block"));
    start_broker(&mut servers, "broker-b", &["--nameserver", &ns]);
    let other = servers.brokers[1].address().unwrap().to_owned();
    table(&format!("updateTopic -b {other} -t wide -r 2 -w 2"));

    let planned = table(&format!("addBrokerGroup -n {ns} -b broker-b --dry-run"));
    assert!(planned.contains("3 made, 1 differ, 0 were there (dry run: nothing was made)"), "{planned}");
    assert!(planned.contains("~ topic wide: readQueues 2 -> 9"), "{planned}");
    let topics = |address: &str| json(&format!("configExport -b {address}"))["topics"].clone();
    assert_eq!(topics(&other).as_object().unwrap().len(), 1);
    let one = table(&format!("addBrokerGroup -n {ns} -b broker-b --from broker-a -t closed"));
    assert!(one.contains("2 made, 0 differ, 0 were there"), "{one}");
    let made = table(&format!("addBrokerGroup -n {ns} -b broker-b"));
    assert!(made.contains("1 made, 1 differ, 2 were there"), "{made}");
    assert!(table(&format!("addBrokerGroup -n {ns} -b broker-b")).contains("0 made, 1 differ, 3 were there"));
    let (here, there) = (topics(&model), topics(&other));
    assert_eq!((&here["orders"], &here["closed"]), (&there["orders"], &there["closed"]));
    assert_eq!(there["wide"]["readQueues"], json!(2), "an existing topic stays as it is");
    let groups = |address: &str| json(&format!("configExport -b {address}"))["groups"].clone();
    assert_eq!(groups(&model), groups(&other));
    let (exit, said) = failure(&format!("addBrokerGroup -n {ns} -b broker-b --from absent"));
    assert!(exit == 4 && said.contains("absent"), "{exit}: {said}");
}

/// A consumer that begins with the newest message must find a new broker group before producers do, or it misses messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_that_begin_with_what_comes_find_a_new_group_before_producers() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g tail --attributes +consume.from=latest"));
    start_broker(&mut servers, "broker-b", &["--nameserver", &ns]);
    let adding = format!("addBrokerGroup -n {ns} -b broker-b --route-age 5s");
    let adding = tokio::task::spawn_blocking(move || mqadmin(&adding));
    eventually("consumers find it, producers do not", PATIENCE, async || {
        route(&servers, "orders").await == expected(&[("broker-a", true), ("broker-b", false)])
    })
    .await;
    let consumer = servers.consumer("tail", "orders").await.unwrap();
    for _ in 0..4 {
        assert!(consumer.receive(1, INVISIBLE).await.unwrap().is_empty());
    }
    let run = adding.await.unwrap();
    assert!(run.code == 0 && run.stderr.contains("consumers have 5 s to find broker-b"), "{run:?}");
    assert_eq!(route(&servers, "orders").await, expected(&[("broker-a", true), ("broker-b", true)]));
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send_to("broker-b", None, message("orders", "first")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["first"]);
}

#[tokio::test]
async fn what_a_group_withholds_survives_its_master() {
    let mut servers = group(2, &[], &[]).await;
    let ns = servers.access_points();
    table(&format!("updateTopic -n {ns} -c DefaultCluster -t orders"));
    table(&format!("wipeWritePerm -n {ns} -b broker-a --force"));
    let old = master(&servers).await;
    servers.brokers[old].kill().unwrap();
    eventually("another master withholds the same", PATIENCE, async || {
        master(&servers).await != old && route(&servers, "orders").await == expected(&[("broker-a", false)])
    })
    .await;
    let master = servers.brokers[1 - old].address().unwrap();
    let topics = &json(&format!("configExport -b {master}"))["topics"];
    assert_eq!(topics["orders"]["perm"], json!(6), "the topic's own");
}
