//! Compressed bodies on their way through a broker.

use crate::INVISIBLE;
use bytes::Bytes;
use kerolox_client::{FilterExpression, Message, Resolution};
use kerolox_testkit::{TestBroker, TopicType};

#[tokio::test]
async fn a_compressed_body_comes_as_it_was_also_to_checkers() {
    let broker = TestBroker::builder().setting("transaction.first-check", "100ms").start().unwrap();
    broker.create_topic("orders", TopicType::Transaction).await.unwrap();
    let large = Bytes::from("abc".repeat(100_000));
    let expected = large.clone();
    let producer = broker.client().producer().topic("orders").compress_from(1000);
    let producer = producer
        .transaction_checker_sync(move |half| {
            let is_it = half.damage().is_none() && half.message().body() == &expected;
            if is_it { Resolution::Commit } else { Resolution::Rollback }
        })
        .start()
        .await
        .unwrap();
    // The check-back decides.
    drop(producer.send_in_transaction(Message::builder("orders").body(large.clone()).build()).await.unwrap());
    let consumer = broker.client().simple_consumer("billing").subscribe("orders", FilterExpression::all());
    let received = consumer.start().await.unwrap().receive(1, INVISIBLE).await.unwrap();
    assert_eq!((received[0].message().body(), received[0].damage()), (&large, None));
}
