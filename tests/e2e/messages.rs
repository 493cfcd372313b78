//! Sending, receiving and settling messages with the Rust client.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kerolox_client::{FilterExpression, Message};
use kerolox_proto::v2::Code;
use tokio::task::JoinSet;

use crate::support::{
    INVISIBLE, INVISIBLE_MIN, bodies, body, cluster_of, consume, expect_nothing, message, receive,
    receive_one, refusal, standalone,
};

#[tokio::test]
async fn a_message_arrives_with_everything_that_was_sent() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let payload: Vec<u8> = (0..=255).collect();
    let sent = Message::builder("orders")
        .body(payload)
        .tag("created")
        .keys(["4711", "customer-7"])
        .property("region", "eu")
        .property("Währung", "€")
        .build();
    let before = SystemTime::now() - Duration::from_millis(1);
    let receipt = producer.send(sent.clone()).await.unwrap();
    assert_eq!((receipt.broker.as_str(), receipt.offset, receipt.transaction_id), ("broker-a", 0, None));

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let delivery = receive_one(&consumer).await;
    assert_eq!(delivery.message(), &sent);
    assert_eq!(delivery.message_id(), receipt.message_id);
    assert_eq!((delivery.broker(), delivery.queue_id()), ("broker-a", receipt.queue_id));
    assert_eq!((delivery.offset(), delivery.attempt()), (0, 1));
    assert!(!delivery.born_host().is_empty() && !delivery.receipt_handle().is_empty());
    for time in [delivery.born_timestamp(), delivery.store_timestamp()] {
        let time = time.expect("both times are known");
        assert!(before <= time && time <= SystemTime::now(), "{time:?}");
    }
    consumer.ack(&delivery).await.unwrap();
    consumer.ack(&delivery).await.expect("acknowledging twice is harmless");
    expect_nothing(&consumer).await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn an_unacknowledged_message_comes_back_with_a_higher_attempt() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "again")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();

    let asked = Instant::now();
    let mut first = Vec::new();
    while first.is_empty() {
        first = consumer.receive(1, INVISIBLE_MIN).await.unwrap();
    }
    let answered = Instant::now();
    let second = receive_one(&consumer).await;
    assert!(asked.elapsed() >= INVISIBLE_MIN, "came back after {:?}", asked.elapsed());
    assert!(answered.elapsed() < INVISIBLE_MIN + Duration::from_secs(2), "{:?}", answered.elapsed());
    assert_eq!((second.attempt(), body(&second)), (2, "again"));
    assert_eq!(second.message_id(), first[0].message_id());

    assert_eq!(refusal(consumer.ack(&first[0]).await), Code::InvalidReceiptHandle);
    consumer.ack(&second).await.unwrap();
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn the_invisible_duration_can_be_changed() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "x")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();

    // Given back at once.
    let mut delivery = receive_one(&consumer).await;
    consumer.change_invisible(&mut delivery, Duration::ZERO).await.unwrap();
    let mut delivery = receive_one(&consumer).await;
    assert_eq!(delivery.attempt(), 2);

    // Shortened; the handle from before the change is worth nothing.
    let old = delivery.clone();
    let changed = Instant::now();
    consumer.change_invisible(&mut delivery, Duration::from_secs(1)).await.unwrap();
    assert_ne!(old.receipt_handle(), delivery.receipt_handle());
    assert_eq!(refusal(consumer.ack(&old).await), Code::InvalidReceiptHandle);
    let mut third = Vec::new();
    while third.is_empty() {
        third = consumer.receive(1, INVISIBLE_MIN).await.unwrap();
    }
    let mut delivery = third.remove(0);
    assert!(changed.elapsed() >= Duration::from_secs(1) && changed.elapsed() < Duration::from_secs(4));
    assert_eq!(delivery.attempt(), 3);

    // Extended beyond the shortest one, and acknowledged with the new handle.
    consumer.change_invisible(&mut delivery, Duration::from_secs(30)).await.unwrap();
    let extended = Instant::now();
    while extended.elapsed() < INVISIBLE_MIN + Duration::from_secs(1) {
        let received = consumer.receive(1, INVISIBLE).await.unwrap();
        assert!(received.is_empty(), "back after {:?}", extended.elapsed());
    }
    consumer.ack(&delivery).await.unwrap();
}

