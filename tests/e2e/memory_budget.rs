//! The memory that callers make a broker use.

use std::time::Duration;

use kerolox_client::{Code, Message, RetryPolicy};
use kerolox_proto::v2;
use kerolox_proto::v2::telemetry_command::Command;
use tokio_stream::iter;

use kerolox_harness::Cluster;

use crate::support::{consume, eventually, from_client, message, raw, refusal, standalone_with};

const TOPIC: &str = "orders";

async fn servers(budget: &str) -> Cluster {
    let servers = standalone_with(&[], &[("KEROLOX_BROKER__MEMORY__BUDGET", budget)]);
    servers.create_topic(TOPIC, "NORMAL").await.unwrap();
    servers
}

#[tokio::test]
async fn a_request_for_which_there_is_no_memory_is_refused_and_others_are_served() {
    let servers = servers("1MiB").await;
    let never = RetryPolicy::never();
    let producer = servers
        .client()
        .producer()
        .topic(TOPIC)
        .retry_policy(never)
        .compress_from(usize::MAX)
        .start()
        .await
        .unwrap();
    let large = Message::builder(TOPIC).body(vec![1; 400 << 10]).build();
    assert_eq!(refusal(producer.send(large).await), Code::TOO_MANY_REQUESTS);
    producer.send(message(TOPIC, "small")).await.unwrap();
    let consumer = servers.consumer("billing", TOPIC).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["small"]);
    // Nothing of it is left.
    eventually("memory is given back", Duration::from_secs(10), async || {
        let ready = servers.brokers[0].probe("/readyz").unwrap().body;
        ready.contains("callers use 1 MiB of 1,") && ready.contains("\"status\":\"ok\"")
    })
    .await;
}

#[tokio::test]
async fn settings_without_end_are_refused_before_they_are_read() {
    let servers = servers("64MiB").await;
    // Each empty entry takes two bytes here, and a structure there.
    let subscriptions = vec![v2::SubscriptionEntry::default(); 6_500_000];
    let subscription = v2::Subscription { subscriptions, ..Default::default() };
    let settings = v2::Settings {
        pub_sub: Some(v2::settings::PubSub::Subscription(subscription)),
        ..Default::default()
    };
    let command = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
    let mut stub = raw(&servers.brokers[0]).await;
    let told = match stub.telemetry(from_client(iter([command]))).await {
        Ok(answer) => answer.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(told.unwrap_err().code(), tonic::Code::ResourceExhausted);
}
