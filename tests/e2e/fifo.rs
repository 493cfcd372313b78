//! Ordered delivery: per message group, across failures and consumers.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, FilterExpression, HalfMessage, Message, Resolution};
use kerolox_core::slots::{queue_of, slot_of};
use kerolox_proto::v2::{self, receive_message_response::Content};
use tokio_stream::StreamExt as _;

use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, INVISIBLE_MIN, NO_CHECKS, PATIENCE, bodies, body, cluster_of, create, eventually,
    expect_nothing, from_client, group, master, raw, receive, resource,
};

pub(crate) async fn ordered_group(servers: &Cluster, name: &str) {
    for broker in &servers.brokers {
        let address: Address = broker.address().unwrap().parse().unwrap();
        let request =
            wire::UpdateGroupRequest { name: name.to_owned(), fifo: Some(true), ..Default::default() };
        servers.client().admin().broker(&address).update_group(request).await.unwrap();
    }
}

fn ordered(group: &str, body: &str) -> Message {
    Message::builder("orders").body(body.to_owned()).message_group(group).build()
}

#[tokio::test]
async fn a_message_group_is_delivered_in_order_and_does_not_hold_up_others() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    ordered_group(&servers, "billing").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in 1..=3 {
        for group in ["a", "b"] {
            producer.send(ordered(group, &format!("{group}{number}"))).await.unwrap();
        }
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let other = servers.consumer("billing", "orders").await.unwrap();
    // A consumer holds the front of one message group: other consumers get nothing of it, but all of the other group.
    let first = consumer.receive(1, Duration::from_secs(60)).await.unwrap().remove(0);
    let (slow, quick) = if body(&first) == "a1" { ("a", "b") } else { ("b", "a") };
    for number in 1..=3 {
        let next = receive_one_of(&other, 1).await;
        assert_eq!(body(&next), format!("{quick}{number}"));
        other.ack(&next).await.unwrap();
    }
    expect_nothing(&other).await;
    // A failure keeps the order: the same message comes again before those behind it.
    let mut first = first;
    consumer.change_invisible(&mut first, Duration::ZERO).await.unwrap();
    for number in 1..=3 {
        let next = receive_one_of(&other, 1).await;
        assert_eq!(body(&next), format!("{slow}{number}"));
        assert_eq!(next.attempt(), if number == 1 { 2 } else { 1 });
        other.ack(&next).await.unwrap();
    }
}

async fn receive_one_of(consumer: &kerolox_client::SimpleConsumer, max: usize) -> kerolox_client::Delivery {
    loop {
        let mut received = consumer.receive(max, Duration::from_secs(60)).await.unwrap();
        if !received.is_empty() {
            return received.remove(0);
        }
    }
}

#[tokio::test]
async fn order_outlives_a_crash_of_the_broker() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    ordered_group(&servers, "billing").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in 1..=4 {
        producer.send(ordered("a", &format!("a{number}"))).await.unwrap();
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let batch = receive(&consumer, 4).await;
    assert_eq!(batch.iter().map(body).collect::<Vec<_>>(), ["a1", "a2", "a3", "a4"]);
    consumer.ack(&batch[0]).await.unwrap();
    // The third one failed, which the log knows; the second one was only handed out.
    let mut third = batch[2].clone();
    consumer.change_invisible(&mut third, Duration::ZERO).await.unwrap();
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let again = receive(&consumer, 2).await;
    assert_eq!(again.iter().map(body).collect::<Vec<_>>(), ["a2", "a3"]);
    assert_eq!(again.iter().map(|delivery| delivery.attempt()).collect::<Vec<_>>(), [1, 2]);
    expect_nothing(&consumer).await;
    for delivery in &again {
        consumer.ack(delivery).await.unwrap();
    }
    let last = receive(&consumer, 1).await.remove(0);
    assert_eq!((body(&last), last.attempt()), ("a4", 1));
}

/// What happens while a1 is out with a consumer that has finished a2 and a3, in this order: a3, a2.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    /// It is put off.
    PutOff,
    /// Its consumer says nothing for too long.
    Silence,
    /// The broker is killed and started again.
    Crash,
    /// The broker is killed and started again, and the result is reported only then.
    CrashBefore,
    /// Another member of the group takes over.
    Failover,
}

