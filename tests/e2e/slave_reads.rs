//! Messages that a master reads at its slaves.

use std::time::Duration;

use kerolox_client::admin::controller::connection;
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use kerolox_proto::kerolox::{DescribeReplicationRequest, DescribeReplicationResponse};

use crate::log_damage::rot;
use kerolox_harness::Cluster;

use crate::support::{consume, create, group, in_sync, master, message};

/// The newest messages are not kept in memory, so all are read from disks.
const NO_TAIL: (&str, &str) = ("KEROLOX_BROKER__LOG__TAIL_SIZE", "0B");

async fn describe(servers: &Cluster, broker: usize) -> DescribeReplicationResponse {
    let mut client = ReplicationClient::new(connection(servers.brokers[broker].address().unwrap()).unwrap());
    client.describe_replication(DescribeReplicationRequest {}).await.unwrap().into_inner()
}

/// How many records a broker has read for its master.
async fn read_for_master(servers: &Cluster, broker: usize) -> u64 {
    describe(servers, broker).await.read_for_master
}

async fn send(servers: &Cluster, count: usize) -> Vec<String> {
    create(servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let bodies: Vec<String> = (0..count).map(|number| format!("message {number:02}")).collect();
    for body in &bodies {
        producer.send(message("orders", body)).await.unwrap();
    }
    bodies
}

#[tokio::test]
async fn what_lies_far_back_is_read_at_slaves_if_the_operator_wants_that() {
    for (slave_reads, expected) in [("true", 20), ("false", 0)] {
        let settings = [NO_TAIL, ("KEROLOX_BROKER__REPLICATION__SLAVE_READS", slave_reads)];
        let mut servers = group(2, &[], &settings).await;
        let sent = send(&servers, 20).await;
        let consumer = servers.consumer("billing", "orders").await.unwrap();
        assert_eq!(consume(&consumer, 20).await, sent);
        let slave = 1 - master(&servers).await;
        assert_eq!(read_for_master(&servers, slave).await, expected, "slave-reads = {slave_reads}");

        // A slave that does not answer holds up nothing: the master reads by itself.
        servers.brokers[slave].kill().unwrap();
        let late = servers.consumer("late", "orders").await.unwrap();
        assert_eq!(consume(&late, 20).await, sent);
    }
}

#[tokio::test]
async fn a_message_that_is_damaged_at_the_master_is_read_at_a_slave() {
    let servers = group(2, &[], &[NO_TAIL]).await;
    let sent = send(&servers, 3).await;
    let master = master(&servers).await;
    rot(&servers.brokers[master].data(), &sent[1]);

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let received = consume(&consumer, 3).await;
    assert_eq!(received, sent, "all of them, and as they were sent");
    assert_eq!(read_for_master(&servers, 1 - master).await, 1);
}

#[tokio::test]
async fn a_slave_with_damage_takes_over_and_reads_at_the_old_master() {
    let mut servers = group(2, &[], &[NO_TAIL]).await;
    let sent = send(&servers, 3).await;
    let old = master(&servers).await;
    // A slave that cannot read what it has yet to apply is not elected. It applies within milliseconds what it is told is confirmed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rot(&servers.brokers[1 - old].data(), &sent[1]);
    servers.brokers[old].stop().unwrap();
    servers.brokers[old].start().unwrap();
    in_sync(&servers, 2).await;
    assert_eq!(master(&servers).await, 1 - old);

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = consume(&consumer, 3).await;
    received.sort();
    assert_eq!(received, sent);
    assert_eq!(read_for_master(&servers, old).await, 1);
}
