//! Nameservers that lost what they decided, under members that did not: whoever starts first, nothing acknowledged is given up.

use std::time::Duration;

use kerolox_kit::controller::ControllerClient;
use kerolox_proto::kerolox::{DescribeGroupsRequest, ElectMasterRequest, GroupDescription};
use kerolox_tests::process::Server;

use crate::replication::{create, group, in_sync, master};
use crate::support::{PATIENCE, Servers, consume, eventually, message};

/// Messages that only some of the members have.
const LATE: usize = 100;

async fn description(servers: &Servers) -> Option<GroupDescription> {
    let controller = ControllerClient::new(&[servers.access_points()]).unwrap();
    let answer = controller.describe_groups(DescribeGroupsRequest::default()).await;
    answer.ok()?.groups.into_iter().next()
}

/// A group of three that has acknowledged messages without its last member, which never ruled, and is down altogether. Tells which
/// broker that is, and how many messages there are.
async fn stale_group() -> (Servers, usize, usize) {
    let mut servers = group(3, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "everybody has this")).await.unwrap();
    let stale = (master(&servers).await + 1) % 3;
    servers.brokers[stale].kill().unwrap();
    let late_bytes = confirmed(&servers.brokers[stale]) + LATE as u64 * 100;
    for number in 0..LATE {
        producer.send(message("orders", &format!("late {number:03}"))).await.unwrap();
    }
    let mut sent = LATE + 1;
    // The others have written down that those are confirmed; that may take a second, and another record.
    eventually("the others know what was confirmed", PATIENCE, async || {
        producer.send(message("orders", "one more")).await.unwrap();
        sent += 1;
        let others = [0, 1, 2].into_iter().filter(|broker| *broker != stale);
        others.map(|broker| confirmed(&servers.brokers[broker])).all(|confirmed| confirmed > late_bytes)
    })
    .await;
    drop(producer);
    let down = [0, 1, 2].into_iter().filter(|broker| *broker != stale);
    down.for_each(|broker| servers.brokers[broker].kill().unwrap());
    servers.nameservers[0].kill().unwrap();
    (servers, stale, sent)
}

/// Up to where a member has written down that the log is confirmed.
fn confirmed(broker: &Server) -> u64 {
    let file = std::fs::read(broker.data().join("member.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    file["confirmed"].as_u64().unwrap_or(0)
}

async fn expect_everything(servers: &Servers, sent: usize) {
    let consumer = servers.consumer("billing", "orders").await;
    let received = consume(&consumer, sent).await;
    let late = (0..LATE).map(|number| format!("late {number:03}"));
    assert!(
        late.chain(["everybody has this".to_owned()]).all(|body| received.contains(&body)),
        "{received:?}"
    );
}

/// The folder of the nameserver is gone, and the member that lacks the newest messages starts first.
#[tokio::test]
async fn a_stale_member_that_starts_first_waits_for_the_others() {
    let (mut servers, stale, sent) = stale_group().await;
    std::fs::remove_dir_all(servers.nameservers[0].data()).unwrap();
    servers.nameservers[0].start().unwrap();
    servers.brokers[stale].begin().unwrap();
    let waits =
        async || description(&servers).await.is_some_and(|group| group.waiting_for.contains("missing"));
    eventually("the controller says for whom it waits", PATIENCE, waits).await;
    // Longer than any timeout of an election.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let state = description(&servers).await.unwrap().state.unwrap();
    assert_eq!(state.master, 0, "it was elected without the members that it knows: {state:?}");
    for broker in (0..3).filter(|broker| *broker != stale) {
        servers.brokers[broker].begin().unwrap();
    }
    for broker in &mut servers.brokers {
        broker.wait().unwrap();
    }
    in_sync(&servers, 3).await;
    assert_ne!(master(&servers).await, stale, "it rules only when it has everything");
    expect_everything(&servers, sent).await;
}

/// The stale member lost its memory of the others as well, and is elected. The others give up nothing for it, say so, and are not
/// ready, until an operator decides.
#[tokio::test]
async fn nobody_gives_up_what_was_confirmed_without_an_operator() {
    let (mut servers, stale, sent) = stale_group().await;
    std::fs::remove_dir_all(servers.nameservers[0].data()).unwrap();
    let path = servers.brokers[stale].data().join("member.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["members"] = serde_json::json!([file["incarnation"]]);
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    servers.nameservers[0].start().unwrap();
    servers.brokers[stale].start().unwrap();
    assert_eq!(master(&servers).await, stale);
    let others: Vec<usize> = (0..3).filter(|broker| *broker != stale).collect();
    for broker in &others {
        servers.brokers[*broker].begin().unwrap();
    }
    for broker in &others {
        let broker = &servers.brokers[*broker];
        let refuses = async || {
            let told = broker.probe("/readyz").ok();
            told.is_some_and(|told| told.status == 503 && told.body.contains("nothing is cut"))
        };
        eventually("it refuses to give up what was confirmed", PATIENCE, refuses).await;
        assert!(!cut_something(broker), "something was cut");
    }
    // The operator takes the member that has everything.
    let group = description(&servers).await.unwrap();
    let state = group.state.unwrap();
    let best =
        group.health.iter().max_by_key(|member| (member.last_epoch, member.end, member.id != state.master));
    let held = group.health.iter().filter(|member| member.id != state.master).max_by_key(|member| member.end);
    let member = held.or(best).unwrap().id;
    let request = ElectMasterRequest { cluster: state.cluster, group: state.group, member, unclean: true };
    let controller = ControllerClient::new(&[servers.access_points()]).unwrap();
    controller.elect_master(request).await.unwrap();
    in_sync(&servers, 3).await;
    expect_everything(&servers, sent).await;
}

/// Whether a member has given up records: a copy of them lies beside its log.
fn cut_something(broker: &Server) -> bool {
    let mut files = std::fs::read_dir(broker.data().join("log")).unwrap();
    files.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("cut-"))
}