/// a1 comes again, alone; a4 and a5, which are new, wait until it is done.
async fn nothing_new_comes_beside_a1(mut servers: Cluster, trouble: Trouble) {
    let master = if trouble == Trouble::Failover { master(&servers).await } else { 0 };
    let at: Address = servers.brokers[master].address().unwrap().parse().unwrap();
    let request =
        wire::UpdateGroupRequest { name: "billing".to_owned(), fifo: Some(true), ..Default::default() };
    servers.client().admin().broker(&at).update_group(request).await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let send = async |numbers: std::ops::RangeInclusive<u32>| {
        for number in numbers {
            let sent = async || producer.send(ordered("customer-7", &format!("a{number}"))).await.is_ok();
            eventually("it is sent", PATIENCE, sent).await;
        }
    };
    send(1..=3).await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut first = Vec::new();
    while first.is_empty() {
        first = consumer.receive(16, INVISIBLE_MIN).await.unwrap();
    }
    assert_eq!(first.iter().map(body).collect::<Vec<_>>(), ["a1", "a2", "a3"], "{trouble:?}");
    let crash = |servers: &mut Cluster| {
        servers.brokers[0].kill().unwrap();
        servers.brokers[0].start().unwrap();
    };
    if trouble == Trouble::CrashBefore {
        crash(&mut servers);
    }
    for delivery in first[1..].iter().rev() {
        consumer.ack(delivery).await.unwrap();
    }
    match trouble {
        Trouble::PutOff => consumer.change_invisible(&mut first[0], Duration::from_secs(1)).await.unwrap(),
        Trouble::Silence | Trouble::CrashBefore => {}
        Trouble::Crash => crash(&mut servers),
        Trouble::Failover => servers.brokers[master].kill().unwrap(),
    }
    send(4..=5).await;
    let (one, other) = (
        servers.consumer("billing", "orders").await.unwrap(),
        servers.consumer("billing", "orders").await.unwrap(),
    );
    let next = async || {
        let mut batch = Vec::new();
        let found = async || {
            // A change of masters may be under way.
            batch = one.receive(16, INVISIBLE).await.unwrap_or_default();
            !batch.is_empty()
        };
        eventually("something comes", PATIENCE * 2, found).await;
        batch
    };
    let again = next().await;
    assert_eq!(again.iter().map(body).collect::<Vec<_>>(), ["a1"], "{trouble:?}");
    expect_nothing(&other).await;
    one.ack(&again[0]).await.unwrap();
    assert_eq!(next().await.iter().map(body).collect::<Vec<_>>(), ["a4", "a5"], "{trouble:?}");
}

#[tokio::test]
async fn nothing_new_of_a_message_group_comes_beside_what_is_repeated() {
    for trouble in [Trouble::PutOff, Trouble::Silence] {
        let servers = cluster_of(1, &["broker-a"], &[]);
        servers.create_topic("orders", "FIFO").await.unwrap();
        nothing_new_comes_beside_a1(servers, trouble).await;
    }
}

#[tokio::test]
async fn nothing_new_of_a_message_group_comes_beside_what_is_repeated_after_a_crash() {
    for trouble in [Trouble::Crash, Trouble::CrashBefore] {
        let servers = cluster_of(1, &["broker-a"], &[]);
        servers.create_topic("orders", "FIFO").await.unwrap();
        nothing_new_comes_beside_a1(servers, trouble).await;
    }
}

#[tokio::test]
async fn nothing_new_of_a_message_group_comes_beside_what_is_repeated_after_a_failover() {
    let servers = group(3, &[], &[]).await;
    create(&servers, "orders", "FIFO").await;
    nothing_new_comes_beside_a1(servers, Trouble::Failover).await;
}

#[tokio::test]
async fn a_repeated_receive_gets_the_same_messages() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    ordered_group(&servers, "billing").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in 1..=3 {
        producer.send(ordered("a", &format!("a{number}"))).await.unwrap();
    }
    let mut broker = raw(&servers.brokers[0]).await;
    let mut ask = async |attempt: &str| -> Vec<(String, i32)> {
        let request = v2::ReceiveMessageRequest {
            group: resource("billing"),
            message_queue: Some(v2::MessageQueue {
                topic: resource("orders"),
                id: -1,
                broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
                ..Default::default()
            }),
            filter_expression: None,
            batch_size: 2,
            invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            auto_renew: false,
            long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
            attempt_id: Some(attempt.to_owned()),
        };
        let mut stream = broker.receive_message(from_client(request)).await.unwrap().into_inner();
        let mut messages = Vec::new();
        while let Some(item) = stream.next().await {
            if let Some(Content::Message(message)) = item.unwrap().content {
                let attempt = message.system_properties.unwrap().delivery_attempt.unwrap();
                messages.push((String::from_utf8(message.body.to_vec()).unwrap(), attempt));
            }
        }
        messages
    };
    let first = vec![("a1".to_owned(), 1), ("a2".to_owned(), 1)];
    assert_eq!(ask("receive-1").await, first);
    assert_eq!(ask("receive-2").await, [], "the message group is taken");
    assert_eq!(ask("receive-1").await, first, "the same receive once more");
}

