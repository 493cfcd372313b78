//! The pull consumer.

use crate::{PATIENCE, body, message, producer};
use futures_util::TryStreamExt as _;
use kerolox_client::admin::wire::UpdateTopicRequest;
use kerolox_client::{
    Code, Error, FilterExpression, Message, MessageQueue, Position, PullConsumer, PulledMessage,
};
use kerolox_testkit::TestBroker;
use std::pin::pin;
use std::time::{Duration, SystemTime};

async fn one_queue(broker: &TestBroker) {
    let request = UpdateTopicRequest {
        name: "orders".to_owned(),
        read_queues: Some(1),
        write_queues: Some(1),
        ..Default::default()
    };
    broker.admin().update_topic(request).await.unwrap();
}

async fn consumer(broker: &TestBroker) -> (PullConsumer, MessageQueue) {
    let consumer = broker.client().pull_consumer("auditors").await_duration(Duration::from_millis(200));
    let consumer = consumer.start().await.unwrap();
    let queues = consumer.queues("orders").await.unwrap();
    assert_eq!(queues.len(), 1);
    (consumer, queues[0].clone())
}

fn texts(messages: &[PulledMessage]) -> Vec<&str> {
    messages.iter().map(|pulled| body(pulled.message())).collect()
}

#[tokio::test]
async fn positions_are_found_read_and_kept() {
    let broker = TestBroker::start().unwrap();
    one_queue(&broker).await;
    let sender = producer(&broker, "orders").await;
    for number in 0..5 {
        sender.send(message("orders", &number.to_string())).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = SystemTime::now();
    for number in 5..10 {
        sender.send(message("orders", &number.to_string())).await.unwrap();
    }
    let (consumer, queue) = consumer(&broker).await;
    let at = async |position| consumer.offset(&queue, position).await.unwrap();
    assert_eq!((at(Position::Earliest).await, at(Position::Latest).await), (0, 10));
    assert_eq!((at(Position::Since(middle)).await, at(Position::Offset(3)).await), (5, 3));
    assert_eq!((at(Position::Tail(2)).await, at(Position::Tail(50)).await), (8, 0));
    assert_eq!((consumer.committed(&queue).await.unwrap(), at(Position::Committed).await), (None, 0));

    let pulled = consumer.pull(&queue, 3, 4).await.unwrap();
    assert_eq!((texts(&pulled.messages), pulled.next_offset), (vec!["3", "4", "5", "6"], 7));
    let first = &pulled.messages[0];
    assert_eq!((first.queue(), first.offset(), first.damage()), (&queue, 3, None));
    consumer.commit(&queue, pulled.next_offset).await.unwrap();
    assert_eq!((consumer.committed(&queue).await.unwrap(), at(Position::Committed).await), (Some(7), 7));
    let nothing = consumer.pull(&queue, 10, 4).await.unwrap();
    assert_eq!((nothing.messages.len(), nothing.next_offset), (0, 10));

    let refused = |result: Result<(), Error>| result.unwrap_err().code().unwrap();
    assert_eq!(refused(consumer.pull(&queue, 11, 1).await.map(drop)), Code::ILLEGAL_OFFSET);
    assert_eq!(refused(consumer.commit(&queue, 11).await), Code::ILLEGAL_OFFSET);
    let none = MessageQueue::new("orders", queue.broker(), 9);
    assert!(matches!(consumer.pull(&none, 0, 1).await, Err(Error::NoQueue { .. })));
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_topic_is_read_as_a_stream_with_a_filter_and_over_a_restart() {
    let mut broker = TestBroker::start().unwrap();
    let sender = producer(&broker, "orders").await;
    let send = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let tag = if number % 2 == 0 { "even" } else { "odd" };
            let message = Message::builder("orders").body(number.to_string()).tag(tag).build();
            sender.send(message).await.unwrap();
        }
    };
    send(0..40).await;
    let consumer =
        broker.client().pull_consumer("auditors").subscribe("orders", FilterExpression::tag("even"));
    let consumer = consumer.start().await.unwrap();
    let queues = consumer.queues("orders").await.unwrap();
    assert!(queues.len() > 1, "{queues:?}");
    let mut numbers = Vec::new();
    {
        let mut messages = pin!(consumer.read("orders", Position::Earliest).await.unwrap());
        while numbers.len() < 40 {
            if numbers.len() == 20 {
                broker.restart().unwrap();
                send(40..80).await;
            }
            let next = tokio::time::timeout(PATIENCE, messages.try_next()).await.unwrap();
            let pulled = next.unwrap().unwrap();
            numbers.push(body(pulled.message()).parse::<u32>().unwrap());
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..80).step_by(2).collect::<Vec<_>>());
}
