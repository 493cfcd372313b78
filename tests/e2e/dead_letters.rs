//! What becomes of messages that fail again and again: dead letters, blocked message groups, and their way back.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Delivery, Message, SimpleConsumer};
use kerolox_proto::v2::{self, Code};

use kerolox_harness::Cluster;

use crate::support::{
    PATIENCE, body, cluster_of, code, consume, eventually, expect_nothing, from_client, message, raw,
    receive, receive_one, resource,
};

const DEAD: &str = "%DLQ%billing";

/// A group whose messages get `retries` further attempts.
async fn group(servers: &Cluster, retries: u32, fifo: bool, attributes: &[&str]) {
    let request = wire::UpdateGroupRequest {
        name: "billing".to_owned(),
        retry_max_times: Some(retries),
        fifo: Some(fifo),
        attributes: attributes.iter().map(|change| (*change).to_owned()).collect(),
        ..Default::default()
    };
    admin(servers).update_group(request).await.unwrap();
}

fn address(servers: &Cluster) -> Address {
    servers.brokers[0].address().unwrap().parse().unwrap()
}

fn admin(servers: &Cluster) -> kerolox_client::admin::BrokerAdmin {
    servers.client().admin().broker(&address(servers))
}

async fn dead_letters(servers: &Cluster, with_redriven: bool) -> Vec<wire::DeadLetter> {
    let request =
        wire::ListDeadLettersRequest { group: "billing".to_owned(), with_redriven, ..Default::default() };
    admin(servers).list_dead_letters(request).await.unwrap().letters
}

async fn redrive(servers: &Cluster, offsets: &[u64]) -> wire::RedriveDeadLettersResponse {
    let request = wire::RedriveDeadLettersRequest { group: "billing".to_owned(), offsets: offsets.to_vec() };
    admin(servers).redrive_dead_letters(request).await.unwrap()
}

/// Receives one message and has it delivered again at once, so often that its attempts are used up.
async fn fail(consumer: &SimpleConsumer, attempts: u32) -> String {
    let mut failed = String::new();
    for attempt in 1..=attempts {
        let mut delivery = receive_one(consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        body(&delivery).clone_into(&mut failed);
        consumer.change_invisible(&mut delivery, Duration::ZERO).await.unwrap();
    }
    failed
}

async fn forward(servers: &Cluster, delivery: &Delivery) -> Code {
    let request = v2::ForwardMessageToDeadLetterQueueRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: delivery.receipt_handle().to_owned(),
        message_id: delivery.message_id().to_owned(),
        delivery_attempt: i32::try_from(delivery.attempt()).unwrap(),
        ..Default::default()
    };
    let mut broker = raw(&servers.brokers[0]).await;
    let answer = broker.forward_message_to_dead_letter_queue(from_client(request)).await.unwrap();
    code(answer.into_inner().status)
}

#[tokio::test]
async fn after_the_last_attempt_a_message_is_a_dead_letter_with_its_origin() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    group(&servers, 1, false, &[]).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let sent =
        Message::builder("orders").body("poison").tag("paid").key("k1").property("amount", "5").build();
    let receipt = producer.send(sent).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(fail(&consumer, 2).await, "poison");
    eventually("the dead letter", PATIENCE, async || dead_letters(&servers, false).await.len() == 1).await;
    expect_nothing(&consumer).await;

    let letters = dead_letters(&servers, false).await;
    let letter = &letters[0];
    assert_eq!((letter.topic.as_str(), letter.attempts, letter.reason.as_str()), ("orders", 2, "EXHAUSTED"));
    assert_eq!(letter.message_id, receipt.message_id);

    // It can be received like any other message, by any group.
    let undertaker = servers.consumer("undertaker", DEAD).await.unwrap();
    let delivery = receive_one(&undertaker).await;
    let found = delivery.message();
    assert_eq!((body(&delivery), found.topic(), found.tag()), ("poison", DEAD, Some("paid")));
    assert_eq!(found.keys(), ["k1"]);
    let property = |name: &str| found.properties().get(name).map(String::as_str);
    assert_eq!(property("amount"), Some("5"));
    assert_eq!(property("DLQ_ORIGIN_TOPIC"), Some("orders"));
    assert_eq!(property("DLQ_ORIGIN_MESSAGE_ID"), Some(receipt.message_id.as_str()));
    assert_eq!((property("DLQ_REASON"), property("DLQ_ATTEMPTS")), (Some("EXHAUSTED"), Some("2")));
    undertaker.ack(&delivery).await.unwrap();
}

