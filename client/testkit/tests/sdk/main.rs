//! What the Rust client does with a broker, one feature after the other. What takes several brokers, or their ends, is tested
//! elsewhere.
#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod bodies;
mod broadcast;
mod encrypted;
mod kit;
mod lite;
mod pull;
mod streams;

use kerolox_client::{Delivery, Message, Producer};
use kerolox_testkit::TestBroker;
use std::time::{Duration, Instant};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(300);
/// Invisible duration of tests that do not wait for its end.
const INVISIBLE: Duration = Duration::from_secs(60);

fn message(topic: &str, body: &str) -> Message {
    Message::builder(topic).body(body.to_owned()).build()
}

fn body(message: &Message) -> &str {
    std::str::from_utf8(message.body()).unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    let mut bodies: Vec<&str> = deliveries.iter().map(|delivery| body(delivery.message())).collect();
    bodies.sort_unstable();
    bodies
}

async fn producer(broker: &TestBroker, topic: &str) -> Producer {
    broker.client().producer().topic(topic).start().await.unwrap()
}

/// Repeats `check` until it holds.
async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
