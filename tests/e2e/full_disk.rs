//! Disks of the kernel's own that are small, or full: the broker starts, refuses messages, and lets consumers empty it. And a broker
//! without descriptors. Mounts small file systems, so it needs to be root.

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use kerolox_client::{Producer, SimpleConsumer};
use kerolox_harness::{Cluster, SmallDisk};
use kerolox_proto::v2;

use crate::support::{
    GROUP, INVISIBLE_MIN, PATIENCE, consume, eventually, expect_nothing, message, plan, refusal,
    standalone_with,
};

/// A standalone broker whose data lies on a disk of that size.
fn on_disk(size: &str, settings: &[(&str, &str)]) -> Cluster {
    plan().nameservers(0).group(GROUP, 1).settings(settings).small_disks(size).start().unwrap()
}

fn disk(servers: &Cluster) -> &SmallDisk {
    servers.disk_of(&servers.brokers[0]).unwrap()
}

/// Sends until it is refused; the answer is how many were taken.
async fn send_until_refused(producer: &Producer) -> usize {
    for sent in 0..10_000 {
        let answer = producer.send(message("orders", &"x".repeat(50_000))).await;
        if answer.is_err() {
            assert_eq!(refusal(answer), v2::Code::TooManyRequests);
            return sent;
        }
    }
    panic!("the disk is full, and everything is taken")
}

/// Receives and acknowledges until there is nothing for a while; the answer is how many there were.
async fn empty(consumer: &SimpleConsumer, expected: usize) -> usize {
    let mut done = 0;
    while done < expected {
        for delivery in consumer.receive(8, INVISIBLE_MIN * 3).await.unwrap_or_default() {
            consumer.ack(&delivery).await.unwrap();
            done += 1;
        }
    }
    done
}

/// The disk fills before the next check of its free space: the log itself refuses messages.
#[tokio::test]
async fn a_disk_that_fills_between_two_looks_refuses_messages_and_lets_consumers_work_also_over_a_restart() {
    let mut servers = on_disk(
        "160m",
        &[
            ("KEROLOX_BROKER__LOG__PREALLOCATION", "4MiB"),
            ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "20MiB"),
            ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "20s"),
        ],
    );
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    let early = servers.consumer("early", "orders").await.unwrap();
    for _ in 0..20 {
        producer.send(message("orders", &"x".repeat(50_000))).await.unwrap();
    }
    disk(&servers).fill().unwrap();
    let sent = 20 + send_until_refused(&producer).await;
    assert_eq!(empty(&early, sent).await, sent, "consumers go on");
    let ready = servers.brokers[0].probe("/readyz").unwrap();
    assert!(!ready.body.contains("read-only"), "{ready:?}");
    producer.shutdown().await;

    // And a start finds the disk as it is.
    servers.brokers[0].stop().unwrap();
    disk(&servers).fill().unwrap();
    servers.brokers[0].start().expect("a broker starts on a full disk");
    let late = servers.consumer("late", "orders").await.unwrap();
    assert_eq!(empty(&late, sent).await, sent);
    expect_nothing(&servers.consumer("early", "orders").await.unwrap()).await;
    let producer = servers.client().producer().start().await.unwrap();
    assert_eq!(send_until_refused(&producer).await, 0);

    disk(&servers).make_room().unwrap();
    eventually("messages are taken again", PATIENCE * 3, async || {
        producer.send(message("orders", "there is room")).await.is_ok()
    })
    .await;
    assert_eq!(consume(&late, 1).await, ["there is room"]);
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    expect_nothing(&servers.consumer("late", "orders").await.unwrap()).await;
}

#[tokio::test]
async fn a_small_disk_is_enough_and_little_of_it_is_used() {
    let servers = on_disk("320m", &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "one")).await.unwrap();
    assert_eq!(consume(&servers.consumer("billing", "orders").await.unwrap(), 1).await, ["one"]);
    let free = kerolox_log::fs::free_bytes(disk(&servers).path()).unwrap();
    assert!(free > 240 << 20, "{free} of 320 MiB are left");
}

/// Strangers hold every descriptor that the process may have; the log and the index have some of their own.
#[tokio::test]
async fn connections_that_use_up_all_descriptors_do_not_keep_the_log_from_growing() {
    let servers = standalone_with(&[], &[("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB")]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    producer.send(message("orders", "connected")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["connected"]);

    let broker = &servers.brokers[0];
    let process = format!("/proc/{}/fd", broker.pid().unwrap());
    let open = || {
        fs::read_dir(&process)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u64>().ok())
    };
    let limit = open().max().unwrap() + 1;
    let pid = broker.pid().unwrap().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
    assert!(limited.unwrap().success());
    let address = broker.address().unwrap();
    let strangers: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(address).ok()).collect();
    assert!(strangers.len() > 100);

    for number in 0..60 {
        let sent = producer.send(message("orders", &format!("{number} {}", "x".repeat(100_000)))).await;
        sent.unwrap_or_else(|error| panic!("message {number}: {error}"));
    }
    assert!(broker.log_segments().unwrap().len() > 3, "new segments were begun meanwhile");
    let live = broker.probe("/readyz");
    drop(strangers);
    drop(live);
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=1024:"]).status();
    assert!(raised.unwrap().success());
    assert_eq!(empty(&consumer, 60).await, 60);
    let ready = broker.probe("/readyz").unwrap();
    assert!(!ready.body.contains("read-only"), "{ready:?}");
}
