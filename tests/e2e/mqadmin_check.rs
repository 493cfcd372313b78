//! Red is red everywhere: exit code and rows of `mqadmin check`, `/readyz`, and the servers' logs.

use std::time::Duration;

use kerolox_proto::v2::Code;
use serde_json::Value;

use crate::mqadmin::{Run, failure, mqadmin, table};
use kerolox_harness::Cluster;

use crate::support::{
    PATIENCE, cluster_of, eventually, group, in_sync, master, message, refusal, standalone_with,
};

/// Routes forget a dead broker after their lease of ten seconds, and that is slow on a busy machine.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Rows of what has failed, as "SUBJECT CHECK REASON".
pub(crate) fn failed(servers: &Cluster, what: &str) -> Vec<String> {
    // How full the disk of this machine is does not count.
    let run = mqadmin(&format!("check {what} --min-disk 0 -n {} --output json", servers.access_points()));
    let said: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("no JSON: {run:?}"));
    let checks = said["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["state"] == "failed");
    let row = |check: &Value| {
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        format!("{} {} {}", text("subject"), text("check"), text("reason"))
    };
    let failed: Vec<String> = failed.map(row).collect();
    assert_eq!(run.code, i32::from(!failed.is_empty()), "{run:?}");
    assert_eq!(said["failed"], failed.len(), "{run:?}");
    failed
}

pub(crate) fn names(rows: &[String], words: &str) -> bool {
    rows.iter().any(|row| row.contains(words))
}

/// How many brokers the routes name.
fn registered(servers: &Cluster) -> usize {
    let Run { code, stdout, .. } =
        mqadmin(&format!("clusterList -n {} --output json", servers.access_points()));
    assert!(code == 0 || code == 3, "{stdout}");
    let said: Value = serde_json::from_str(&stdout).unwrap();
    said["brokers"].as_array().unwrap().len()
}

#[tokio::test]
async fn dead_brokers_are_red_while_they_are_registered_and_after() {
    let long = "broker-with-a-rather-long-name";
    let mut servers = cluster_of(1, &["broker-a", long], &[]);
    assert_eq!(failed(&servers, ""), [""; 0]);
    let checked = table(&format!("check --min-disk 0 -n {}", servers.access_points()));
    assert!(!checked.contains("FAILED") && checked.contains("broker-a"), "{checked}");

    servers.brokers[0].kill().unwrap();
    // At once, while it is still registered: lag, which asks it, has a row and does not spoil the others.
    let rows = failed(&servers, "");
    assert!(names(&rows, "broker broker-a/") && names(&rows, "broker group broker-a lag"), "{rows:?}");
    eventually("it is forgotten", FORGOTTEN, async || registered(&servers) == 1).await;
    for what in ["", "liveness", "readiness", "replication", "lag", "disk"] {
        let rows = failed(&servers, what);
        assert!(
            names(&rows, "broker broker-a/1 liveness is not registered: it was heard of"),
            "{what}: {rows:?}"
        );
        assert!(!names(&rows, long), "the other one lives: {what}: {rows:?}");
    }
    assert!(names(&failed(&servers, "replication"), "broker group broker-a replication"));

    servers.brokers[1].kill().unwrap();
    eventually("no broker is registered", FORGOTTEN, async || registered(&servers) == 0).await;
    let rows = failed(&servers, "");
    assert!(names(&rows, "broker broker-a/1") && names(&rows, &format!("broker {long}/1")), "{rows:?}");

    // A nameserver that never heard of a broker is no reason to be calm.
    let empty = cluster_of(1, &[], &[]);
    assert!(names(&failed(&empty, ""), "no broker is registered"));
    assert!(names(&failed(&empty, "liveness"), "no broker is registered"));
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(failure(&format!("check -n {unused}")).0, 6);
}

/// Sends are refused: the broker at `index` says so everywhere, in the check `name`.
async fn is_red(servers: &Cluster, index: usize, name: &str, words: &str) {
    let broker = &servers.brokers[index];
    let ready = async || broker.probe("/readyz").unwrap();
    eventually("it is not ready", PATIENCE, async || ready().await.status == 503).await;
    let told = ready().await;
    assert!(told.body.contains(words), "{told:?}");
    let rows = failed(servers, "readiness");
    assert!(names(&rows, &format!("readiness {name}: ")) && names(&rows, words), "{rows:?}");
    let logged = async || {
        let log = broker.log_tail();
        log.lines().any(|line| line.contains("WARN") && line.contains("not ready") && line.contains(words))
    };
    eventually("the log says so", PATIENCE, logged).await;
}

#[tokio::test]
async fn a_broker_that_refuses_sends_for_lack_of_room_is_red() {
    // More than any disk has: from the broker's view, the disk is full.
    let full = [
        ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1000000GiB"),
        ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "100ms"),
    ];
    let servers = standalone_with(&[], &full);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    is_red(&servers, 0, "disk", "sends are refused").await;
    let producer = servers.client().producer().start().await.unwrap();
    assert_eq!(refusal(producer.send(message("orders", "x")).await), Code::TooManyRequests);
}

#[tokio::test]
async fn a_group_without_master_or_with_too_few_members_is_red() {
    let settings = [("KEROLOX_BROKER__REPLICATION__MIN_IN_SYNC", "2")];
    let mut servers = group(2, &[], &settings).await;
    let master = master(&servers).await;
    let slave = 1 - master;
    eventually("all is well", PATIENCE, async || failed(&servers, "").is_empty()).await;
    for broker in &servers.brokers {
        let told = broker.probe("/readyz").unwrap();
        assert!(told.status == 200 && told.body.contains("\"master\""), "{told:?}");
    }

    servers.brokers[slave].kill().unwrap();
    is_red(&servers, master, "master", "replication.min-in-sync requires").await;
    servers.brokers[slave].start().unwrap();
    in_sync(&servers, 2).await;
    let is_ready = async || servers.brokers[master].probe("/readyz").unwrap().status == 200;
    eventually("it is ready again", PATIENCE, is_ready).await;
    let logged = async || servers.brokers[master].log_tail().contains("all is well again");
    eventually("the log says that, too", PATIENCE, logged).await;

    // No member may take over from the master: its group is without one.
    let members = mqadmin(&format!("getSyncStateSet -n {} --output json", servers.access_points()));
    let members: Value = serde_json::from_str(&members.stdout).unwrap();
    let address = servers.brokers[slave].address().unwrap();
    let members = members["brokers"][0]["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["address"] == address).unwrap();
    let (ns, id) = (servers.access_points(), &member["id"]);
    let drained = mqadmin(&format!("brokerDrain -n {ns} -b broker-a --member {id}"));
    assert_eq!(drained.code, 0, "{drained:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    servers.brokers[master].kill().unwrap();
    eventually("the slave notices", FORGOTTEN, async || {
        servers.brokers[slave].probe("/readyz").unwrap().status == 503
    })
    .await;
    is_red(&servers, slave, "master", "group broker-a has none").await;
    let rows = failed(&servers, "");
    assert!(names(&rows, "broker group broker-a replication"), "{rows:?}");
}
