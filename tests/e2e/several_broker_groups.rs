//! Simple consumers of several broker groups: what one group has reaches a consumer that waits at another one.

use std::time::{Duration, Instant};

use kerolox_client::Message;
use kerolox_harness::ServerProcess;
use kerolox_proto::v2::{self, Code, LiteSubscriptionAction};

use crate::support::{
    INVISIBLE, PATIENCE, cluster_of, code, eventually, from_client, raw, received, resource,
};

const GROUPS: [&str; 3] = ["broker-a", "broker-b", "broker-c"];
const GROUP: &str = "agents";

/// One receive of `topic` from broker A, asked of `server`, that waits for up to 15 s.
async fn receive(server: &ServerProcess, topic: &str, max: i32) -> (Code, Vec<v2::Message>) {
    let request = from_client(v2::ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(v2::MessageQueue {
            topic: resource(topic),
            broker: Some(v2::Broker { name: GROUPS[0].to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        batch_size: max,
        invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
        long_polling_timeout: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
        ..Default::default()
    });
    received(raw(server).await.receive_message(request).await).await
}

/// Acknowledges at a server that is not the owner of the message.
async fn ack(server: &ServerProcess, topic: &str, message: &v2::Message) -> Code {
    let system = message.system_properties.as_ref().unwrap();
    let entry = v2::AckMessageEntry {
        message_id: system.message_id.clone(),
        receipt_handle: system.receipt_handle.clone().unwrap(),
        ..Default::default()
    };
    let request =
        v2::AckMessageRequest { group: resource(GROUP), topic: resource(topic), entries: vec![entry] };
    code(raw(server).await.ack_message(from_client(request)).await.unwrap().into_inner().status)
}

fn text(message: &v2::Message) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

/// The consumer waits at A while the message comes to B or C; directly, and through a nameserver.
#[tokio::test]
async fn an_idle_poll_is_answered_with_what_another_broker_group_has() {
    let servers = cluster_of(1, &GROUPS, &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for (owner, asked) in [(GROUPS[1], &servers.brokers[0]), (GROUPS[2], &servers.nameservers[0])] {
        let send = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let message = Message::builder("orders").body(owner).build();
            producer.send_to(owner, None, message).await.unwrap();
            Instant::now()
        };
        let wait = async { (receive(asked, "orders", 16).await, Instant::now()) };
        let (sent, ((found, messages), came)) = tokio::join!(send, wait);
        assert_eq!(found, Code::Ok, "nothing came from {owner}");
        assert_eq!(messages.iter().map(text).collect::<Vec<_>>(), [owner]);
        let waited = came.saturating_duration_since(sent);
        assert!(waited < Duration::from_secs(8), "it took {waited:?}");
        assert_eq!(ack(asked, "orders", &messages[0]).await, Code::Ok);
    }
    // Each was handed out once, and its acknowledgement has reached its owner.
    let consumer = servers.consumer(GROUP, "orders").await.unwrap();
    crate::support::expect_nothing(&consumer).await;
}

/// A lite simple consumer asks at one group only. It gets the messages of all, although that group always has some.
#[tokio::test]
async fn a_lite_consumer_of_one_broker_group_gets_the_messages_of_all() {
    let servers = cluster_of(1, &GROUPS, &[]);
    servers.create_topic("sessions", "LITE").await.unwrap();
    let request = v2::SyncLiteSubscriptionRequest {
        action: LiteSubscriptionAction::CompleteAdd.into(),
        topic: resource("sessions"),
        group: resource(GROUP),
        lite_topic_set: vec!["one".to_owned(), "two".to_owned()],
        ..Default::default()
    };
    // Routes reach the brokers a moment after the topic is made.
    eventually("the subscription is known everywhere", PATIENCE, async || {
        let answer =
            raw(&servers.brokers[0]).await.sync_lite_subscription(from_client(request.clone())).await;
        code(answer.unwrap().into_inner().status) == Code::Ok
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = raw(&servers.brokers[0]).await.sync_lite_subscription(from_client(request)).await;
    assert_eq!(code(answer.unwrap().into_inner().status), Code::Ok);
    let producer = servers.client().producer().topic("sessions").start().await.unwrap();
    let send = async |owner: &str, name: &str| {
        let message = Message::builder("sessions").body(owner.to_owned()).lite_topic(name).build();
        producer.send_to(owner, None, message).await.unwrap();
    };
    for owner in GROUPS {
        send(owner, "one").await;
    }
    let mut missing = vec![GROUPS[1], GROUPS[2]];
    for poll in 0.. {
        assert!(poll < 100, "nothing of {missing:?} ever came");
        // Broker A never runs dry.
        send(GROUPS[0], "two").await;
        let (found, messages) = receive(&servers.brokers[0], "sessions", 1).await;
        assert_eq!(found, Code::Ok);
        for message in &messages {
            assert_eq!(ack(&servers.brokers[0], "sessions", message).await, Code::Ok);
            missing.retain(|owner| *owner != text(message));
        }
        if missing.is_empty() {
            break;
        }
    }
}

/// While another group does not answer, polls here go on as ever.
#[tokio::test]
async fn a_group_that_stands_still_holds_no_poll_up() {
    let mut servers = cluster_of(1, &GROUPS, &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    servers.brokers[1].pause().unwrap();
    servers.brokers[2].kill().unwrap();
    let send = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let message = Message::builder("orders").body("here").build();
        producer.send_to(GROUPS[0], None, message).await.unwrap();
        Instant::now()
    };
    let wait = async { (receive(&servers.brokers[0], "orders", 16).await, Instant::now()) };
    let (sent, ((found, messages), came)) = tokio::join!(send, wait);
    assert_eq!((found, messages.len()), (Code::Ok, 1));
    let waited = came.saturating_duration_since(sent);
    assert!(waited < Duration::from_secs(8), "it took {waited:?}");
    servers.brokers[1].resume().unwrap();
}

/// Two groups that stand still take longer than the poll: it is answered in its time all the same, before its client's deadline.
#[tokio::test]
async fn a_poll_ends_in_its_time_while_other_groups_stand_still() {
    let servers = cluster_of(1, &GROUPS, &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let mut broker = raw(&servers.brokers[0]).await;
    let request = v2::ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(v2::MessageQueue {
            topic: resource("orders"),
            broker: Some(v2::Broker { name: GROUPS[0].to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        batch_size: 1,
        invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
        long_polling_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    // Routes reach the brokers a moment after the topic is made.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for broker in &servers.brokers[1..] {
        broker.pause().unwrap();
    }
    let in_time = async || {
        let started = Instant::now();
        let mut answer = broker.receive_message(from_client(request.clone())).await.unwrap().into_inner();
        while answer.message().await.unwrap().is_some() {}
        started.elapsed() < Duration::from_millis(1_900)
    };
    // This holds before their leases end and the other servers stop asking them.
    eventually("a poll of a second takes no two", Duration::from_secs(7), in_time).await;
    for broker in &servers.brokers[1..] {
        broker.resume().unwrap();
    }
}
