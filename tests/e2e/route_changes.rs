//! Several brokers and nameservers: routes while processes come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use kerolox_client::{Client, FilterExpression};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::{self, Code};

use crate::support::{
    PATIENCE, cluster_of, code, consume, eventually, expect_nothing, from_client, message, raw, receive,
    resource,
};

/// Brokers lose their place in the routes this long after their last heartbeat.
const LEASE: Duration = Duration::from_secs(10);
/// A little more than the time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// For a look at the clock and for getting the answer.
const SLACK: Duration = Duration::from_millis(700);

/// The broker groups in the route of "orders" as `server` tells it; `None` when it knows no such topic, or no broker.
async fn route(server: &ServerProcess) -> Option<BTreeSet<String>> {
    let request = v2::QueryRouteRequest { topic: resource("orders"), endpoints: None };
    let answer = raw(server).await.query_route(from_client(request)).await.unwrap().into_inner();
    match code(answer.status) {
        Code::Ok => Some(answer.message_queues.into_iter().map(|queue| queue.broker.unwrap().name).collect()),
        Code::TopicNotFound | Code::InternalServerError => None,
        other => panic!("QueryRoute answered {other:?}"),
    }
}

fn groups(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|&name| name.to_owned()).collect())
}

async fn two_brokers() -> Cluster {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers
}

