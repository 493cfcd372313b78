//! Data folders that go away under a running server: what it is sent would be gone at its next start, so it takes nothing any more.

use std::fs;
use std::path::Path;
use std::process::Command;

use kerolox_client::{Producer, RetryPolicy};
use kerolox_harness::{Cluster, ServerProcess};

use crate::mqadmin_check::{failed, names};
use crate::support::{
    NO_CHECKS, PATIENCE, cluster_of, create, eventually, group, in_sync, master, message, standalone,
};

async fn impatient_producer(servers: &Cluster) -> Producer {
    let policy = RetryPolicy::never();
    servers.client().producer().topic("orders").retry_policy(policy).start().await.unwrap()
}

/// The server says that `words` happened: in its log, at its health port and in `mqadmin check`.
async fn is_red(servers: &Cluster, server: &ServerProcess, words: &str) {
    let ready = async || server.probe("/readyz").unwrap();
    eventually("it is not ready", PATIENCE, async || ready().await.status == 503).await;
    let told = ready().await;
    assert!(told.body.contains("\"data\"") && told.body.contains(words), "{told:?}");
    assert!(!told.body.contains(server.data().to_str().unwrap()), "{told:?}");
    let log = server.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(words)), "{log}");
    let rows = failed(servers, "readiness");
    assert!(names(&rows, "readiness data: ") && names(&rows, words), "{rows:?}");
}

/// A broker without slaves refuses what it is sent after `change`, and says why.
async fn refuses_after(change: impl FnOnce(&Path), words: &str) {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = impatient_producer(&servers).await;
    producer.send(message("orders", "before")).await.unwrap();
    change(&servers.brokers[0].data());
    let mut said = String::new();
    let refused = async || match producer.send(message("orders", "after")).await {
        Ok(_) => false,
        Err(error) => {
            said = error.to_string();
            said.contains(words)
        }
    };
    eventually("sends are refused", PATIENCE, refused).await;
    assert!(said.contains("bring it back and restart the broker"), "{said}");
    assert!(!said.contains(servers.folder().to_str().unwrap()), "{said}");
    is_red(&servers, &servers.brokers[0], words).await;
    // It stays so, whatever comes there.
    fs::create_dir_all(servers.brokers[0].data().join("log")).unwrap();
    assert!(producer.send(message("orders", "after")).await.is_err());
}

#[tokio::test]
async fn a_broker_whose_folder_is_deleted_refuses_what_it_is_sent() {
    let delete = |data: &Path| {
        // A file that comes in between would keep the folder.
        while data.exists() {
            let _ = fs::remove_dir_all(data);
        }
    };
    refuses_after(delete, "the data folder was deleted or moved away").await;
}

#[tokio::test]
async fn a_broker_whose_folder_is_replaced_refuses_what_it_is_sent() {
    let replace = |data: &Path| {
        fs::rename(data, data.with_extension("old")).unwrap();
        fs::create_dir(data).unwrap();
        fs::create_dir(data.join("log")).unwrap();
    };
    refuses_after(replace, "the data folder was replaced or mounted over").await;
    let move_log = |data: &Path| fs::rename(data.join("log"), data.join("elsewhere")).unwrap();
    refuses_after(move_log, "log in the data folder was deleted or moved away").await;
}

/// Ends what was mounted there.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_broker_whose_folder_is_mounted_over_refuses_what_it_is_sent() {
    let mut mounted = None;
    let mount = |data: &Path| {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "other"]).arg(data).status();
        assert!(mount.unwrap().success(), "mounting needs root");
        mounted = Some(Mounted(data.to_owned()));
    };
    refuses_after(mount, "the data folder was replaced or mounted over").await;
    drop(mounted);
}

#[tokio::test]
async fn a_master_whose_folder_is_deleted_makes_way() {
    let mut servers = group(3, &NO_CHECKS, &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let old = master(&servers).await;
    let data = servers.brokers[old].data();
    while data.exists() {
        let _ = fs::remove_dir_all(&data);
    }
    eventually("another one rules", PATIENCE, async || master(&servers).await != old).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "after")).await.unwrap();
    is_red(&servers, &servers.brokers[old], "the data folder was deleted or moved away").await;
    // The folder in its place belongs to no member: after a restart the broker is a new one.
    servers.brokers[old].stop().unwrap();
    assert!(!data.join("log").exists(), "nothing was written there");
    servers.brokers[old].start().unwrap();
    in_sync(&servers, 3).await;
}

#[tokio::test]
async fn a_slave_whose_folder_is_deleted_counts_no_more() {
    let servers = group(2, &NO_CHECKS, &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let slave = 1 - master(&servers).await;
    let data = servers.brokers[slave].data();
    while data.exists() {
        let _ = fs::remove_dir_all(&data);
    }
    is_red(&servers, &servers.brokers[slave], "the data folder was deleted or moved away").await;
    in_sync(&servers, 1).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "after")).await.unwrap();
}

#[tokio::test]
async fn a_nameserver_whose_folder_is_deleted_says_so() {
    let servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    assert_eq!(servers.nameservers[0].probe("/readyz").unwrap().status, 200);
    fs::remove_file(servers.nameservers[0].data().join("controller.redb")).unwrap();
    let words = "controller.redb in the data folder was deleted or moved away";
    is_red(&servers, &servers.nameservers[0], words).await;
}
