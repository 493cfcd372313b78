//! Automatic batches of the Rust client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kerolox_client::{Batcher, Batching, Message, RetryPolicy};
use tokio::time::timeout;

use crate::fifo::ordered_group;
use kerolox_harness::Cluster;

use crate::support::{PATIENCE, body, consume, message, receive, standalone};

/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(300);

async fn batcher(servers: &Cluster, batching: Batching) -> Batcher {
    let patient = RetryPolicy::default().pauses(Duration::from_millis(10), Duration::from_millis(100));
    let producer = servers.client().producer().topic("orders").retry_policy(patient).start().await.unwrap();
    Batcher::new(Arc::new(producer), batching).unwrap()
}

fn numbered(number: usize) -> Message {
    message("orders", &format!("{number:04}"))
}

#[tokio::test]
async fn a_batch_goes_when_it_is_full_or_flushed_and_each_message_has_its_own_answer() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let never = Duration::from_secs(3600);
    let batcher = batcher(&servers, Batching::default().linger(never).max_messages(10)).await;
    let mut pending = Vec::new();
    for number in 0..9 {
        pending.push(batcher.send(numbered(number)).await.unwrap());
    }
    assert!(timeout(MOMENT, &mut pending[0]).await.is_err(), "it waits for company");
    assert_eq!(batcher.outstanding(), 9);
    pending.push(batcher.clone().send(numbered(9)).await.unwrap());
    let mut places = BTreeSet::new();
    for answer in pending {
        let receipt = answer.await.unwrap();
        places.insert((receipt.queue_id, receipt.offset));
    }
    assert_eq!(places.len(), 10);
    assert_eq!(
        places.iter().map(|(queue, _)| queue).collect::<BTreeSet<_>>().len(),
        1,
        "one request, one queue"
    );

    // A message whose receipt is not awaited is sent as well.
    drop(batcher.send(numbered(10)).await.unwrap());
    timeout(PATIENCE, batcher.flush()).await.unwrap();
    assert_eq!(batcher.outstanding(), 0);
    drop(batcher.send(numbered(11)).await.unwrap());
    drop(batcher);
    let expected: Vec<String> = (0..12).map(|number| format!("{number:04}")).collect();
    assert_eq!(consume(&servers.consumer("billing", "orders").await.unwrap(), 12).await, expected);
}

#[tokio::test]
async fn message_groups_keep_their_order() {
    const COUNT: usize = 100;
    let servers = standalone(&[]);
    servers.create_topic("orders", "FIFO").await.unwrap();
    ordered_group(&servers, "billing").await;
    let batcher = batcher(&servers, Batching::default().max_messages(7)).await;
    for number in 0..COUNT {
        for group in ["a", "b", "c"] {
            let message = Message::builder("orders").body(format!("{group}{number:03}")).message_group(group);
            drop(batcher.send(message.build()).await.unwrap());
        }
    }
    batcher.flush().await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 * COUNT {
        for delivery in consumer.receive(32, Duration::from_secs(60)).await.unwrap() {
            consumer.ack(&delivery).await.unwrap();
            received.push(body(&delivery).to_owned());
        }
    }
    for group in ["a", "b", "c"] {
        let of_group: Vec<&String> = received.iter().filter(|body| body.starts_with(group)).collect();
        let expected: Vec<String> = (0..COUNT).map(|number| format!("{group}{number:03}")).collect();
        assert_eq!(of_group, expected.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn who_sends_more_than_the_buffer_holds_waits_and_nothing_is_lost_over_a_restart() {
    let mut servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    // Room for three: a message counts for its body and 256 bytes more.
    let batcher = batcher(&servers, Batching::default().buffer_bytes(3 * 260 + 100)).await;
    servers.brokers[0].kill().unwrap();
    let mut pending = Vec::new();
    for number in 0..3 {
        pending.push(timeout(MOMENT, batcher.send(numbered(number))).await.unwrap().unwrap());
    }
    assert!(timeout(MOMENT, batcher.send(numbered(3))).await.is_err(), "the buffer is full");
    servers.brokers[0].start().unwrap();
    for number in 4..50 {
        pending.push(batcher.send(numbered(number)).await.unwrap());
    }
    for answer in pending {
        answer.await.unwrap();
    }
    let received = receive(&servers.consumer("billing", "orders").await.unwrap(), 49).await;
    let bodies: BTreeSet<&str> = received.iter().map(body).collect();
    assert_eq!(bodies.len(), 49, "each once: {bodies:?}");
}
