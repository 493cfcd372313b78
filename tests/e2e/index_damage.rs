//! Disks that damage the index of a broker: it is made again from the log, without an operator and without a loss.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use kerolox_client::admin::wire;
use kerolox_client::{Address, Message, Producer, Resolution, RetryPolicy, SimpleConsumer};
use kerolox_harness::{Cluster, ServerProcess};

use crate::support::{
    INVISIBLE, NO_CHECKS, PATIENCE, body, create, eventually, expect_nothing, group, in_sync, master,
    message, standalone,
};
use crate::transactions::{producer, undecided};

const MESSAGES: usize = 600;
/// Messages that the first group acknowledged.
const DONE: usize = 100;

/// Files of the index whose names begin or end like this.
fn files(data: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data.join("index"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_wanted(path.file_name().unwrap().to_str().unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no such file below {}", data.display());
    found
}

fn tables(data: &Path) -> Vec<PathBuf> {
    files(data, |name| name.ends_with(".sst"))
}

/// Flips a bit in the first block of each table, where its first keys and values are.
fn rot_tables(data: &Path) {
    for table in tables(data) {
        let mut bytes = fs::read(&table).unwrap();
        bytes[12] ^= 1;
        // In place, where a broker that has it open reads it.
        let file = fs::OpenOptions::new().write(true).open(&table).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[12..13], 12).unwrap();
    }
}

fn cut_manifest(data: &Path) {
    for manifest in files(data, |name| name.starts_with("MANIFEST-")) {
        let length = fs::metadata(&manifest).unwrap().len();
        fs::OpenOptions::new().write(true).open(manifest).unwrap().set_len(length / 2).unwrap();
    }
}

fn rot_manifest(data: &Path) {
    for manifest in files(data, |name| name.starts_with("MANIFEST-")) {
        let mut bytes = fs::read(&manifest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(manifest, bytes).unwrap();
    }
}

fn empty_current(data: &Path) {
    fs::write(data.join("index/CURRENT"), "").unwrap();
}

fn lose_manifest(data: &Path) {
    files(data, |name| name.starts_with("MANIFEST-")).iter().for_each(|path| fs::remove_file(path).unwrap());
}

fn lose_a_table(data: &Path) {
    fs::remove_file(tables(data).last().unwrap()).unwrap();
}

fn cut_tables(data: &Path) {
    for table in tables(data) {
        let length = fs::metadata(&table).unwrap().len();
        fs::OpenOptions::new().write(true).open(table).unwrap().set_len(length / 2).unwrap();
    }
}

fn replace_by_a_file(data: &Path) {
    fs::remove_dir_all(data.join("index")).unwrap();
    fs::write(data.join("index"), "not a folder").unwrap();
}

/// What a broker was given, and has to have afterwards.
struct Content {
    all: BTreeSet<String>,
    offsets: Vec<(u64, u64)>,
}

async fn offsets(servers: &Cluster, broker: usize, topic: &str) -> Vec<(u64, u64)> {
    let address: Address = servers.brokers[broker].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: topic.to_owned() };
    let described = servers.client().admin().broker(&address).describe_topic(request).await.unwrap();
    described.queues.iter().map(|queue| (queue.min_offset, queue.max_offset)).collect()
}

async fn patient_producer(servers: &Cluster) -> Producer {
    let policy = RetryPolicy::default().pauses(Duration::from_millis(10), Duration::from_millis(200));
    servers.client().producer().topic("orders").topic("later").retry_policy(policy).start().await.unwrap()
}

/// Messages that wait, that were acknowledged, that are half, and that are scheduled.
async fn fill(servers: &Cluster, broker: usize) -> Content {
    let producer = patient_producer(servers).await;
    let all: BTreeSet<String> = (0..MESSAGES).map(|number| format!("order {number:03}")).collect();
    for body in &all {
        producer.send(message("orders", body)).await.unwrap();
    }
    let due = SystemTime::now() + Duration::from_secs(3600);
    let later = Message::builder("later").body("later").delivery_timestamp(due).build();
    producer.send(later).await.unwrap();
    producer.shutdown().await;
    let done = take(&servers.consumer("billing", "orders").await.unwrap(), DONE).await;
    assert!(done.len() >= DONE);
    fs::write(servers.folder().join("done"), done.into_iter().collect::<Vec<_>>().join("\n")).unwrap();
    Content { all, offsets: offsets(servers, broker, "orders").await }
}

/// Receives and acknowledges until there are `count` different messages, whatever fails in between.
async fn take(consumer: &SimpleConsumer, count: usize) -> BTreeSet<String> {
    let (mut taken, started) = (BTreeSet::new(), Instant::now());
    while taken.len() < count {
        assert!(started.elapsed() < 3 * PATIENCE, "only {} of {count} messages came", taken.len());
        match consumer.receive(32, INVISIBLE).await {
            Ok(received) => {
                for delivery in &received {
                    // One that was not acknowledged comes again, later than this test ends.
                    if consumer.ack(delivery).await.is_ok() {
                        taken.insert(body(delivery).to_owned());
                    }
                }
            }
            Err(error) => {
                let said = error.to_string();
                assert!(!said.contains("-data"), "the answer names a path: {said}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    taken
}

/// Everything is there: for a new group from the first message on, and for the old one what it has not acknowledged.
async fn check(servers: &Cluster, broker: usize, content: &Content) {
    let started = Instant::now();
    assert_eq!(
        take(&servers.consumer("auditing", "orders").await.unwrap(), content.all.len()).await,
        content.all
    );
    let done = fs::read_to_string(servers.folder().join("done")).unwrap();
    let done: BTreeSet<String> = done.lines().map(str::to_owned).collect();
    let rest: BTreeSet<String> = content.all.difference(&done).cloned().collect();
    let billing = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(take(&billing, rest.len()).await, rest);
    expect_nothing(&billing).await;
    assert_eq!(offsets(servers, broker, "orders").await, content.offsets);
    assert_eq!(offsets(servers, broker, "later").await.iter().map(|(_, next)| next).sum::<u64>(), 0);
    eprintln!("all there after {:?}", started.elapsed());
}

fn remade(server: &ServerProcess) -> bool {
    let told = server.probe("/readyz").unwrap();
    told.status == 200 && told.body.contains("rebuilt from the log once")
}

fn assert_told(server: &ServerProcess) {
    let log = server.log();
    assert!(log.contains("the index is damaged; it is removed and rebuilt from the log"), "{log}");
}

/// Damages the index and expects everything back. Sometimes the rest is sound but older: then no rebuild is needed.
async fn starts_and_has_everything(damage: impl Fn(&Path), is_noticed: bool) {
    let mut servers = standalone(&NO_CHECKS);
    for (topic, kind) in [("orders", "NORMAL"), ("later", "DELAY"), ("payments", "TRANSACTION")] {
        servers.create_topic(topic, kind).await.unwrap();
    }
    let content = fill(&servers, 0).await;
    let half = producer(&servers, |_| Resolution::Unknown).await;
    let _never_decided = half.send_in_transaction(message("payments", "half")).await.unwrap();
    drop(half);
    let broker = &mut servers.brokers[0];
    broker.stop().unwrap();
    damage(&broker.data());
    broker.start().unwrap();
    check(&servers, 0, &content).await;
    assert_eq!(undecided(&servers).await, 1);
    if is_noticed {
        assert_told(&servers.brokers[0]);
        assert!(remade(&servers.brokers[0]), "{:?}", servers.brokers[0].probe("/readyz"));
    }
    // Once more, with the repaired index.
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(offsets(&servers, 0, "orders").await, content.offsets);
    assert!(!remade(&servers.brokers[0]));
}

#[tokio::test]
async fn a_broker_whose_index_rotted_starts_and_has_everything() {
    starts_and_has_everything(rot_tables, true).await;
}

#[tokio::test]
async fn a_broker_whose_index_was_cut_short_starts_and_has_everything() {
    starts_and_has_everything(cut_tables, true).await;
    starts_and_has_everything(cut_manifest, false).await;
}

#[tokio::test]
async fn a_broker_whose_index_lost_a_file_starts_and_has_everything() {
    starts_and_has_everything(lose_a_table, true).await;
    starts_and_has_everything(lose_manifest, true).await;
}

#[tokio::test]
async fn a_broker_whose_index_cannot_be_opened_starts_and_has_everything() {
    starts_and_has_everything(empty_current, true).await;
    starts_and_has_everything(rot_manifest, true).await;
    starts_and_has_everything(replace_by_a_file, true).await;
}

/// Restarts a broker, so that what it has is in files, and it has not read them yet.
fn restart(server: &mut ServerProcess) {
    server.stop().unwrap();
    server.start().unwrap();
}

#[tokio::test]
async fn an_index_that_rots_under_a_running_broker_is_made_again_without_a_restart() {
    let mut servers = standalone(&NO_CHECKS);
    for (topic, kind) in [("orders", "NORMAL"), ("later", "DELAY")] {
        servers.create_topic(topic, kind).await.unwrap();
    }
    let mut content = fill(&servers, 0).await;
    restart(&mut servers.brokers[0]);
    let pid = servers.brokers[0].pid().unwrap();
    // Sends go on all the time; each that is acknowledged is to be there.
    let sender = patient_producer(&servers).await;
    let sending = tokio::spawn(async move {
        let mut sent = BTreeSet::new();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            let body = format!("new {:05}", sent.len());
            if sender.send(message("orders", &body)).await.is_ok() {
                sent.insert(body);
            }
        }
        sent
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    rot_tables(&servers.brokers[0].data());
    let reader = servers.consumer("shipping", "orders").await.unwrap();
    let first = take(&reader, MESSAGES).await;
    assert!(first.len() >= MESSAGES);
    let new = sending.await.unwrap();
    assert!(new.len() > 10, "{}", new.len());
    content.all.extend(new);
    assert_told(&servers.brokers[0]);
    eventually("it is ready", PATIENCE, async || remade(&servers.brokers[0])).await;
    assert_eq!(servers.brokers[0].pid().unwrap(), pid);
    assert!(servers.brokers[0].is_running());
    assert_eq!(
        take(&servers.consumer("auditing", "orders").await.unwrap(), content.all.len()).await,
        content.all
    );
    let total: u64 = offsets(&servers, 0, "orders").await.iter().map(|(_, next)| next).sum();
    assert!(total >= content.all.len() as u64);
    servers.brokers[0].stop().unwrap();
}

#[tokio::test]
async fn a_master_whose_index_rots_hands_over_and_comes_back_whole() {
    let mut servers = group(3, &NO_CHECKS, &[]).await;
    for (topic, kind) in [("orders", "NORMAL"), ("later", "DELAY")] {
        create(&servers, topic, kind).await;
    }
    let first = master(&servers).await;
    let content = fill(&servers, first).await;
    // The messages are then on the disks of all members, and the new master has not read them yet.
    for member in (0..3).filter(|member| *member != first).chain([first]) {
        restart(&mut servers.brokers[member]);
        in_sync(&servers, 3).await;
    }
    let old = master(&servers).await;
    let serves = async || servers.brokers[old].probe("/readyz").unwrap().status == 200;
    eventually("it serves", PATIENCE, serves).await;
    rot_tables(&servers.brokers[old].data());
    let pid = servers.brokers[old].pid().unwrap();
    let shipping = servers.consumer("shipping", "orders").await.unwrap();
    assert_eq!(take(&shipping, MESSAGES).await, content.all);
    assert_told(&servers.brokers[old]);
    eventually("another one rules", PATIENCE, async || master(&servers).await != old).await;
    in_sync(&servers, 3).await;
    eventually("it is ready", PATIENCE, async || remade(&servers.brokers[old])).await;
    assert_eq!(servers.brokers[old].pid().unwrap(), pid);
    let now = master(&servers).await;
    check(&servers, now, &content).await;
    // It rules with what it has made.
    servers.brokers[now].stop().unwrap();
    let other = master(&servers).await;
    servers.brokers[other].stop().unwrap();
    servers.brokers[now].start().unwrap();
    in_sync(&servers, 2).await;
}

#[tokio::test]
async fn a_slave_whose_index_is_lost_catches_up_and_rules_with_everything() {
    let mut servers = group(2, &NO_CHECKS, &[]).await;
    for (topic, kind) in [("orders", "NORMAL"), ("later", "DELAY")] {
        create(&servers, topic, kind).await;
    }
    let first = master(&servers).await;
    let content = fill(&servers, first).await;
    let slave = 1 - first;
    servers.brokers[slave].stop().unwrap();
    empty_current(&servers.brokers[slave].data());
    servers.brokers[slave].start().unwrap();
    in_sync(&servers, 2).await;
    assert_told(&servers.brokers[slave]);
    eventually("the slave is ready", PATIENCE, async || remade(&servers.brokers[slave])).await;
    servers.brokers[first].kill().unwrap();
    eventually("the slave rules", PATIENCE, async || master(&servers).await == slave).await;
    check(&servers, slave, &content).await;
}
