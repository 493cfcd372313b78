//! A broker whose index is gone: it makes it again from the log, and says so meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_harness::long_log::{TRANSACTIONS, write_log};
use kerolox_harness::raw_calls;
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2;
use kerolox_proto::v2::telemetry_command::Command;

use crate::support::{NO_CHECKS, PATIENCE, code, consume, from_client, message, raw, resource, standalone};

/// The position in "... (position X of Y) ...".
fn position(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("(position ")?;
    rest.split(' ').next()?.parse().ok()
}

/// Waits until the broker says how far its index is.
fn rebuilding(broker: &ServerProcess) -> u64 {
    let started = Instant::now();
    loop {
        let told = broker.probe("/readyz").unwrap();
        assert_eq!(told.status, 503, "it was to be seen while it rebuilds: {told:?}");
        if let Some(position) = position(&told.body) {
            assert!(told.body.contains("rebuilding, ") && told.body.contains(" % "), "{told:?}");
            return position;
        }
        assert!(started.elapsed() < PATIENCE, "{told:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A broker that is stopped, with a long log and no index.
fn with_a_long_log() -> Cluster {
    let mut servers = standalone(&NO_CHECKS);
    let broker = &mut servers.brokers[0];
    broker.stop().unwrap();
    fs::remove_dir_all(broker.data().join("log")).unwrap();
    fs::remove_dir_all(broker.data().join("index")).unwrap();
    write_log(&broker.data().join("log")).unwrap();
    servers
}

/// Smallest and next offset of each queue.
async fn offsets(servers: &Cluster) -> Vec<(u64, u64)> {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: "orders".into() };
    let described = servers.client().admin().broker(&address).describe_topic(request).await.unwrap();
    described.queues.iter().map(|queue| (queue.min_offset, queue.max_offset)).collect()
}

#[tokio::test]
async fn a_long_rebuild_is_shown_refuses_callers_and_is_gone_on_with_after_a_stop() {
    let mut servers = with_a_long_log();
    let broker = &mut servers.brokers[0];
    broker.begin().unwrap();
    rebuilding(broker);
    assert_eq!(broker.probe("/healthz").unwrap().status, 200);
    let mut client = raw(broker).await;
    let request = v2::QueryRouteRequest { topic: resource("orders"), endpoints: None };
    let refused = client.query_route(from_client(request)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(refused.code(), v2::Code::InternalServerError);
    assert!(
        refused.message.contains("is being rebuilt") && position(&refused.message).is_some(),
        "{refused:?}"
    );
    let request = v2::ChangeInvisibleDurationRequest { receipt_handle: "mine".into(), ..Default::default() };
    let changed = client.change_invisible_duration(from_client(request)).await.unwrap().into_inner();
    assert_eq!(changed.receipt_handle, "mine", "the client keeps what it is given");
    assert_eq!(code(changed.status), v2::Code::InternalServerError);
    drop(client);
    let reached = rebuilding(broker);
    let stopping = Instant::now();
    broker.stop().unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());

    broker.begin().unwrap();
    let resumed = rebuilding(broker);
    assert!(resumed >= reached, "it goes on at {resumed}, but had reached {reached}");
    broker.wait().unwrap();
    assert_eq!(broker.probe("/readyz").unwrap().status, 200);
    assert_eq!(offsets(&servers).await, [(0, TRANSACTIONS)]);
}

// The client answers pings meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn telemetry_that_is_begun_while_the_index_is_made_is_answered_when_it_is() {
    let mut servers = with_a_long_log();
    let broker = &mut servers.brokers[0];
    broker.begin().unwrap();
    rebuilding(broker);
    let stub = raw(broker).await;
    let early = tokio::spawn(tokio::time::timeout(3 * PATIENCE, raw_calls::greet(stub, "early", "orders")));
    // Longer than the SDKs hold on to a stream that is refused.
    tokio::time::sleep(Duration::from_millis(200)).await;
    if early.is_finished() {
        panic!("answered before anything is ready: {:?}", early.await);
    }
    broker.wait().unwrap();
    let answer =
        early.await.unwrap().unwrap().expect("a stream that was begun early is as good as any other");
    assert!(matches!(answer.command, Some(Command::Settings(_))), "{answer:?}");
}

#[tokio::test]
async fn without_its_index_a_broker_shows_the_same() {
    let mut servers = standalone(&NO_CHECKS);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    let sent: Vec<String> = (10..60).map(|number| format!("order {number}")).collect();
    for text in &sent {
        producer.send(message("orders", text)).await.unwrap();
    }
    producer.shutdown().await;
    let before = offsets(&servers).await;
    servers.brokers[0].stop().unwrap();
    fs::remove_dir_all(servers.brokers[0].data().join("index")).unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(servers.brokers[0].probe("/readyz").unwrap().status, 200);
    assert_eq!(offsets(&servers).await, before);
    assert_eq!(before.iter().map(|(_, next)| next).sum::<u64>(), 50);
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 50).await, sent);
}
