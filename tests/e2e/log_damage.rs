//! Disks that do not keep what they were given.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kerolox_client::Resolution;

use kerolox_harness::Cluster;

use crate::support::{
    bodies, body, consume, expect_nothing, message, receive, receive_one, standalone, standalone_with,
};
use crate::transactions::{CHECKS_EVERY_SECOND, producer};

/// A message whose bytes rotted on disk is never delivered, and blocks no other message.
#[tokio::test]
async fn a_damaged_message_does_not_hold_up_the_others() {
    let mut servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    for text in ["one", "two: rotten soon", "three", "four"] {
        producer.send(message("orders", text)).await.unwrap();
    }
    producer.shutdown().await;

    let broker = &mut servers.brokers[0];
    broker.stop().unwrap();
    rot(&broker.data(), "two: rotten soon");
    broker.start().unwrap();

    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut delivered = consume(&consumer, 3).await;
    delivered.sort();
    assert_eq!(delivered, ["four", "one", "three"]);
    // A new message comes at once as well.
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "five")).await.unwrap();
    assert_eq!(body(&receive_one(&consumer).await), "five");
    let other = servers.consumer("shipping", "orders").await.unwrap();
    let mut all: Vec<String> = bodies(&receive(&other, 4).await).into_iter().map(str::to_owned).collect();
    all.sort();
    assert_eq!(all, ["five", "four", "one", "three"]);
    let told = servers.brokers[0].log_tail();
    assert!(told.contains("part of the log cannot be read"), "{told}");
    assert!(told.contains("00000000000000000000.log"), "{told}");
    let health = servers.brokers[0].probe("/readyz").unwrap();
    assert_eq!(health.status, 200, "the rest is served: {health:?}");
    for part in ["\"status\":\"warning\"", "damaged range in ", "00000000000000000000.log"] {
        assert!(health.body.contains(part), "{part} is missing in {health:?}");
    }
}

/// A half message that cannot be read any more is parked, and the others are checked back as if it were not there.
#[tokio::test]
async fn a_damaged_half_message_does_not_hold_up_other_transactions() {
    let mut servers = standalone(&CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let doomed = producer(&servers, |_| Resolution::Unknown).await;
    for text in ["rotten half", "good half"] {
        let _never_decided = doomed.send_in_transaction(message("payments", text)).await.unwrap();
    }
    doomed.shutdown().await;
    let broker = &mut servers.brokers[0];
    broker.stop().unwrap();
    rot(&broker.data(), "rotten half");
    broker.start().unwrap();

    let _deciding = producer(&servers, |_| Resolution::Commit).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["good half"]);
    expect_nothing(&consumer).await;
}

/// Sends what fills some segments of a mebibyte, and stops the broker; the answer is the files of its log, oldest first.
async fn some_segments(servers: &mut Cluster) -> Vec<PathBuf> {
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().start().await.unwrap();
    for _ in 0..35 {
        producer.send(message("orders", &"x".repeat(100_000))).await.unwrap();
    }
    producer.shutdown().await;
    servers.brokers[0].stop().unwrap();
    let files = servers.brokers[0].log_segments().unwrap();
    assert!(files.len() > 2, "{files:?}");
    files
}

fn small_segments() -> Cluster {
    standalone_with(&[], &[("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB")])
}

#[tokio::test]
async fn a_broker_whose_oldest_segment_is_missing_says_so_and_starts_when_it_is_back() {
    let mut servers = small_segments();
    let files = some_segments(&mut servers).await;
    let away = servers.folder().join("moved");
    fs::rename(&files[0], &away).unwrap();
    let said = servers.brokers[0].start().unwrap_err().to_string();
    for part in
        ["00000000000000000000.log is missing", "Put the missing files back", "00000000000000000000.begin"]
    {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    fs::rename(&away, &files[0]).unwrap();
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 35).await.len(), 35);
}

#[tokio::test]
async fn a_broker_whose_newest_segment_was_exchanged_says_so_and_starts_when_the_right_one_is_back() {
    let mut servers = small_segments();
    let files = some_segments(&mut servers).await;
    let newest = files.last().unwrap();
    // An older copy: as long as the file is, but without what was written last.
    let right = fs::read(newest).unwrap();
    let mut older = right.clone();
    older[64..].fill(0);
    fs::write(newest, &older).unwrap();
    let said = servers.brokers[0].start().unwrap_err().to_string();
    let name = newest.file_name().unwrap().to_str().unwrap();
    for part in [name, "it is another file", "Put the right file back"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    fs::write(newest, &right).unwrap();
    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 35).await.len(), 35);
}

/// Flips a bit in the one place of the commit log where `text` is.
pub(crate) fn rot(data: &Path, text: &str) {
    let segment = find_segment(data).expect("the broker has a log");
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    // The log of this test is short; the rest of the file is reserved room.
    let mut bytes = vec![0; 1 << 16];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let found: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
    let [place] = found[..] else { panic!("the body is stored {} times", found.len()) };
    file.write_all_at(&[bytes[place] ^ 1], place as u64).unwrap();
}

fn find_segment(folder: &Path) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let named = |path: &&PathBuf| path.file_name().is_some_and(|name| name == "00000000000000000000.log");
    let here = entries.iter().find(named).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find_segment(path)))
}
