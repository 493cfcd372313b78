//! Scheduled messages: never early, once, in order of their times, across restarts; recalled or delivered, never both.

use std::time::{Duration, SystemTime};

use kerolox_client::{Delivery, Message, Producer, SimpleConsumer};
use kerolox_proto::v2::Code;

use kerolox_harness::Cluster;

use crate::support::{
    NO_CHECKS, bodies, body, cluster_of, consume, expect_nothing, message, receive, receive_one, refusal,
    standalone, standalone_with,
};
use crate::transactions::undecided;

async fn started(servers: &Cluster, topic: &str) -> Producer {
    servers.client().producer().topic(topic).start().await.unwrap()
}

fn after(topic: &str, body: &str, delay: Duration) -> Message {
    Message::builder(topic).body(body.to_owned()).deliver_after(delay).build()
}

/// Receives one message and holds it to its delivery time; the clocks are the same.
async fn receive_in_time(consumer: &SimpleConsumer) -> Delivery {
    let delivery = receive_one(consumer).await;
    let wanted = delivery.message().delivery_timestamp().expect("consumers see the delivery time");
    assert!(SystemTime::now() >= wanted, "{} came early", body(&delivery));
    delivery
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_delayed_message_comes_in_its_time_and_once() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("reminders", "DELAY").await.unwrap();
    let (producer, consumer) =
        (started(&servers, "reminders").await, servers.consumer("desk", "reminders").await.unwrap());
    // In the order of their times, not of their sends.
    for (body, seconds) in [("third", 4), ("second", 3), ("first", 2)] {
        let receipt = producer.send(after("reminders", body, SECOND * seconds)).await.unwrap();
        assert!(receipt.recall_handle.is_some());
    }
    let past = Message::builder("reminders").body("past").delivery_timestamp(SystemTime::UNIX_EPOCH).build();
    assert_eq!(producer.send(past).await.unwrap().recall_handle, None, "there is nothing to recall");
    for expected in ["past", "first", "second", "third"] {
        let delivery = receive_in_time(&consumer).await;
        assert_eq!((body(&delivery), delivery.attempt()), (expected, 1));
        consumer.ack(&delivery).await.unwrap();
    }
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn a_recalled_message_never_comes_and_the_answer_is_true() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("reminders", "DELAY").await.unwrap();
    servers.create_topic("others", "DELAY").await.unwrap();
    let (producer, consumer) =
        (started(&servers, "reminders").await, servers.consumer("desk", "reminders").await.unwrap());
    let late = producer.send(after("reminders", "late", SECOND)).await.unwrap();
    let late = late.recall_handle.unwrap();
    for round in 0..4 {
        // Whichever broker is asked, the owner answers.
        let sent = producer.send(after("reminders", "recalled", 3 * SECOND)).await.unwrap();
        let handle = sent.recall_handle.unwrap();
        assert_eq!(refusal(producer.recall("others", &handle).await), Code::BadRequest, "round {round}");
        assert_eq!(producer.recall("reminders", &handle).await.unwrap(), sent.message_id);
        let again = producer.recall("reminders", &handle).await.unwrap_err();
        assert!(again.to_string().contains("recalled before"), "{again}");
        assert_eq!(again.code().unwrap(), Code::NotFound);
    }
    assert_eq!(consume(&consumer, 1).await, ["late"]);
    let too_late = producer.recall("reminders", &late).await.unwrap_err();
    assert!(too_late.to_string().contains("delivered before"), "{too_late}");
    assert_eq!(too_late.code().unwrap(), Code::NotFound);
    assert_eq!(refusal(producer.recall("reminders", "nonsense").await), Code::BadRequest);
    tokio::time::sleep(3 * SECOND).await;
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn what_came_due_while_the_broker_was_down_comes_in_order_afterwards() {
    let mut servers = standalone(&[]);
    servers.create_topic("reminders", "DELAY").await.unwrap();
    let producer = started(&servers, "reminders").await;
    for (body, delay) in [("3", 3 * SECOND), ("1", SECOND), ("2", 2 * SECOND), ("never", HOUR)] {
        producer.send(after("reminders", body, delay)).await.unwrap();
    }
    let recalled = producer.send(after("reminders", "recalled", SECOND)).await.unwrap();
    producer.recall("reminders", &recalled.recall_handle.unwrap()).await.unwrap();
    servers.brokers[0].kill().unwrap();
    tokio::time::sleep(4 * SECOND).await;
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("desk", "reminders").await.unwrap();
    let received = receive(&consumer, 3).await;
    assert_eq!(bodies(&received), ["1", "2", "3"]);
    for queue in 0..2 {
        let of_queue: Vec<&str> =
            received.iter().filter(|delivery| delivery.queue_id() == queue).map(body).collect();
        assert!(of_queue.is_sorted(), "queue {queue}: {of_queue:?}");
    }
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn a_committed_message_waits_for_its_time() {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("payments", "MIXED").await.unwrap();
    let producer = crate::transactions::producer(&servers, |half| panic!("asked about {half:?}")).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let early = producer.send_in_transaction(after("payments", "early", 4 * SECOND)).await.unwrap();
    let overdue = producer.send_in_transaction(after("payments", "overdue", SECOND)).await.unwrap();
    let recalled = producer.send_in_transaction(after("payments", "recalled", 4 * SECOND)).await.unwrap();
    let handle = recalled.receipt().recall_handle.clone().unwrap();
    let open = producer.recall("payments", &handle).await.unwrap_err();
    assert!(open.to_string().contains("roll it back"), "{open}");
    early.commit().await.unwrap();
    early.commit().await.expect("a repeated decision is harmless");
    assert_eq!(refusal(early.rollback().await), Code::PreconditionFailed);
    recalled.commit().await.unwrap();
    assert_eq!(producer.recall("payments", &handle).await.unwrap(), recalled.message_id());
    assert_eq!(undecided(&servers).await, 1);
    tokio::time::sleep(SECOND).await;
    overdue.commit().await.unwrap();
    for expected in ["overdue", "early"] {
        let delivery = receive_in_time(&consumer).await;
        assert_eq!(body(&delivery), expected);
        consumer.ack(&delivery).await.unwrap();
    }
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn messages_of_a_group_take_their_places_when_they_are_due() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "MIXED").await.unwrap();
    crate::fifo::ordered_group(&servers, "billing").await;
    let (producer, consumer) =
        (started(&servers, "orders").await, servers.consumer("billing", "orders").await.unwrap());
    let of_group = |body: &str| Message::builder("orders").body(body.to_owned()).message_group("g");
    producer.send(of_group("second").deliver_after(2 * SECOND).build()).await.unwrap();
    producer.send(of_group("third").deliver_after(3 * SECOND).build()).await.unwrap();
    producer.send(of_group("first").build()).await.unwrap();
    for expected in ["first", "second", "third"] {
        // The lane of the group gives nothing else out meanwhile.
        let delivery = receive_one(&consumer).await;
        assert_eq!(body(&delivery), expected);
        consumer.ack(&delivery).await.unwrap();
    }
    servers.create_topic("delays", "DELAY").await.unwrap();
    let both = Message::builder("delays").body("x").message_group("g").deliver_after(SECOND).build();
    let refused = producer.send(both).await.unwrap_err();
    assert!(refused.to_string().contains("DELAY and FIFO"), "{refused}");
}

#[tokio::test]
async fn classic_delay_levels_and_the_limit_are_the_operators() {
    let settings =
        [("KEROLOX_BROKER__TIMERS__DELAY_LEVELS", "2s,1h"), ("KEROLOX_BROKER__LIMITS__MAX_DELAY", "1d")];
    let servers = standalone_with(&[], &settings);
    servers.create_topic("reminders", "DELAY").await.unwrap();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let (producer, consumer) =
        (started(&servers, "reminders").await, servers.consumer("desk", "reminders").await.unwrap());
    let of_level = |topic: &str, level: &str| {
        Message::builder(topic).body(level.to_owned()).property("DELAY", level).build()
    };
    producer.send(of_level("reminders", "1")).await.unwrap();
    producer.send(of_level("reminders", "18")).await.unwrap();
    let delivery = receive_in_time(&consumer).await;
    assert_eq!(body(&delivery), "1");
    consumer.ack(&delivery).await.unwrap();
    expect_nothing(&consumer).await;
    assert_eq!(refusal(producer.send(of_level("reminders", "soon")).await), Code::IllegalDeliveryTime);
    let code = refusal(producer.send(of_level("orders", "1")).await);
    assert_eq!(code, Code::MessagePropertyConflictWithType, "nothing is stripped");
    producer.send(of_level("orders", "0")).await.expect("level 0 is no delay");
    let tomorrow = after("reminders", "x", 25 * HOUR);
    assert_eq!(refusal(producer.send(tomorrow).await), Code::IllegalDeliveryTime);
    assert_eq!(
        refusal(producer.send(message("reminders", "no time")).await),
        Code::MessagePropertyConflictWithType
    );
}
