//! Who gets which message, and when: several consumers, long polls, groups, permissions, namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_client::admin::wire;
use kerolox_client::{Address, Client, FilterExpression, Resolution};
use kerolox_proto::v2::Code;

use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, PATIENCE, body, cluster_of, consume, expect_nothing, message, receive_one, refusal, standalone,
};

async fn update_group(servers: &Cluster, request: wire::UpdateGroupRequest) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    servers.client().admin().broker(&address).update_group(request).await.unwrap();
}

async fn set_perm(servers: &Cluster, topic: &str, perm: u32) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest { name: topic.into(), perm: Some(perm), ..Default::default() };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
}

#[tokio::test]
async fn the_members_of_a_group_share_the_messages() {
    const MESSAGES: usize = 300;
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let mut members = Vec::new();
    for _ in 0..3 {
        let consumer = servers.consumer("billing", "orders").await.unwrap();
        members.push(tokio::spawn(async move {
            let (mut received, mut empty) = (Vec::new(), 0);
            // Two polls reach both brokers; four in a row without any message mean the end.
            while empty < 4 {
                let batch = consumer.receive(8, INVISIBLE).await.unwrap();
                empty = if batch.is_empty() { empty + 1 } else { 0 };
                for delivery in batch {
                    consumer.ack(&delivery).await.unwrap();
                    received.push(body(&delivery).to_owned());
                }
            }
            received
        }));
    }
    let sends = (0..MESSAGES).map(|number| message("orders", &number.to_string()));
    for batch in sends.collect::<Vec<_>>().chunks(30) {
        assert!(producer.send_batch(batch.to_vec()).await.iter().all(Result::is_ok));
    }
    let mut deliveries = BTreeMap::new();
    for member in members {
        for body in member.await.unwrap() {
            *deliveries.entry(body).or_insert(0) += 1;
        }
    }
    assert_eq!(deliveries.len(), MESSAGES);
    assert!(deliveries.values().all(|count| *count == 1), "{deliveries:?}");
}

#[tokio::test]
async fn a_waiting_consumer_gets_a_message_at_once() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let producer = servers
        .client()
        .producer()
        .topics(["orders", "payments"])
        .transaction_checker_sync(|_| Resolution::Unknown)
        .start()
        .await
        .unwrap();
    for topic in ["orders", "payments"] {
        let consumer = servers
            .client()
            .simple_consumer("billing")
            .subscribe(topic, FilterExpression::all())
            .await_duration(Duration::from_secs(15))
            .start()
            .await
            .unwrap();
        let waiting = tokio::spawn(async move {
            let received = consumer.receive(1, INVISIBLE).await.unwrap();
            (received, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = Instant::now();
        match topic {
            "orders" => drop(producer.send(message(topic, "x")).await.unwrap()),
            _ => producer.send_in_transaction(message(topic, "x")).await.unwrap().commit().await.unwrap(),
        }
        let (received, at) = waiting.await.unwrap();
        assert_eq!(received.len(), 1, "{topic}");
        assert!(at.duration_since(sent) < Duration::from_secs(1), "{topic}: {:?}", at.duration_since(sent));
    }
}

#[tokio::test]
async fn a_poll_that_the_consumer_gave_up_takes_no_message_away() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = Arc::new(servers.consumer("billing", "orders").await.unwrap());
    let given_up = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.receive(1, INVISIBLE).await.map(|received| received.len()) }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    given_up.abort();
    assert!(given_up.await.is_err_and(|error| error.is_cancelled()));
    producer.send(message("orders", "x")).await.unwrap();
    let delivery = receive_one(&consumer).await;
    assert_eq!(delivery.attempt(), 1);
}

