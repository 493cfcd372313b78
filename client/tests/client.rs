//! What the client does when brokers misbehave in ways that a real one cannot be made to on demand. Everything else is
//! tested against real brokers.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod fake;

use fake::{FakeBroker, SendScript};
use kerolox_client::{Client, Error, FilterExpression, Message, Producer, Resolution};
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code};
use std::time::Duration;

fn client(broker: &FakeBroker) -> Client {
    Client::builder(broker.address.to_string()).request_timeout(Duration::from_millis(500)).build().unwrap()
}

async fn producer(broker: &FakeBroker) -> Producer {
    client(broker)
        .producer()
        .topic("orders")
        .transaction_checker(|half| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match half.message().tag() {
                Some("paid") => Resolution::Commit,
                Some("failed") => Resolution::Rollback,
                _ => Resolution::Unknown,
            }
        })
        .start()
        .await
        .unwrap()
}

fn order(tag: &str) -> Message {
    Message::builder("orders").body("body").tag(tag).build()
}

fn message_id(message: &v2::Message) -> String {
    message.system_properties.as_ref().unwrap().message_id.clone()
}

fn script(codes: &[Code]) -> SendScript {
    SendScript::Codes(codes.to_vec())
}

#[tokio::test]
async fn a_throttled_send_goes_to_the_other_broker_under_the_same_id() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let producer = producer(&a).await;
    // Whichever broker comes first refuses.
    a.state().send_scripts.push_back(script(&[Code::TooManyRequests]));
    b.state().send_scripts.push_back(script(&[Code::TooManyRequests]));
    let receipt = producer.send(order("x")).await.unwrap();
    let sends: Vec<(&str, String)> = [&a, &b]
        .iter()
        .flat_map(|broker| {
            broker.state().sends.iter().map(|s| (broker.name, message_id(&s[0]))).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(sends.len(), 3, "two refusals, one success: {sends:?}");
    assert!(sends.iter().any(|(name, _)| *name == "a") && sends.iter().any(|(name, _)| *name == "b"));
    assert!(sends.iter().all(|(_, id)| *id == receipt.message_id), "{sends:?}");
}

#[tokio::test]
async fn a_refusal_for_good_is_not_repeated() {
    let [a] = FakeBroker::start(["a"]).await;
    let producer = producer(&a).await;
    a.state().send_scripts.push_back(script(&[Code::MessageBodyEmpty]));
    let error = producer.send(order("x")).await.unwrap_err();
    assert!(
        error.code().unwrap() == Code::MessageBodyEmpty && error.to_string().contains("scripted"),
        "{error}"
    );
    assert_eq!(a.state().sends.len(), 1);
}

#[tokio::test]
async fn of_a_batch_only_the_failed_messages_are_repeated() {
    let [a] = FakeBroker::start(["a"]).await;
    let producer = producer(&a).await;
    let codes = [Code::Ok, Code::InternalServerError, Code::MessagePropertyConflictWithType];
    a.state().send_scripts.push_back(script(&codes));
    let results = producer.send_batch(vec![order("1"), order("2"), order("3")]).await;
    let succeeded: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(succeeded, [true, true, false]);
    let state = a.state();
    assert_eq!(state.sends[1].len(), 1);
    assert_eq!(message_id(&state.sends[1][0]), message_id(&state.sends[0][1]));
}

#[tokio::test]
async fn a_half_message_that_may_be_stored_is_not_sent_again() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let producer = producer(&a).await;
    a.state().send_scripts.push_back(SendScript::Silence);
    b.state().send_scripts.push_back(SendScript::Silence);
    let error = producer.send_in_transaction(order("x")).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(a.state().sends.len() + b.state().sends.len(), 1);
}

#[tokio::test]
async fn a_dead_broker_is_avoided() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let producer = producer(&a).await;
    a.state().send_scripts.push_back(SendScript::Silence);
    for _ in 0..6 {
        producer.send(order("x")).await.unwrap();
    }
    assert_eq!(a.state().sends.len(), 1, "after one timeout the healthy broker takes all");
    assert_eq!(b.state().sends.len(), 6);
}

#[tokio::test]
async fn transactions_end_where_their_half_message_is() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let producer = producer(&a).await;
    for _ in 0..2 {
        let transaction = producer.send_in_transaction(order("x")).await.unwrap();
        transaction.commit().await.unwrap();
    }
    for broker in [&a, &b] {
        let state = broker.state();
        let id = message_id(&state.sends[0][0]);
        assert_eq!(state.endings.len(), 1, "{}", broker.name);
        assert_eq!(state.endings[0].transaction_id, format!("tx-{id}"));
        assert_eq!(state.endings[0].resolution(), v2::TransactionResolution::Commit);
        assert_eq!(state.endings[0].source(), v2::TransactionSource::SourceClient);
    }
}

#[tokio::test]
async fn transactions_need_a_checker_and_a_declared_topic() {
    let [a] = FakeBroker::start(["a"]).await;
    let without_checker = client(&a).producer().topic("orders").start().await.unwrap();
    assert!(matches!(without_checker.send_in_transaction(order("x")).await, Err(Error::Invalid(_))));
    let undeclared = producer(&a).await;
    let other = Message::builder("other").body("b").build();
    assert!(matches!(undeclared.send_in_transaction(other).await, Err(Error::Invalid(_))));
    assert!(a.state().sends.is_empty());
}