#[tokio::test]
async fn a_batch_arrives_completely() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    let batch = names.iter().map(|name| message("orders", name)).collect();
    let receipts: Vec<_> =
        producer.send_batch(batch).await.into_iter().map(|result| result.unwrap()).collect();
    let ids: BTreeSet<&str> = receipts.iter().map(|receipt| receipt.message_id.as_str()).collect();
    let places: BTreeSet<_> = receipts.iter().map(|receipt| (receipt.queue_id, receipt.offset)).collect();
    assert_eq!((ids.len(), places.len()), (20, 20), "{receipts:?}");

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let received = receive(&consumer, 20).await;
    assert_eq!(bodies(&received), names);
    let received: HashMap<&str, i64> =
        received.iter().map(|delivery| (delivery.message_id(), delivery.offset())).collect();
    for receipt in &receipts {
        assert_eq!(received[receipt.message_id.as_str()], receipt.offset);
    }

    let mixed = vec![message("orders", "a"), message("other", "b")];
    assert!(producer.send_batch(mixed).await.iter().all(Result::is_err));
    assert!(producer.send_batch(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn groups_and_tags_select_messages() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for tag in ["created", "paid", "shipped"] {
        let tagged = Message::builder("orders").body(tag).tag(tag).build();
        producer.send(tagged).await.unwrap();
    }
    let selective = servers
        .client()
        .simple_consumer("selective")
        .subscribe("orders", FilterExpression::tag("created || shipped"))
        .await_duration(Duration::from_millis(500))
        .start()
        .await
        .unwrap();
    assert_eq!(consume(&selective, 2).await, ["created", "shipped"]);
    expect_nothing(&selective).await;
    let all = servers.consumer("all", "orders").await.unwrap();
    assert_eq!(consume(&all, 3).await, ["created", "paid", "shipped"]);
}

#[tokio::test]
async fn refusals_carry_code_and_advice() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let client = servers.client();
    let unknown = client.producer().topic("nowhere").start().await;
    assert_eq!(refusal(unknown), Code::TopicNotFound);
    let unknown =
        client.simple_consumer("billing").subscribe("nowhere", FilterExpression::all()).start().await;
    assert_eq!(refusal(unknown), Code::TopicNotFound);

    let producer =
        client.producer().transaction_checker_sync(|_| unreachable!()).topic("orders").start().await;
    let producer = producer.unwrap();
    let wrong_type = producer.send_in_transaction(message("orders", "x")).await;
    assert_eq!(refusal(wrong_type), Code::MessagePropertyConflictWithType);
    let too_large = Message::builder("orders").body(vec![0; (4 << 20) + 1]).build();
    let error = producer.send(too_large).await.unwrap_err();
    assert_eq!(error.code().unwrap(), Code::MessageBodyTooLarge, "{error}");
    assert!(error.to_string().contains("4194304"), "{error}");

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(refusal(consumer.receive(1, Duration::from_secs(9)).await), Code::IllegalInvisibleTime);
    producer.send(message("orders", "fine")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["fine"]);
}

#[tokio::test]
async fn clients_carry_on_when_their_broker_was_killed_and_is_back() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    producer.send(message("orders", "acknowledged before")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["acknowledged before"]);
    producer.send(message("orders", "received before")).await.unwrap();
    let before = receive_one(&consumer).await;
    producer.send(message("orders", "sent before")).await.unwrap();

    servers.brokers[0].kill().unwrap();
    assert!(producer.send(message("orders", "lost")).await.is_err());
    servers.brokers[0].start().unwrap();

    consumer.ack(&before).await.expect("receipt handles survive a restart");
    producer.send(message("orders", "sent after")).await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["sent after", "sent before"]);
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn a_producer_sends_very_many_messages_at_the_same_time() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = Arc::new(servers.client().producer().topic("orders").start().await.unwrap());
    let mut sends = JoinSet::new();
    for number in 0..2_000 {
        let producer = Arc::clone(&producer);
        sends.spawn(async move { producer.send(message("orders", &number.to_string())).await });
    }
    for sent in sends.join_all().await {
        sent.unwrap();
    }
}