#[tokio::test]
async fn a_topic_on_two_brokers_uses_both() {
    let servers = two_brokers().await;
    assert_eq!(route(&servers.nameservers[0]).await, groups(&["broker-a", "broker-b"]));
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let mut used = BTreeSet::new();
    let mut sent = Vec::new();
    for number in 0..8 {
        let body = format!("any {number}");
        used.insert(producer.send(message("orders", &body)).await.unwrap().broker);
        sent.push(body);
    }
    assert_eq!(used, BTreeSet::from(["broker-a".to_owned(), "broker-b".to_owned()]));
    for (broker, queue) in [("broker-a", 1), ("broker-b", 0)] {
        let receipt = producer.send_to(broker, Some(queue), message("orders", broker)).await.unwrap();
        assert_eq!((receipt.broker.as_str(), receipt.queue_id), (broker, queue));
        sent.push(broker.to_owned());
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let received = receive(&consumer, sent.len()).await;
    for delivery in &received {
        consumer.ack(delivery).await.unwrap();
        if delivery.message().body() == "broker-b" {
            assert_eq!((delivery.broker(), delivery.queue_id()), ("broker-b", 0));
        }
    }
    assert_eq!(crate::support::bodies(&received), sent);
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn a_killed_broker_is_out_of_the_route_within_the_lease_and_sends_go_on() {
    let mut servers = two_brokers().await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let killed = tokio::time::Instant::now();
    servers.brokers[0].kill().unwrap();
    let mut sent = 0;
    // As long as the route is wrong, and a little longer, every send must find the other broker.
    while route(&servers.nameservers[0]).await != groups(&["broker-b"]) {
        assert!(killed.elapsed() < LEASE + SLACK, "still there after {:?}", killed.elapsed());
        assert_eq!(producer.send(message("orders", "x")).await.unwrap().broker, "broker-b");
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The other broker is an access point that forgets it, too.
    eventually("out of the other broker's route", HEARTBEAT + SLACK, || async {
        route(&servers.brokers[1]).await == groups(&["broker-b"])
    })
    .await;
    assert_eq!(producer.send(message("orders", "x")).await.unwrap().broker, "broker-b");
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = 0;
    while received < sent + 1 {
        received += consumer.receive(32, crate::support::INVISIBLE).await.unwrap().len();
    }

    servers.brokers[0].start().unwrap();
    assert_eq!(route(&servers.nameservers[0]).await, groups(&["broker-a", "broker-b"]));
}

#[tokio::test]
async fn a_stopped_broker_leaves_the_route_at_once() {
    let mut servers = two_brokers().await;
    servers.brokers[0].stop().unwrap();
    assert_eq!(route(&servers.nameservers[0]).await, groups(&["broker-b"]));
}

#[tokio::test]
async fn a_restarted_nameserver_learns_the_routes_from_the_brokers() {
    let mut servers = two_brokers().await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    for stop in [ServerProcess::kill, ServerProcess::stop] {
        stop(&mut servers.nameservers[0]).unwrap();
        producer.send(message("orders", "without a nameserver")).await.unwrap();
        assert_eq!(consume(&consumer, 1).await, ["without a nameserver"]);
        servers.nameservers[0].start().unwrap();
        eventually("all routes are back", HEARTBEAT + SLACK, || async {
            route(&servers.nameservers[0]).await == groups(&["broker-a", "broker-b"])
        })
        .await;
    }
    let late = servers.client().producer().topic("orders").start().await.unwrap();
    late.send(message("orders", "afterwards")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["afterwards"]);
}

#[tokio::test]
async fn two_nameservers_know_the_same_and_one_is_enough() {
    let mut servers = cluster_of(2, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    for nameserver in &servers.nameservers {
        assert_eq!(route(nameserver).await, groups(&["broker-a"]));
    }
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    producer.send(message("orders", "with both")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["with both"]);

    for dead in [0, 1] {
        servers.nameservers[dead].kill().unwrap();
        producer.send(message("orders", "with one")).await.unwrap();
        assert_eq!(consume(&consumer, 1).await, ["with one"]);
        // New clients and new topics, with the addresses in both orders.
        let topic = format!("late-{dead}");
        servers.create_topic(&topic, "NORMAL").await.unwrap();
        let mut addresses: Vec<String> = servers.access_points().split(',').map(str::to_owned).collect();
        for _ in 0..2 {
            addresses.reverse();
            let client = Client::builder(addresses.join(";")).build().unwrap();
            assert_eq!(client.admin().cluster().await.unwrap().brokers.len(), 1);
            let late = client.producer().topic(&topic).start().await.unwrap();
            late.send(message(&topic, "late")).await.unwrap();
        }
        servers.nameservers[dead].start().unwrap();
        eventually("the route is back", HEARTBEAT + SLACK, || async {
            route(&servers.nameservers[dead]).await == groups(&["broker-a"])
        })
        .await;
    }
}

#[tokio::test]
async fn a_broker_waits_for_its_nameservers() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.nameservers[0].kill().unwrap();
    servers.brokers[0].stop().unwrap();
    servers.brokers[0].begin().expect("a broker starts without any nameserver");
    tokio::time::sleep(HEARTBEAT).await;
    servers.nameservers[0].start().unwrap();
    servers.brokers[0].wait().expect("and serves when they have said that it is the master");
    assert_eq!(route(&servers.brokers[0]).await, groups(&["broker-a"]), "and is an access point by itself");
    eventually("registered", HEARTBEAT + SLACK, || async {
        route(&servers.nameservers[0]).await == groups(&["broker-a"])
    })
    .await;
}

#[tokio::test]
async fn every_broker_is_an_access_point_for_all_topics() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    // On broker B alone; the client only ever hears of broker A.
    let address = servers.brokers[1].address().unwrap().parse().unwrap();
    let request =
        kerolox_client::admin::wire::UpdateTopicRequest { name: "orders".into(), ..Default::default() };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
    eventually("broker A knows the topic of broker B", PATIENCE, || async {
        route(&servers.brokers[0]).await == groups(&["broker-b"])
    })
    .await;
    let client = Client::builder(servers.brokers[0].address().unwrap()).build().unwrap();
    let producer = client.producer().topic("orders").start().await.unwrap();
    assert_eq!(producer.send(message("orders", "x")).await.unwrap().broker, "broker-b");
    let consumer = client.simple_consumer("billing").subscribe("orders", FilterExpression::all());
    let consumer = consumer.await_duration(Duration::from_millis(500)).start().await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["x"]);
}
