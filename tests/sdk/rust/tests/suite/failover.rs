//! A group of three members whose master is killed, or all of which is restarted in turn. Each test has one of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_sdk_tests::{Access, Cluster, bodies, message, run, sorted};
use rocketmq::Producer;
use rocketmq::model::transaction::Transaction;

use crate::transactions::{Checker, Decision, send_half};

const MEMBERS: u32 = 3;
const RECOVERY: Duration = Duration::from_secs(60);

/// Sends one message after the other until it is ended; what was acknowledged, and what failed.
async fn send_until(
    ending: Arc<AtomicBool>,
    producer: Producer,
    topic: String,
) -> (HashSet<String>, Vec<String>) {
    let (mut acknowledged, mut failed, mut number) = (HashSet::new(), Vec::new(), 0);
    while !ending.load(Ordering::Relaxed) {
        let body = format!("message-{number}");
        number += 1;
        match producer.send(message(&topic, &body).build().expect("a message")).await {
            Ok(_) => _ = acknowledged.insert(body),
            Err(error) => failed.push(format!("{body}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (acknowledged, failed)
}

/// Sends while the cluster is hurt, and a moment longer: no send fails, and what was acknowledged arrives.
async fn survives(hurt: impl FnOnce(&Cluster)) {
    let cluster = Cluster::start_group(MEMBERS);
    let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
    let consumer = cluster.consumer(Access::Nameserver, &topic, &group).await;
    let producer = cluster.producer(Access::Nameserver, &topic).await;
    let ending = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send_until(ending.clone(), producer, topic));
    tokio::time::sleep(Duration::from_secs(1)).await;
    hurt(&cluster);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ending.store(true, Ordering::Relaxed);
    let (mut missing, failed) = sending.await.expect("no panic");
    assert_eq!(failed, [""; 0]);
    let (acknowledged, deadline) = (missing.len(), Instant::now() + RECOVERY);
    while !missing.is_empty() {
        for body in bodies(&consumer.take().await.expect("a receive")) {
            missing.remove(&body);
        }
        assert!(
            Instant::now() < deadline,
            "{} of {acknowledged} acknowledged messages did not come",
            missing.len()
        );
    }
}

#[test]
fn a_killed_master_costs_no_message_and_no_failed_send() {
    run(survives(|cluster| {
        cluster.kill_master();
        cluster.wait_for_in_sync();
    }));
}

#[test]
fn a_rolling_restart_fails_no_send() {
    run(survives(Cluster::restart_in_turn));
}

#[test]
fn a_transaction_outlives_its_master() {
    run(async {
        let cluster = Cluster::start_group(MEMBERS);
        let (topic, group) = (cluster.topic("TRANSACTION", 1).await, cluster.group(&[]));
        let consumer = cluster.consumer(Access::Nameserver, &topic, &group).await;
        let checker = Checker::default();
        let producer = checker.producer(&cluster, Access::Nameserver, &topic, 0, Decision::Commit).await;
        let decided = send_half(&producer, &topic, "decided").await;
        send_half(&producer, &topic, "asked").await;
        cluster.kill_master();
        decided.commit().await.expect("a commit");
        assert_eq!(sorted(bodies(&consumer.receive(2).await)), ["asked", "decided"]);
        assert_eq!(checker.asked(), ["asked"]);
    });
}