#[tokio::test]
async fn members_with_different_filters_lose_nothing() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let selective = async |tag: &str| {
        servers
            .client()
            .simple_consumer("billing")
            .subscribe("orders", FilterExpression::tag(tag))
            .await_duration(Duration::from_millis(300))
            .start()
            .await
            .unwrap()
    };
    let (paid, created) = (selective("paid").await, selective("created").await);
    expect_nothing(&paid).await;
    expect_nothing(&created).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for (body, tag) in [("p1", "paid"), ("c1", "created"), ("x1", "other"), ("p2", "paid"), ("c2", "created")]
    {
        producer.send(Message::builder("orders").body(body).tag(tag).build()).await.unwrap();
    }
    assert_eq!(bodies(&receive(&paid, 2).await), ["p1", "p2"]);
    assert_eq!(bodies(&receive(&created, 2).await), ["c1", "c2"]);
    expect_nothing(&paid).await;
    expect_nothing(&created).await;
}

/// Slots of "orders" on the first broker that have not moved to the queue where its number of queues puts them.
async fn moving_slots(servers: &Cluster) -> u32 {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: "orders".to_owned() };
    servers.client().admin().broker(&address).describe_topic(request).await.unwrap().moving_slots
}

async fn set_queues(servers: &Cluster, queues: u32) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: "orders".to_owned(),
        write_queues: Some(queues),
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
}

/// A message group that belongs to queue 0 of 1, and to `queue` of 7.
fn group_of(queue: u32) -> String {
    (0..).map(|number| format!("customer-{number}")).find(|name| queue_of(slot_of(name), 7) == queue).unwrap()
}

#[tokio::test]
async fn message_groups_stay_in_order_when_a_topic_gets_more_queues() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    set_queues(&servers, 1).await;
    ordered_group(&servers, "billing").await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    expect_nothing(&consumer).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let (moves, stays) = (group_of(5), group_of(0));
    let send = async |group: &str, number: u32| {
        producer.send(ordered(group, &format!("{group} {number}"))).await.unwrap()
    };
    send(&moves, 1).await;
    send(&stays, 1).await;
    set_queues(&servers, 7).await;
    // A consumer holds a message of the slot: later ones wait behind it, in the old queue, also after a crash.
    let held = consumer.receive(1, Duration::from_secs(60)).await.unwrap().remove(0);
    assert_eq!(body(&held), format!("{moves} 1"));
    assert_ne!(moving_slots(&servers).await, 0);
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_ne!(moving_slots(&servers).await, 0);
    send(&moves, 2).await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        for delivery in consumer.receive(8, Duration::from_secs(60)).await.unwrap() {
            consumer.ack(&delivery).await.unwrap();
            received.push(body(&delivery).to_owned());
        }
    }
    received.retain(|body| body.starts_with(&format!("{moves} ")));
    assert_eq!(received, [format!("{moves} 1"), format!("{moves} 2")]);
    // Everything is done, so the groups go where they belong.
    eventually("the message groups have moved", PATIENCE, async || moving_slots(&servers).await == 0).await;
    let (moved, stayed) = (send(&moves, 3).await, send(&stays, 2).await);
    assert_eq!((moved.offset, stayed.offset), (0, 3));
}

#[tokio::test]
async fn half_messages_take_their_place_in_the_order_when_they_are_committed() {
    let servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    servers.create_topic("orders", "MIXED").await.unwrap();
    ordered_group(&servers, "billing").await;
    let producer = servers.client().producer().topic("orders");
    let checker = |half: &HalfMessage| -> Resolution { panic!("asked about {half:?}") };
    let producer = producer.transaction_checker_sync(checker).start().await.unwrap();
    let first = producer.send_in_transaction(ordered("a", "a2")).await.unwrap();
    let second = producer.send_in_transaction(ordered("a", "a3")).await.unwrap();
    producer.send(ordered("a", "a1")).await.unwrap();
    first.commit().await.unwrap();
    second.commit().await.unwrap();
    producer.send(ordered("a", "a4")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let batch = receive(&consumer, 4).await;
    assert_eq!(batch.iter().map(body).collect::<Vec<_>>(), ["a1", "a2", "a3", "a4"]);
    assert!(batch.iter().all(|delivery| delivery.message().message_group() == Some("a")));
}
