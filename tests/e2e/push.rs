//! The push consumer of the Rust client: what listeners get, and what becomes of their verdicts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Delivery, FilterExpression, Message, PushConsumerBuilder, Verdict};

use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, INVISIBLE_MIN, PATIENCE, body, cluster_of, consume, create, eventually, expect_nothing, group,
    in_sync, master, message,
};

/// What listeners were given, in the order in which they began.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, u32)>>>);

impl Seen {
    fn note(&self, delivery: &Delivery) {
        self.0.lock().unwrap().push((body(delivery).to_owned(), delivery.attempt()));
    }

    fn all(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<String> {
        self.all().into_iter().map(|(body, _)| body).collect()
    }

    async fn wait_for(&self, count: usize) {
        eventually("listeners get messages", 3 * PATIENCE, async || self.all().len() >= count).await;
    }
}

/// The consumer group "billing" with short delays.
async fn billing(servers: &Cluster, retries: u32, is_fifo: bool) {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateGroupRequest {
        name: "billing".to_owned(),
        retry_max_times: Some(retries),
        fifo: Some(is_fifo),
        attributes: vec!["+retry.backoff=1s".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_group(request).await.unwrap();
}

/// A consumer that soon gets a delivery again if it was lost on its way, for example because a master died.
fn push(servers: &Cluster, topic: &str) -> PushConsumerBuilder {
    servers
        .client()
        .push_consumer("billing")
        .subscribe(topic, FilterExpression::all())
        .invisible_duration(INVISIBLE_MIN)
}

async fn send(servers: &Cluster, messages: impl IntoIterator<Item = Message>) {
    let producer = servers.client().producer().start().await.unwrap();
    for message in messages {
        producer.send(message).await.unwrap();
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:03}")).collect()
}

fn orders(count: usize) -> Vec<Message> {
    numbered(count).iter().map(|body| message("orders", body)).collect()
}

#[tokio::test]
async fn messages_come_to_the_listener_at_the_same_time_and_once() {
    const COUNT: usize = 100;
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let (seen, at_work, most) =
        (Seen::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = {
        let (seen, at_work, most) = (seen.clone(), at_work.clone(), most.clone());
        move |delivery: Arc<Delivery>| {
            let (seen, at_work, most) = (seen.clone(), at_work.clone(), most.clone());
            async move {
                most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                seen.note(&delivery);
                at_work.fetch_sub(1, Ordering::SeqCst);
                Verdict::Done
            }
        }
    };
    // Longer than a machine under load may stand still, so that none comes again.
    let consumer =
        push(&servers, "orders").invisible_duration(INVISIBLE).concurrency(4).start(listener).await.unwrap();
    send(&servers, orders(COUNT / 2)).await;
    seen.wait_for(COUNT / 2).await;
    send(&servers, (COUNT / 2..COUNT).map(|number| message("orders", &format!("{number:03}")))).await;
    seen.wait_for(COUNT).await;
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
    let mut bodies = seen.bodies();
    bodies.sort();
    assert_eq!(bodies, numbered(COUNT));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at the same time");
    expect_nothing(&servers.consumer("billing", "orders").await.unwrap()).await;
}

#[tokio::test]
async fn what_fails_comes_again_and_at_last_becomes_a_dead_letter() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    billing(&servers, 2, false).await;
    let seen = Seen::default();
    let listener = {
        let seen = seen.clone();
        move |delivery: Arc<Delivery>| {
            let seen = seen.clone();
            async move {
                seen.note(&delivery);
                match (body(&delivery), delivery.attempt()) {
                    ("panics once", 1) => panic!("as it should"),
                    ("fails once", 1) | ("always fails", _) => Err("not now"),
                    _ => Ok(()),
                }
            }
        }
    };
    let consumer = push(&servers, "orders").start(listener).await.unwrap();
    let sent = ["panics once", "fails once", "always fails", "is fine"];
    send(&servers, sent.map(|body| message("orders", body))).await;
    seen.wait_for(2 + 2 + 3 + 1).await;
    // It becomes one when its last delay is over.
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let admin = servers.client().admin().broker(&address);
    let request = wire::ListDeadLettersRequest { group: "billing".to_owned(), ..Default::default() };
    let is_dead = async || admin.list_dead_letters(request.clone()).await.unwrap().letters.len() == 1;
    eventually("one is a dead letter", PATIENCE, is_dead).await;
    let dead = servers.consumer("undertaker", "%DLQ%billing").await.unwrap();
    assert_eq!(consume(&dead, 1).await, ["always fails"]);
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
    let mut all = seen.all();
    all.sort();
    let expected = [
        ("always fails", 1),
        ("always fails", 2),
        ("always fails", 3),
        ("fails once", 1),
        ("fails once", 2),
        ("is fine", 1),
        ("panics once", 1),
        ("panics once", 2),
    ];
    assert_eq!(all, expected.map(|(body, attempt)| (body.to_owned(), attempt)));
}

#[tokio::test]
async fn a_message_group_comes_in_order_and_a_failure_holds_up_only_its_own() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    billing(&servers, 1, true).await;
    let seen = Seen::default();
    let listener = {
        let seen = seen.clone();
        move |delivery: Arc<Delivery>| {
            seen.note(&delivery);
            let verdict = match (body(&delivery), delivery.attempt()) {
                // Longer than it is received for.
                ("a1", 1) => Verdict::AgainIn(INVISIBLE_MIN + Duration::from_secs(2)),
                ("a2", _) => Verdict::Again,
                ("b2", _) => Verdict::GiveUp,
                _ => Verdict::Done,
            };
            std::future::ready(verdict)
        }
    };
    let consumer = push(&servers, "orders").start(listener).await.unwrap();
    let ordered =
        |body: &str| Message::builder("orders").body(body.to_owned()).message_group(&body[..1]).build();
    send(&servers, ["a1", "b1", "a2", "b2", "a3", "b3"].map(ordered)).await;
    seen.wait_for(4).await;
    let first: Vec<String> = seen.bodies().into_iter().take(4).filter(|body| body.starts_with('b')).collect();
    assert_eq!(first, ["b1", "b2", "b3"], "while a1 waits for its second attempt: {seen:?}");
    seen.wait_for(8).await;
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
    let of = |group: char| -> Vec<(String, u32)> {
        seen.all().into_iter().filter(|(body, _)| body.starts_with(group)).collect()
    };
    let expected = [("a1", 1), ("a1", 2), ("a2", 1), ("a2", 2), ("a3", 1)];
    assert_eq!(of('a'), expected.map(|(body, attempt)| (body.to_owned(), attempt)));
    assert_eq!(of('b').len(), 3, "{seen:?}");
    let mut dead = consume(&servers.consumer("undertaker", "%DLQ%billing").await.unwrap(), 2).await;
    dead.sort();
    assert_eq!(dead, ["a2", "b2"]);
    expect_nothing(&servers.consumer("billing", "orders").await.unwrap()).await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_at_work_and_leaves_the_rest_to_others() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let seen = Seen::default();
    let listener = {
        let seen = seen.clone();
        move |delivery: Arc<Delivery>| {
            let seen = seen.clone();
            async move {
                seen.note(&delivery);
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok::<_, String>(())
            }
        }
    };
    let consumer = push(&servers, "orders").concurrency(1).start(listener).await.unwrap();
    send(&servers, orders(10)).await;
    seen.wait_for(1).await;
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
    let done = seen.bodies();
    assert!(done.len() < 10, "{done:?}");
    // What no listener has begun is given back at once.
    let mut others = consume(&servers.consumer("billing", "orders").await.unwrap(), 10 - done.len()).await;
    others.extend(done);
    others.sort();
    assert_eq!(others, numbered(10));
}

#[tokio::test]
async fn a_listener_that_is_slow_keeps_its_messages_and_gets_no_more_than_there_is_room_for() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let stuck = Arc::new(tokio::sync::Semaphore::new(0));
    let listener = {
        let stuck = stuck.clone();
        move |_: Arc<Delivery>| {
            let stuck = stuck.clone();
            async move {
                stuck.acquire().await.unwrap().forget();
                Verdict::Done
            }
        }
    };
    let consumer = push(&servers, "orders").cached_messages(5).concurrency(2);
    let consumer = consumer.start(listener).await.unwrap();
    send(&servers, orders(200)).await;
    eventually("the room fills", PATIENCE, async || consumer.cached_messages() >= 5).await;
    tokio::time::sleep(INVISIBLE_MIN + Duration::from_secs(1)).await;
    let held = consumer.cached_messages();
    assert!((5..5 + 32).contains(&held), "{held} messages are held");
    // No other consumer gets held messages.
    let other = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&other, 200 - held).await.len(), 200 - held);
    expect_nothing(&other).await;
    stuck.add_permits(200);
    eventually("the rest is done", PATIENCE, async || consumer.cached_messages() == 0).await;
    // One that is with its listener still is counted, and acknowledged when that is done.
    stuck.forget_permits(200);
    send(&servers, orders(1)).await;
    eventually("one is at work", PATIENCE, async || consumer.cached_messages() == 1).await;
    assert_eq!(consumer.shutdown(Duration::from_millis(100)).await, 1);
    stuck.add_permits(1);
    tokio::time::sleep(INVISIBLE_MIN + Duration::from_secs(2)).await;
    expect_nothing(&other).await;
}

#[tokio::test]
async fn a_push_consumer_goes_on_through_an_election() {
    const COUNT: usize = 60;
    let mut servers = group(3, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let seen = Seen::default();
    let listener = {
        let seen = seen.clone();
        move |delivery: Arc<Delivery>| {
            seen.note(&delivery);
            std::future::ready(Verdict::Done)
        }
    };
    let consumer = push(&servers, "orders").start(listener).await.unwrap();
    send(&servers, orders(COUNT / 2)).await;
    seen.wait_for(COUNT / 2).await;
    let old = master(&servers).await;
    servers.brokers[old].kill().unwrap();
    eventually("another one rules", PATIENCE, async || master(&servers).await != old).await;
    servers.brokers[old].start().unwrap();
    in_sync(&servers, 3).await;
    send(&servers, (COUNT / 2..COUNT).map(|number| message("orders", &format!("{number:03}")))).await;
    let all = async || seen.bodies().into_iter().collect::<BTreeSet<_>>().len() == COUNT;
    eventually("all messages come", 3 * PATIENCE, all).await;
    assert_eq!(consumer.shutdown(PATIENCE).await, 0);
}
