//! Deliveries as a stream.

use crate::{INVISIBLE, MOMENT, PATIENCE, body, message, producer};
use futures_util::{StreamExt as _, TryStreamExt as _};
use kerolox_client::{FilterExpression, SimpleConsumer};
use kerolox_testkit::TestBroker;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

async fn consumer(broker: &TestBroker) -> SimpleConsumer {
    let consumer = broker.client().simple_consumer("billing").subscribe("orders", FilterExpression::all());
    consumer.await_duration(Duration::from_millis(200)).start().await.unwrap()
}

#[tokio::test]
async fn a_stream_goes_on_over_empty_receives_and_a_restart() {
    let mut broker = TestBroker::start().unwrap();
    let producer = producer(&broker, "orders").await;
    producer.send(message("orders", "0")).await.unwrap();
    let consumer = consumer(&broker).await;
    let mut seen = BTreeSet::new();
    {
        let mut deliveries = pin!(consumer.deliveries(4, INVISIBLE));
        let first = deliveries.try_next().await.unwrap().unwrap();
        consumer.ack(&first).await.unwrap();
        assert!(tokio::time::timeout(MOMENT, deliveries.next()).await.is_err(), "nothing there");
        broker.restart().unwrap();
        for number in 1..10 {
            producer.send(message("orders", &number.to_string())).await.unwrap();
        }
        while seen.len() < 9 {
            let next = tokio::time::timeout(PATIENCE, deliveries.try_next()).await.unwrap();
            let delivery = next.unwrap().unwrap();
            consumer.ack(&delivery).await.unwrap();
            seen.insert(body(delivery.message()).to_owned());
        }
    }
    assert_eq!(seen, (1..10).map(|number| number.to_string()).collect());
}

#[tokio::test]
async fn what_no_repetition_mends_is_told() {
    let broker = TestBroker::start().unwrap();
    producer(&broker, "orders").await.send(message("orders", "0")).await.unwrap();
    let consumer = consumer(&broker).await;
    // Shorter than the protocol allows.
    let mut deliveries = pin!(consumer.deliveries(4, Duration::from_millis(1)));
    let error = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap().unwrap().unwrap_err();
    assert!(!error.is_retryable(), "{error}");
}
