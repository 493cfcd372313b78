//! Priorities: the highest first, through failures and restarts.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Message, Resolution};
use kerolox_proto::v2::Code;

use kerolox_harness::Cluster;

use crate::support::{INVISIBLE, body, message, receive_one, refusal, standalone};

fn urgent(priority: u32, body: &str) -> Message {
    Message::builder("alarms").body(body.to_owned()).priority(priority).build()
}

async fn with_queues(servers: &Cluster, kind: &str, queues: u32) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: "alarms".to_owned(),
        read_queues: Some(queues),
        write_queues: Some(queues),
        attributes: vec![format!("+message.type={kind}")],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
}

#[tokio::test]
async fn the_highest_priority_comes_first_also_after_a_failure_and_a_restart() {
    let mut servers = standalone(&[]);
    with_queues(&servers, "PRIORITY", 3).await;
    let producer = servers.client().producer().topic("alarms").start().await.unwrap();
    for (priority, body) in [(0, "low"), (1, "middle"), (7, "above all"), (2, "high")] {
        producer.send(urgent(priority, body)).await.unwrap();
    }
    let consumer = servers.consumer("desk", "alarms").await.unwrap();
    let mut first = receive_one_of(&consumer).await;
    assert_eq!((body(&first), first.message().priority()), ("above all", Some(7)));
    consumer.change_invisible(&mut first, Duration::ZERO).await.unwrap();
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let mut order = Vec::new();
    for _ in 0..4 {
        let next = receive_one_of(&consumer).await;
        order.push((body(&next).to_owned(), next.attempt()));
        consumer.ack(&next).await.unwrap();
    }
    let expected = [("above all", 2), ("high", 1), ("middle", 1), ("low", 1)];
    assert_eq!(order, expected.map(|(body, attempt)| (body.to_owned(), attempt)));
}

#[tokio::test]
async fn a_factor_keeps_low_priorities_from_starving() {
    let servers = standalone(&[]);
    with_queues(&servers, "PRIORITY", 2).await;
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateGroupRequest {
        name: "desk".to_owned(),
        attributes: vec!["+priority.factor=50".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_group(request).await.unwrap();
    let producer = servers.client().producer().topic("alarms").start().await.unwrap();
    for _ in 0..4 {
        producer.send(urgent(1, "high")).await.unwrap();
        producer.send(urgent(0, "low")).await.unwrap();
    }
    let consumer = servers.consumer("desk", "alarms").await.unwrap();
    let received = consumer.receive(4, INVISIBLE).await.unwrap();
    assert_eq!(received.iter().map(body).collect::<Vec<_>>(), ["high", "low", "high", "high"]);
}

#[tokio::test]
async fn a_half_message_keeps_its_priority() {
    let servers = standalone(&[]);
    with_queues(&servers, "PRIORITY", 2).await;
    let client = servers.client();
    let producer = client.producer().topic("alarms").transaction_checker_sync(|_| Resolution::Unknown);
    let producer = producer.start().await.unwrap();
    let half = producer.send_in_transaction(urgent(1, "high")).await.unwrap();
    producer.send(urgent(0, "low")).await.unwrap();
    half.commit().await.unwrap();
    let consumer = servers.consumer("desk", "alarms").await.unwrap();
    assert_eq!(body(&receive_one_of(&consumer).await), "high");
    assert_eq!(body(&receive_one(&consumer).await), "low");
}

#[tokio::test]
async fn priorities_go_to_topics_that_take_them() {
    let servers = standalone(&[]);
    with_queues(&servers, "PRIORITY", 2).await;
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.create_topic("all", "MIXED").await.unwrap();
    let client = servers.client();
    let producer = client.producer().start().await.unwrap();
    let conflict = Code::MessagePropertyConflictWithType;
    assert_eq!(refusal(producer.send(message("alarms", "without")).await), conflict);
    let with_priority = |topic: &str| Message::builder(topic).body("x").priority(1);
    assert_eq!(refusal(producer.send(with_priority("orders").build()).await), conflict);
    producer.send(with_priority("all").build()).await.unwrap();
    let ordered = with_priority("alarms").message_group("g").build();
    assert_eq!(refusal(producer.send(ordered).await), conflict);
}

async fn receive_one_of(consumer: &kerolox_client::SimpleConsumer) -> kerolox_client::Delivery {
    loop {
        if let Ok(mut received) = consumer.receive(1, INVISIBLE).await
            && let Some(delivery) = received.pop()
        {
            return delivery;
        }
    }
}

#[tokio::test]
async fn a_delivery_time_comes_before_the_priority() {
    let servers = standalone(&[]);
    with_queues(&servers, "PRIORITY", 3).await;
    let producer = servers.client().producer().topic("alarms").start().await.unwrap();
    let due = std::time::SystemTime::now() + Duration::from_secs(2);
    let later = |priority: u32, body: &str| {
        let message = Message::builder("alarms").body(body.to_owned()).priority(priority);
        message.delivery_timestamp(due).build()
    };
    for message in [later(0, "later, low"), later(2, "later, high"), urgent(1, "now")] {
        producer.send(message).await.unwrap();
    }
    let consumer = servers.consumer("desk", "alarms").await.unwrap();
    let first = receive_one_of(&consumer).await;
    assert_eq!(body(&first), "now", "the highest one is not there yet");
    consumer.ack(&first).await.unwrap();
    let left = due.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    // Both are visible by then.
    tokio::time::sleep(left + Duration::from_millis(500)).await;
    for expected in ["later, high", "later, low"] {
        let next = receive_one_of(&consumer).await;
        assert_eq!((body(&next), next.attempt()), (expected, 1));
        consumer.ack(&next).await.unwrap();
    }
}
