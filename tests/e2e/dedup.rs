//! Topics without duplicates: a repeat has the first one's answer and stores nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::{self, Code};

use crate::support::{
    NO_CHECKS, PATIENCE, QUEUES, code, consume, eventually, expect_nothing, from_client, group, in_sync,
    master, raw, resource, standalone,
};

/// Orders are told apart by their keys, for longer than a test takes.
const REMEMBERING: [&str; 2] = ["+dedup=key", "+dedup.window=1h"];

async fn create_topic(servers: &Cluster, topic: &str, attributes: &[&str]) {
    create_at(servers, &servers.brokers[0], topic, attributes).await;
}

async fn create_at(servers: &Cluster, broker: &ServerProcess, topic: &str, attributes: &[&str]) {
    let request = wire::UpdateTopicRequest {
        name: topic.to_owned(),
        read_queues: Some(QUEUES),
        write_queues: Some(QUEUES),
        attributes: attributes.iter().map(|&change| change.to_owned()).collect(),
        ..Default::default()
    };
    let address: Address = broker.address().unwrap().parse().unwrap();
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
}

fn message(topic: &str, id: &str, keys: &[&str], kind: v2::MessageType) -> v2::Message {
    v2::Message {
        topic: resource(topic),
        user_properties: [].into(),
        system_properties: Some(v2::SystemProperties {
            message_id: id.to_owned(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            message_type: kind.into(),
            ..Default::default()
        }),
        body: id.to_owned().into_bytes().into(),
    }
}

fn normal(topic: &str, id: &str, keys: &[&str]) -> v2::Message {
    message(topic, id, keys, v2::MessageType::Normal)
}

/// Sends messages in one request; all must be taken.
async fn send(server: &ServerProcess, messages: Vec<v2::Message>) -> Vec<v2::SendResultEntry> {
    let request = from_client(v2::SendMessageRequest { messages });
    let answer = raw(server).await.send_message(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
    assert!(answer.entries.iter().all(|entry| code(entry.status.clone()) == Code::Ok));
    answer.entries
}

async fn send_one(server: &ServerProcess, message: v2::Message) -> v2::SendResultEntry {
    send(server, vec![message]).await.remove(0)
}

async fn end(
    server: &ServerProcess,
    topic: &str,
    half: &v2::SendResultEntry,
    how: v2::TransactionResolution,
) {
    let request = v2::EndTransactionRequest {
        topic: resource(topic),
        message_id: half.message_id.clone(),
        transaction_id: half.transaction_id.clone(),
        resolution: how.into(),
        ..Default::default()
    };
    let answer = raw(server).await.end_transaction(from_client(request)).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
}

#[tokio::test]
async fn a_repeat_has_the_first_ones_answer_until_its_window_is_over() {
    let servers = standalone(&[]);
    create_topic(&servers, "orders", &["+dedup=id", "+dedup.window=4s"]).await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let broker = &servers.brokers[0];
    let started = Instant::now();
    let address = broker.address().unwrap();
    let send_at_once = |_| {
        let address = address.to_owned();
        tokio::spawn(async move { try_send(&address, normal("orders", "A", &[])).await.unwrap() })
    };
    let mut answers = Vec::new();
    for sending in (0..20).map(send_at_once).collect::<Vec<_>>() {
        answers.push(sending.await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.offset == answers[0].offset && answer.message_id == "A"));
    // Two of them repeat "A", one repeats another one of the same request.
    let batch = ["A", "B", "B", "C", "A"].map(|id| normal("orders", id, &[])).to_vec();
    let batch = send(broker, batch).await;
    assert_eq!(batch.iter().map(|answer| answer.message_id.as_str()).collect::<String>(), "ABBCA");
    assert_eq!((batch[0].offset, batch[4].offset), (answers[0].offset, answers[0].offset));
    assert_eq!(batch[1], batch[2]);
    if started.elapsed() < Duration::from_secs(4) {
        assert_eq!(consume(&consumer, 3).await, ["A", "B", "C"]);
        expect_nothing(&consumer).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    send_one(broker, normal("orders", "A", &[])).await;
    assert_eq!(consume(&consumer, 1).await, ["A"], "after the window it is a message like any other");
}

#[tokio::test]
async fn a_business_key_is_free_again_when_its_transaction_was_rolled_back() {
    let servers = standalone(&NO_CHECKS);
    create_topic(&servers, "payments", &["+message.type=TRANSACTION", "+dedup=key", "+dedup.window=1h"])
        .await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let broker = &servers.brokers[0];
    let transactional = |id: &str| message("payments", id, &["order-1"], v2::MessageType::Transaction);
    let half = |id: &'static str| send_one(broker, transactional(id));
    let first = &half("A").await;
    assert_eq!(
        half("B").await,
        *first,
        "a repeat of a half message is answered with its transaction and its id"
    );
    end(broker, "payments", first, v2::TransactionResolution::Rollback).await;
    let second = half("C").await;
    assert_ne!(second.transaction_id, first.transaction_id);
    end(broker, "payments", &second, v2::TransactionResolution::Commit).await;
    assert_eq!(half("D").await, second, "also when it is committed");
    assert_eq!(consume(&consumer, 1).await, ["C"]);
    expect_nothing(&consumer).await;
}

/// Producers that repeat every send until it is answered, and then once more. They ask one server after the other.
struct Storm {
    stop: Arc<AtomicBool>,
    producers: Vec<tokio::task::JoinHandle<BTreeSet<(String, String)>>>,
}

impl Storm {
    const PRODUCERS: usize = 4;

    fn begin(servers: &Cluster) -> Self {
        let addresses: Vec<String> =
            servers.brokers.iter().map(|broker| broker.address().unwrap().to_owned()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let producer = |number: usize| tokio::spawn(repeat(number, addresses.clone(), stop.clone()));
        let producers = (0..Self::PRODUCERS).map(producer).collect();
        Self { stop, producers }
    }

    /// Ends it; `asked` is to have one copy of each order then.
    async fn end(self, servers: &Cluster, asked: &ServerProcess) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = BTreeSet::new();
        for producer in self.producers {
            sent.extend(producer.await.unwrap());
        }
        let keys: BTreeSet<&String> = sent.iter().map(|(key, _)| key).collect();
        assert!(keys.len() > 20, "only {} orders were sent", keys.len());
        assert_eq!(keys.len(), sent.len(), "all who sent an order were told the same message");
        let address: Address = asked.address().unwrap().parse().unwrap();
        let request = wire::DescribeTopicRequest { name: "orders".to_owned() };
        let queues = servers.client().admin().broker(&address).describe_topic(request).await.unwrap().queues;
        let stored: u64 = queues.iter().map(|queue| queue.max_offset).sum();
        assert_eq!(stored, keys.len() as u64, "one copy of each");
    }
}

/// What one producer of a storm was told: keys of orders with message ids.
async fn repeat(number: usize, addresses: Vec<String>, stop: Arc<AtomicBool>) -> BTreeSet<(String, String)> {
    let mut asked = addresses.iter().cycle();
    let (mut sent, mut repeats) = (BTreeSet::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        // Two producers send each order.
        let key = format!("order-{}-{}", number / 2, sent.len());
        let mut answers = Vec::new();
        while answers.len() < 2 {
            let id = format!("{number}-{key}-{repeats}");
            repeats += 1;
            match try_send(asked.next().unwrap(), normal("orders", &id, &[&key])).await {
                Some(answer) => answers.push(answer),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        assert_eq!(answers[0], answers[1], "{key}");
        sent.insert((key, answers[0].message_id.clone()));
    }
    sent
}

/// The broker is killed again and again, and loses its index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_repeats_over_kills_yields_one_copy_of_each() {
    let mut servers = standalone(&[]);
    create_topic(&servers, "orders", &REMEMBERING).await;
    let storm = Storm::begin(&servers);
    for life in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        servers.brokers[0].kill().unwrap();
        if life == 2 {
            std::fs::remove_dir_all(servers.brokers[0].data().join("index")).unwrap();
        }
        servers.brokers[0].start().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    storm.end(&servers, &servers.brokers[0]).await;
}

/// The master is killed again and again, and another one has to know what it knew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_repeats_over_elections_yields_one_copy_of_each() {
    let mut servers = group(3, &[], &[]).await;
    create_at(&servers, &servers.brokers[master(&servers).await], "orders", &REMEMBERING).await;
    let storm = Storm::begin(&servers);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let old = master(&servers).await;
        servers.brokers[old].kill().unwrap();
        eventually("another one rules", PATIENCE, async || master(&servers).await != old).await;
        servers.brokers[old].start().unwrap();
        in_sync(&servers, 3).await;
    }
    storm.end(&servers, &servers.brokers[master(&servers).await]).await;
}

async fn try_send(address: &str, message: v2::Message) -> Option<v2::SendResultEntry> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let connecting = tokio::time::timeout(PATIENCE, endpoint.connect()).await.ok()?;
    let mut client = v2::messaging_service_client::MessagingServiceClient::new(connecting.ok()?);
    let request = from_client(v2::SendMessageRequest { messages: vec![message] });
    let answer = client.send_message(request).await.ok()?.into_inner();
    answer.entries.into_iter().next().filter(|entry| code(entry.status.clone()) == Code::Ok)
}

/// A parent remembers ids for all its lite topics: a repeat is recognised in any of them.
#[tokio::test]
async fn a_parent_of_lite_topics_takes_each_message_once() {
    let mut servers = standalone(&[]);
    create_topic(&servers, "sessions", &["+message.type=LITE", "+dedup=id"]).await;
    let lite = |name: &str, id: &str| {
        let mut message = message("sessions", id, &[], v2::MessageType::Lite);
        message.system_properties.as_mut().unwrap().lite_topic = Some(name.to_owned());
        message
    };
    let broker = &servers.brokers[0];
    let first = send_one(broker, lite("a", "1")).await;
    assert_eq!(send_one(broker, lite("a", "1")).await.offset, first.offset);
    assert_eq!(send_one(broker, lite("b", "1")).await.message_id, "1");
    let both = send(broker, vec![lite("b", "2"), lite("a", "2"), lite("a", "3")]).await;
    assert_eq!(both.iter().map(|entry| entry.offset).collect::<Vec<_>>(), [0, 0, 1]);
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let broker = &servers.brokers[0];
    send_one(broker, lite("b", "3")).await;
    let consumer = servers.consumer("agents", "sessions").await.unwrap();
    let subscribe = v2::SyncLiteSubscriptionRequest {
        topic: resource("sessions"),
        group: resource("agents"),
        lite_topic_set: ["a", "b"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let mut request = from_client(subscribe);
    request.metadata_mut().insert("x-mq-client-id", consumer.client_id().parse().unwrap());
    let answer = raw(broker).await.sync_lite_subscription(request).await.unwrap();
    assert_eq!(code(answer.into_inner().status), Code::Ok);
    assert_eq!(consume(&consumer, 3).await, ["1", "2", "3"]);
    expect_nothing(&consumer).await;
}
