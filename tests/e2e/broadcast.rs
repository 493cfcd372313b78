//! Broadcast groups: every client gets every message, with a cursor of its own on the broker.

use std::time::{Duration, Instant};

use kerolox_proto::v2::Code;

use crate::mqadmin::{json, table};
use kerolox_harness::Cluster;

use crate::support::{
    PATIENCE, cluster_of, consume, expect_nothing, message, receive, receive_one, refusal, standalone_with,
};

async fn send(servers: &Cluster, bodies: &[&str]) {
    let producer = servers.client().producer().topic("news").start().await.unwrap();
    for body in bodies {
        producer.send(message("news", body)).await.unwrap();
    }
}

async fn news(flags: &[&str], attributes: &str) -> Cluster {
    let servers = cluster_of(1, &["broker-a", "broker-b"], flags);
    servers.create_topic("news", "NORMAL").await.unwrap();
    let ns = servers.access_points();
    table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g readers -d true {attributes}"));
    servers
}

#[tokio::test]
async fn every_client_gets_every_message() {
    let servers = news(&[], "").await;
    let ns = servers.access_points();
    send(&servers, &["old"]).await;
    let (one, two) = (
        servers.consumer("readers", "news").await.unwrap(),
        servers.consumer("readers", "news").await.unwrap(),
    );
    assert_ne!(one.client_id(), two.client_id());
    expect_nothing(&one).await;
    expect_nothing(&two).await;
    send(&servers, &["1", "2", "3", "4"]).await;
    assert_eq!(consume(&one, 4).await, ["1", "2", "3", "4"]);
    let held = receive(&two, 4).await;

    // Cursors are each client's own: so are its handles.
    assert_eq!(refusal(one.ack(&held[0]).await), Code::InvalidReceiptHandle);
    two.ack(&held[0]).await.unwrap();
    expect_nothing(&one).await;
    let progress = json(&format!("consumerProgress -n {ns} -g readers -t news"));
    let diff = |client: &str| -> u64 {
        let queues = progress["queues"].as_array().unwrap().iter();
        queues.filter(|queue| queue["client"] == client).map(|queue| queue["diff"].as_u64().unwrap()).sum()
    };
    assert_eq!((diff(one.client_id()), diff(two.client_id())), (0, 3));
    let overview = json(&format!("consumerProgress -n {ns}"));
    assert_eq!(overview["groups"].as_array().unwrap().len(), 1, "members are hidden: {overview}");

    table(&format!("resetOffset -n {ns} -g readers -t news --to earliest"));
    for reader in [&one, &two] {
        assert_eq!(consume(reader, 5).await, ["1", "2", "3", "4", "old"]);
    }
}

#[tokio::test]
async fn a_member_starts_where_its_group_says_and_keeps_its_place() {
    let mut servers = news(&[], "--attributes +consume.from=earliest").await;
    send(&servers, &["old"]).await;
    let reader = servers.consumer("readers", "news").await.unwrap();
    assert_eq!(consume(&reader, 1).await, ["old"]);
    for broker in &mut servers.brokers {
        broker.kill().unwrap();
        broker.start().unwrap();
    }
    let started = Instant::now();
    let producer = servers.client().producer().topic("news").start().await.unwrap();
    while producer.send(message("news", "new")).await.is_err() {
        assert!(started.elapsed() < PATIENCE);
    }
    let mut received = Vec::new();
    while received.is_empty() {
        assert!(started.elapsed() < PATIENCE);
        received = reader.receive(8, Duration::from_secs(60)).await.unwrap_or_default();
    }
    assert_eq!(crate::support::bodies(&received), ["new"]);
    reader.ack(&received[0]).await.unwrap();
}

#[tokio::test]
async fn members_that_stay_away_are_forgotten() {
    let servers = {
        standalone_with(
            &[],
            &[("KEROLOX_BROKER__GROUPS__MEMBER_EXPIRY", "2s"), ("KEROLOX_BROKER__CLIENTS__EXPIRY", "1s")],
        )
    };
    servers.create_topic("news", "NORMAL").await.unwrap();
    let ns = servers.access_points();
    table(&format!("updateSubGroup -b {ns} -g readers -d true --attributes +consume.from=earliest"));
    send(&servers, &["1"]).await;
    let (stays, leaves) = (
        servers.consumer("readers", "news").await.unwrap(),
        servers.consumer("readers", "news").await.unwrap(),
    );
    for reader in [&stays, &leaves] {
        reader.ack(&receive_one(reader).await).await.unwrap();
    }
    let members = || {
        let progress = json(&format!("consumerProgress -b {ns} -g readers"));
        let queues = progress["queues"].as_array().unwrap().iter();
        let clients = queues.map(|queue| queue["client"].as_str().unwrap().to_owned());
        clients.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(members().len(), 2);
    drop(leaves);
    let started = Instant::now();
    while members().len() > 1 {
        assert!(started.elapsed() < PATIENCE, "{:?}", members());
        expect_nothing(&stays).await;
    }
    assert!(members().contains(stays.client_id()));
    table(&format!("deleteSubGroup -b {ns} -g readers"));
    table(&format!("updateSubGroup -b {ns} -g readers -d true"));
    assert!(members().is_empty(), "members go with their group");
}