fn check_back(tag: &str, id: &str) -> v2::TelemetryCommand {
    let system = v2::SystemProperties { message_id: id.into(), tag: Some(tag.into()), ..Default::default() };
    let topic = Some(v2::Resource { resource_namespace: String::new(), name: "orders".into() });
    let message = v2::Message { topic, system_properties: Some(system), ..Default::default() };
    let check =
        v2::RecoverOrphanedTransactionCommand { message: Some(message), transaction_id: format!("tx-{id}") };
    v2::TelemetryCommand { status: None, command: Some(Command::RecoverOrphanedTransactionCommand(check)) }
}

#[tokio::test]
async fn check_backs_are_answered_where_they_came_from() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let _producer = producer(&a).await;
    for (tag, id) in [("paid", "1"), ("failed", "2"), ("?", "3")] {
        b.stream().send(Ok(check_back(tag, id))).await.unwrap();
    }
    b.until("three answers", |state| state.endings.len() == 3).await;
    assert!(a.state().endings.is_empty());
    let mut answers: Vec<(String, v2::TransactionResolution)> =
        b.state().endings.iter().map(|ending| (ending.transaction_id.clone(), ending.resolution())).collect();
    answers.sort();
    use v2::TransactionResolution::{Commit, Rollback, Unspecified};
    assert_eq!(answers, [("tx-1".into(), Commit), ("tx-2".into(), Rollback), ("tx-3".into(), Unspecified)]);
    assert!(b.state().endings.iter().all(|e| e.source() == v2::TransactionSource::SourceServerCheck));
}

#[tokio::test]
async fn a_broken_telemetry_stream_is_opened_again_and_works() {
    let [a] = FakeBroker::start(["a"]).await;
    let _producer = producer(&a).await;
    a.stream().send(Err(tonic::Status::unavailable("scripted"))).await.unwrap();
    a.until("a second stream", |state| state.telemetry.len() == 2).await;
    a.stream().send(Ok(check_back("paid", "9"))).await.unwrap();
    a.until("the answer", |state| state.endings.len() == 1).await;
}

#[tokio::test]
async fn new_topics_are_announced_to_the_brokers() {
    let [a] = FakeBroker::start(["a"]).await;
    let producer = client(&a).producer().topic("orders").start().await.unwrap();
    producer.send(Message::builder("invoices").body("b").build()).await.unwrap();
    a.until("new settings", |state| {
        let Some((v2::Settings { pub_sub: Some(v2::settings::PubSub::Publishing(publishing)), .. }, _)) =
            state.telemetry.last()
        else {
            return false;
        };
        publishing.topics.iter().map(|topic| topic.name.as_str()).eq(["orders", "invoices"])
    })
    .await;
}

#[tokio::test]
async fn shutdown_says_goodbye_and_dropping_ends_the_streams() {
    let [a] = FakeBroker::start(["a"]).await;
    let (first, second) = (producer(&a).await, producer(&a).await);
    a.until("heartbeats", |state| state.heartbeats >= 2).await;
    first.shutdown().await;
    assert_eq!(a.state().terminations, 1);
    drop(second);
    a.until("both streams to end", |state| state.telemetry_ended == 2).await;
    assert_eq!(a.state().terminations, 1, "dropping is silent");
}

#[tokio::test]
async fn a_missing_topic_is_reported_at_the_start() {
    let [a] = FakeBroker::start(["a"]).await;
    let error = client(&a).producer().topic("missing").start().await.unwrap_err();
    assert_eq!(error.code().map(|code| code == Code::TopicNotFound), Some(true));
}

fn delivery(id: &str, handle: &str) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: id.into(),
        receipt_handle: Some(handle.into()),
        delivery_attempt: Some(2),
        queue_offset: Some(7),
        ..Default::default()
    };
    let topic = Some(v2::Resource { resource_namespace: String::new(), name: "orders".into() });
    v2::Message { topic, system_properties: Some(system), body: "body".into(), ..Default::default() }
}

#[tokio::test]
async fn a_simple_consumer_receives_extends_and_acknowledges() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let consumer = client(&a)
        .simple_consumer("billing")
        .subscribe("orders", FilterExpression::tag("paid"))
        .await_duration(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    b.state().to_deliver.extend([delivery("1", "h1"), delivery("2", "stale")]);
    let mut received = Vec::new();
    for _ in 0..2 {
        received.extend(consumer.receive(16, Duration::from_secs(30)).await.unwrap());
    }
    assert_eq!((a.state().receives.len(), b.state().receives.len()), (1, 1), "brokers take turns");
    let request = b.state().receives[0].clone();
    assert_eq!(request.filter_expression.unwrap().expression, "paid");
    assert_eq!(request.message_queue.unwrap().id, -1, "as assigned");

    let [first, stale] = &mut received[..] else { panic!("not two: {received:?}") };
    assert_eq!((first.message_id(), first.attempt(), first.offset(), first.broker()), ("1", 2, 7, "b"));
    consumer.change_invisible(first, Duration::from_secs(60)).await.unwrap();
    consumer.ack(first).await.unwrap();
    let error = consumer.ack(stale).await.unwrap_err();
    assert!(error.code().unwrap() == Code::InvalidReceiptHandle, "{error}");
    let handles: Vec<String> =
        b.state().acks.iter().map(|ack| ack.entries[0].receipt_handle.clone()).collect();
    assert_eq!(handles, ["h1+", "stale"], "the new handle, and no retry of a stale one");
    consumer.shutdown().await;
    assert_eq!((a.state().terminations, b.state().terminations), (1, 1));
}
