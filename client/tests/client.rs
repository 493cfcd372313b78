//! What the client does when brokers misbehave in ways that a real one cannot be made to on demand. Everything else is
//! tested against real brokers.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod fake;

use fake::{FakeBroker, SendScript};
use hmac::{Hmac, KeyInit as _, Mac as _};
use kerolox_client::{
    BodyError, Client, Credentials, Error, Event, FilterExpression, Message, Operation, Producer, Resolution,
    RetryPolicy,
};
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code};
use sha1::Sha1;
use std::sync::{Arc, Mutex};
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
    let producer = client(&a).producer().may_duplicate(true).start().await.unwrap();
    a.state().send_scripts.push_back(SendScript::Silence);
    for _ in 0..6 {
        producer.send(order("x")).await.unwrap();
    }
    assert_eq!(a.state().sends.len(), 1, "after one timeout the healthy broker takes all");
    assert_eq!(b.state().sends.len(), 6);
}

#[tokio::test]
async fn a_message_that_may_be_stored_is_repeated_where_it_may_be() {
    let [a, b] = FakeBroker::start(["a", "b"]).await;
    let producer = producer(&a).await;
    for broker in [&a, &b] {
        broker.state().send_scripts.push_back(SendScript::Silence);
        broker.state().send_scripts.push_back(script(&[Code::TooManyRequests]));
    }
    let receipt = producer.send(order("x")).await.unwrap();
    let asked = |broker: &FakeBroker| -> Vec<String> {
        broker.state().sends.iter().map(|sent| message_id(&sent[0])).collect()
    };
    let (asked, other) = if receipt.broker == "a" { (asked(&a), asked(&b)) } else { (asked(&b), asked(&a)) };
    assert_eq!((asked.len(), other.len()), (3, 0), "it alone can tell a repetition");
    assert!(asked.iter().all(|id| *id == receipt.message_id), "{asked:?}");
}

#[tokio::test]
async fn retries_end_in_time() {
    let [a] = FakeBroker::start(["a"]).await;
    let policy = RetryPolicy::default().pauses(Duration::from_millis(1), Duration::from_millis(100));
    let policy = policy.within(Duration::from_millis(500));
    let producer = client(&a).producer().topic("orders").retry_policy(policy).start().await.unwrap();
    a.state().send_scripts.extend((0..1000).map(|_| script(&[Code::TooManyRequests])));
    let error = producer.send(order("x")).await.unwrap_err();
    assert!(error.code().unwrap().is_throttled(), "{error}");
    let attempts = a.state().sends.len();
    assert!(
        (8..=13).contains(&attempts),
        "{attempts} attempts, with pauses of 1, 2, 4, ... 64, 100, 100, ... ms"
    );
}

#[tokio::test]
async fn large_bodies_are_compressed_and_damage_on_the_way_is_told() {
    let [a] = FakeBroker::start(["a"]).await;
    let producer = client(&a).producer().compress_from(1000).start().await.unwrap();
    let message = |bytes| Message::builder("orders").body(vec![7; bytes]).build();
    producer.send(message(999)).await.unwrap();
    producer.send(message(1000)).await.unwrap();
    let sent: Vec<v2::Message> = a.state().sends.iter().map(|sent| sent[0].clone()).collect();
    assert_eq!(sent[0].body.len(), 999);
    assert!(sent[1].body.len() < 100);

    let consumer = client(&a).simple_consumer("billing").subscribe("orders", FilterExpression::all());
    let consumer = consumer.await_duration(Duration::from_millis(200)).start().await.unwrap();
    let packed = |checksum: &str| {
        let mut message = v2::Message { body: sent[1].body.clone(), ..delivery("1", "h") };
        let system = message.system_properties.as_mut().unwrap();
        system.body_encoding = v2::Encoding::Gzip.into();
        system.body_digest =
            Some(v2::Digest { r#type: v2::DigestType::Crc32.into(), checksum: checksum.to_owned() });
        message
    };
    let sum = format!("{:08X}", crc32fast::hash(&sent[1].body));
    a.state().to_deliver.extend([packed(&sum), packed("1234")]);
    let received = consumer.receive(2, Duration::from_secs(30)).await.unwrap();
    assert_eq!((received[0].message().body().len(), received[0].damage()), (1000, None));
    assert_eq!(received[1].damage(), Some(&BodyError::Checksum));
    assert_eq!(received[1].message().body(), &sent[1].body, "as it came");
}

#[tokio::test]
async fn requests_are_signed_and_observed() {
    let [a] = FakeBroker::start(["a"]).await;
    let events: Arc<Mutex<Vec<(Operation, usize, bool)>>> = Arc::default();
    let heard = Arc::clone(&events);
    let client = Client::builder(a.address.to_string())
        .credentials(Credentials::new("AK", "SK").session_token("token"))
        .observer(move |event: &Event<'_>| {
            assert_eq!(event.topic, "orders");
            heard.lock().unwrap().push((event.operation, event.messages, event.error.is_none()));
        })
        .build()
        .unwrap();
    let producer = client
        .producer()
        .transaction_checker_sync(|_| Resolution::Commit)
        .topic("orders")
        .start()
        .await
        .unwrap();
    a.state().send_scripts.push_back(script(&[Code::Ok, Code::TooManyRequests]));
    let sent = producer.send_batch(vec![order("1"), order("2")]).await;
    assert!(sent.iter().all(Result::is_ok));
    producer.send_in_transaction(order("3")).await.unwrap().commit().await.unwrap();
    a.stream().send(Ok(check_back("paid", "9"))).await.unwrap();
    a.until("the answer", |state| state.endings.len() == 2).await;
    let consumer = client.simple_consumer("billing").subscribe("orders", FilterExpression::all());
    let consumer = consumer.await_duration(Duration::from_millis(200)).start().await.unwrap();
    a.state().to_deliver.push_back(delivery("1", "stale"));
    let received = consumer.receive(1, Duration::from_secs(30)).await.unwrap();
    consumer.ack(&received[0]).await.unwrap_err();

    let headers = a.state().headers.clone();
    for request in &headers {
        let header = |name: &str| request.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("authorization"), signature("AK", "SK", &header("x-mq-date-time")));
        assert_eq!(header("x-mq-session-token"), "token");
    }
    assert!(headers.len() >= 6, "{headers:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut events = events.lock().unwrap().clone();
    events.sort_by_key(|(operation, ..)| format!("{operation:?}"));
    use Operation::{Ack, CheckBack, EndTransaction, Receive, Send};
    let expected = [
        (Ack, 1, false),
        (CheckBack, 1, true),
        (EndTransaction, 1, true),
        (EndTransaction, 1, true),
        (Receive, 1, true),
        (Send, 2, false),
        (Send, 1, true),
        (Send, 1, true),
    ];
    assert_eq!(events, expected);
}

/// As RocketMQ defines it.
fn signature(access_key: &str, secret_key: &str, date_time: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret_key.as_bytes()).unwrap();
    mac.update(date_time.as_bytes());
    let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
    format!("MQv2-HMAC-SHA1 Credential={access_key}, SignedHeaders=x-mq-date-time, Signature={signature}")
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