#[tokio::test]
async fn dead_letters_survive_a_crash_and_go_back_to_their_group_alone() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    group(&servers, 0, false, &[]).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for name in ["one", "two"] {
        producer.send(message("orders", name)).await.unwrap();
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let other = servers.consumer("audit", "orders").await.unwrap();
    assert_eq!(consume(&other, 2).await, ["one", "two"]);
    for delivery in receive(&consumer, 2).await {
        assert_eq!(forward(&servers, &delivery).await, Code::Ok);
    }
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let letters = dead_letters(&servers, false).await;
    assert_eq!(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(), ["FORWARDED"; 2]);

    let answer = redrive(&servers, &[letters[0].offset, 77]).await;
    assert_eq!((answer.redriven, answer.repeated, answer.gone), (1, 0, 1));
    assert_eq!(redrive(&servers, &[letters[0].offset]).await.repeated, 1);
    let back = receive_one(&consumer).await;
    assert_eq!((back.message_id(), back.attempt()), (letters[0].message_id.as_str(), 1));
    consumer.ack(&back).await.unwrap();
    let other = servers.consumer("audit", "orders").await.unwrap();
    expect_nothing(&other).await;
    expect_nothing(&consumer).await;
    assert_eq!(dead_letters(&servers, false).await.len(), 1);
    let all = dead_letters(&servers, true).await;
    assert_eq!(all.iter().map(|letter| letter.redriven).collect::<Vec<_>>(), [true, false]);
    let undertaker = servers.consumer("undertaker", DEAD).await.unwrap();
    assert_eq!(receive(&undertaker, 1).await.len(), 1, "what went back is no dead letter any more");
}

#[tokio::test]
async fn a_blocking_group_waits_for_the_operator_and_goes_on_in_order() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    group(&servers, 0, true, &["+retry.exhausted=block"]).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for (name, group) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        let sent = Message::builder("orders").body(name).message_group(group).build();
        producer.send(sent).await.unwrap();
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let deliveries = receive(&consumer, 3).await;
    for delivery in &deliveries {
        match body(delivery) {
            "b1" => consumer.ack(delivery).await.unwrap(),
            "a1" => assert_eq!(forward(&servers, delivery).await, Code::Ok),
            _ => {
                // It comes back behind the one that blocks it.
                let mut delivery = delivery.clone();
                consumer.change_invisible(&mut delivery, Duration::ZERO).await.unwrap();
            }
        }
    }
    let list = wire::ListBlockedRequest { group: "billing".to_owned() };
    let blocked = admin(&servers).list_blocked(list.clone()).await.unwrap().messages;
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert_eq!((blocked[0].message_group.as_str(), blocked[0].waiting), ("a", 2));
    expect_nothing(&consumer).await;
    producer.send(Message::builder("orders").body("b2").message_group("b").build()).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["b2"], "other message groups go on");
    let settle = wire::SettleBlockedRequest {
        group: "billing".to_owned(),
        topic: "orders".to_owned(),
        queue: blocked[0].queue,
        offset: blocked[0].offset,
        action: wire::BlockedAction::Retry.into(),
    };
    admin(&servers).settle_blocked(settle.clone()).await.unwrap();
    let first = receive_one(&consumer).await;
    assert_eq!((body(&first), first.attempt()), ("a1", 1));
    consumer.ack(&first).await.unwrap();
    assert!(admin(&servers).list_blocked(list).await.unwrap().messages.len() <= 1);
    assert!(admin(&servers).settle_blocked(settle).await.is_err(), "it is blocked no longer");
    assert!(dead_letters(&servers, true).await.is_empty());
}