#[tokio::test]
async fn a_group_starts_where_it_was_told_and_stops_when_it_is_disabled() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "old")).await.unwrap();
    let from_now_on = wire::UpdateGroupRequest {
        name: "late".into(),
        attributes: vec!["+consume.from=latest".into()],
        ..Default::default()
    };
    update_group(&servers, from_now_on).await;
    let late = servers.consumer("late", "orders").await.unwrap();
    expect_nothing(&late).await;
    producer.send(message("orders", "new")).await.unwrap();
    assert_eq!(consume(&late, 1).await, ["new"]);
    let early = servers.consumer("early", "orders").await.unwrap();
    assert_eq!(consume(&early, 2).await, ["new", "old"]);

    let enable = |enable| wire::UpdateGroupRequest {
        name: "late".into(),
        consume_enable: Some(enable),
        ..Default::default()
    };
    update_group(&servers, enable(false)).await;
    let error = late.receive(1, INVISIBLE).await.unwrap_err();
    assert!(error.code().is_some() && error.to_string().contains("late"), "{error}");
    update_group(&servers, enable(true)).await;
    producer.send(message("orders", "newer")).await.unwrap();
    assert_eq!(consume(&late, 1).await, ["newer"]);
}

#[tokio::test]
async fn a_group_as_rocketmq_makes_it_misses_nothing_that_was_sent_before_it_came() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    let ns = servers.access_points();
    crate::mqadmin::table(&format!("updateTopic -n {ns} -c DefaultCluster -t orders -r 2 -w 2"));
    // RocketMQ's tools send this when no option is given.
    crate::mqadmin::table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing -m false"));
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let sent: Vec<String> = (10..30).map(|number| number.to_string()).collect();
    for body in &sent {
        producer.send(message("orders", body)).await.unwrap();
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, sent.len()).await, sent);
}

#[tokio::test]
async fn permissions_and_queues_of_a_topic_can_be_changed_while_it_is_used() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    producer.send(message("orders", "before")).await.unwrap();

    set_perm(&servers, "orders", 4).await;
    assert_eq!(refusal(producer.send(message("orders", "refused")).await), Code::Forbidden);
    assert_eq!(consume(&consumer, 1).await, ["before"]);
    set_perm(&servers, "orders", 2).await;
    assert_eq!(refusal(consumer.receive(1, INVISIBLE).await), Code::Forbidden);
    // The clients have heard that something changed, and look again from time to time.
    set_perm(&servers, "orders", 6).await;
    let started = Instant::now();
    while let Err(error) = producer.send(message("orders", "after")).await {
        assert!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut received = Vec::new();
    while received.is_empty() {
        assert!(started.elapsed() < PATIENCE);
        received = consumer.receive(1, INVISIBLE).await.unwrap_or_default();
    }
    assert_eq!(body(&received[0]), "after");
    consumer.ack(&received[0]).await.unwrap();

    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let more = wire::UpdateTopicRequest {
        name: "orders".into(),
        read_queues: Some(6),
        write_queues: Some(6),
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(more).await.unwrap();
    let newcomer = servers.client().producer().topic("orders").start().await.unwrap();
    for queue in 0..6 {
        let sent = message("orders", &queue.to_string());
        assert_eq!(newcomer.send_to("broker-a", Some(queue), sent).await.unwrap().queue_id, queue);
    }
    assert_eq!(consume(&consumer, 6).await, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn namespaces_keep_equal_names_apart() {
    let flags = ["--transaction-first-check", "1s", "--transaction-check-interval", "1s"];
    let servers = cluster_of(1, &["broker-a"], &flags);
    for topic in ["orders", "tenant%orders"] {
        servers.create_topic(topic, "TRANSACTION").await.unwrap();
    }
    let tenant = Client::builder(servers.access_points()).namespace("tenant").build().unwrap();
    let producer = tenant
        .producer()
        .topic("orders")
        .transaction_checker_sync(|half| {
            assert_eq!(half.message().topic(), "orders");
            Resolution::Commit
        })
        .start()
        .await
        .unwrap();
    drop(producer.send_in_transaction(message("orders", "checked back")).await.unwrap());
    let consumer = tenant
        .simple_consumer("billing")
        .subscribe("orders", FilterExpression::all())
        .await_duration(Duration::from_millis(500))
        .start()
        .await
        .unwrap();
    let delivery = receive_one(&consumer).await;
    assert_eq!((delivery.message().topic(), body(&delivery)), ("orders", "checked back"));
    consumer.ack(&delivery).await.unwrap();
    let outside = servers.consumer("billing", "orders").await.unwrap();
    expect_nothing(&outside).await;
}
