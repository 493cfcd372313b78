//! The test kit itself.

use crate::{INVISIBLE, bodies, message, producer};
use kerolox_client::{Error, FilterExpression, RetryPolicy};
use kerolox_testkit::{TestBroker, TopicType};

#[tokio::test]
async fn two_brokers_share_nothing() {
    let (one, two) = (TestBroker::start().unwrap(), TestBroker::start().unwrap());
    for (broker, text) in [(&one, "one"), (&two, "two")] {
        broker.create_topic("orders", TopicType::Normal).await.unwrap();
        producer(broker, "orders").await.send(message("orders", text)).await.unwrap();
    }
    for (broker, text) in [(&one, "one"), (&two, "two")] {
        let consumer =
            broker.client().simple_consumer("billing").subscribe("orders", FilterExpression::all());
        let received = consumer.start().await.unwrap().receive(2, INVISIBLE).await.unwrap();
        assert_eq!(bodies(&received), [text]);
    }
}

#[tokio::test]
async fn messages_outlive_a_restart_and_nobody_answers_in_between() {
    let mut broker = TestBroker::start().unwrap();
    let endpoint = broker.endpoint().to_owned();
    let producer = broker.client().producer().retry_policy(RetryPolicy::never()).start().await.unwrap();
    producer.send(message("orders", "before")).await.unwrap();
    broker.stop();
    let error = producer.send(message("orders", "no broker there")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Broken { .. }), "{error}");
    broker.restart().unwrap();
    assert_eq!(broker.endpoint(), endpoint);
    producer.send(message("orders", "after")).await.unwrap();
    let consumer = broker.client().simple_consumer("billing").subscribe("orders", FilterExpression::all());
    let consumer = consumer.start().await.unwrap();
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(consumer.receive(2, INVISIBLE).await.unwrap());
    }
    assert_eq!(bodies(&received), ["after", "before"]);
}

#[test]
fn a_test_without_a_runtime_can_have_one_and_settings_count() {
    let folder = std::env::temp_dir().join(format!("kerolox-testkit-{}", std::process::id()));
    let broker = TestBroker::builder().setting("topics.auto-create", "off").data(&folder).start().unwrap();
    assert_eq!(broker.data(), folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async {
        let producer = broker.client().producer().start().await.unwrap();
        producer.send(message("orders", "x")).await.unwrap_err()
    });
    assert!(error.code().unwrap().is_not_found(), "{error}");
    drop(broker);
    assert!(folder.join("log").is_dir(), "a named folder stays");
    std::fs::remove_dir_all(&folder).unwrap();
}
