//! Consumers of lite topics.

use crate::{INVISIBLE, MOMENT, PATIENCE, body, eventually, producer};
use kerolox_client::admin::wire::UpdateGroupRequest;
use kerolox_client::{LiteSimpleConsumer, Message, Position, Verdict};
use kerolox_testkit::{TestBroker, TopicType};
use std::time::Duration;
use tokio::sync::mpsc;

const PARENT: &str = "sessions";

fn lite(name: &str, body: &str) -> Message {
    Message::builder(PARENT).body(body.to_owned()).lite_topic(name).build()
}

async fn started() -> TestBroker {
    let broker = TestBroker::start().unwrap();
    broker.create_topic(PARENT, TopicType::Lite).await.unwrap();
    broker
}

async fn simple(broker: &TestBroker, group: &str) -> LiteSimpleConsumer {
    let consumer = broker.client().lite_simple_consumer(group, PARENT);
    consumer.await_duration(Duration::from_millis(300)).start().await.unwrap()
}

/// Receives and acknowledges `count` messages; their bodies in order.
async fn take(consumer: &LiteSimpleConsumer, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    eventually("messages", async || {
        for delivery in consumer.receive(8, INVISIBLE).await.unwrap() {
            taken.push(body(delivery.message()).to_owned());
            consumer.ack(&delivery).await.unwrap();
        }
        taken.len() >= count
    })
    .await;
    taken
}

#[tokio::test]
async fn subscriptions_come_and_go_and_begin_where_they_are_told() {
    let broker = started().await;
    let sender = producer(&broker, PARENT).await;
    for text in ["a1", "a2", "a3"] {
        sender.send(lite("a", text)).await.unwrap();
    }
    let consumer = simple(&broker, "agents").await;
    assert!(consumer.receive(8, INVISIBLE).await.unwrap().is_empty(), "not subscribed yet");
    consumer.topics().subscribe("a").await.unwrap();
    consumer.topics().subscribe("b").await.unwrap();
    assert_eq!(consumer.topics().subscribed(), ["a", "b"]);
    assert_eq!(take(&consumer, 3).await, ["a1", "a2", "a3"]);
    consumer.topics().unsubscribe("a").await.unwrap();
    sender.send(lite("a", "a4")).await.unwrap();
    sender.send(lite("b", "b1")).await.unwrap();
    assert_eq!(take(&consumer, 1).await, ["b1"]);

    let late = simple(&broker, "late").await;
    late.topics().subscribe_from("a", Position::Tail(2)).await.unwrap();
    assert_eq!(take(&late, 2).await, ["a3", "a4"]);
    let error = late.topics().subscribe("no name").await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(late.topics().subscribed(), ["a"]);
}

#[tokio::test]
async fn subscriptions_outlive_the_broker() {
    let mut broker = started().await;
    let consumer = simple(&broker, "agents").await;
    consumer.topics().subscribe("a").await.unwrap();
    broker.restart().unwrap();
    let sender = producer(&broker, PARENT).await;
    sender.send(lite("a", "after")).await.unwrap();
    let mut received = Vec::new();
    // Far sooner than everything is told again by itself.
    eventually("the message", async || {
        received.extend(consumer.receive(8, INVISIBLE).await.unwrap_or_default());
        !received.is_empty()
    })
    .await;
    assert_eq!(body(received[0].message()), "after");
}

#[tokio::test]
async fn a_lite_topic_that_is_taken_away_is_no_longer_subscribed_to() {
    let broker = started().await;
    let attributes = vec!["+lite.sub.model=Exclusive".to_owned()];
    let request = UpdateGroupRequest { name: "agents".to_owned(), attributes, ..Default::default() };
    broker.admin().update_group(request).await.unwrap();
    let (old, new) = (simple(&broker, "agents").await, simple(&broker, "agents").await);
    old.topics().subscribe("a").await.unwrap();
    old.topics().subscribe("b").await.unwrap();
    new.topics().subscribe("a").await.unwrap();
    eventually("the news", async || old.topics().subscribed() == ["b"]).await;
    assert_eq!(new.topics().subscribed(), ["a"]);
}

#[tokio::test]
async fn a_listener_gets_the_messages_of_a_lite_topic_one_after_the_other() {
    let broker = started().await;
    let sender = producer(&broker, PARENT).await;
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let consumer = broker
        .client()
        .lite_push_consumer("agents", PARENT)
        .await_duration(Duration::from_millis(300))
        .start(move |delivery| {
            let heard = heard.clone();
            async move {
                let name = delivery.message().lite_topic().unwrap().to_owned();
                let text = body(delivery.message()).to_owned();
                if text == "a1" && delivery.attempt() == 1 {
                    return Verdict::AgainIn(MOMENT);
                }
                heard.send((name, text)).unwrap();
                Verdict::Done
            }
        })
        .await
        .unwrap();
    for name in ["a", "b"] {
        consumer.topics().subscribe(name).await.unwrap();
        for number in 1..=3 {
            sender.send(lite(name, &format!("{name}{number}"))).await.unwrap();
        }
    }
    let mut order: Vec<(String, String)> = Vec::new();
    while order.len() < 6 {
        order.push(tokio::time::timeout(PATIENCE, hearing.recv()).await.unwrap().unwrap());
    }
    let of = |name: &str| -> Vec<String> {
        order.iter().filter(|(of, _)| of == name).map(|(_, text)| text.clone()).collect()
    };
    assert_eq!(
        (of("a"), of("b")),
        (["a1", "a2", "a3"].map(str::to_owned).to_vec(), ["b1", "b2", "b3"].map(str::to_owned).to_vec())
    );
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
    // All of it is acknowledged.
    let after = simple(&broker, "agents").await;
    after.topics().subscribe("a").await.unwrap();
    assert!(after.receive(8, INVISIBLE).await.unwrap().is_empty());
}
