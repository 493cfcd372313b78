//! Nameservers that lost their decisions, under members that kept theirs: no order of starts gives up an acknowledged message.

use std::time::Duration;

use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::kerolox::{DescribeGroupsRequest, ElectMasterRequest, GroupDescription};

use crate::support::{PATIENCE, consume, create, eventually, group, in_sync, master, message};

/// Messages that only some of the members have.
const LATE: usize = 100;

pub(crate) async fn description(servers: &Cluster) -> Option<GroupDescription> {
    let answer = servers.controller().describe_groups(DescribeGroupsRequest::default()).await;
    answer.ok()?.groups.into_iter().next()
}

/// A group of three that has acknowledged messages without its last member, which never ruled, and is down altogether. Tells which
/// broker that is, and how many messages there are.
pub(crate) async fn stale_group() -> (Cluster, usize, usize) {
    let mut servers = group(3, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "everybody has this")).await.unwrap();
    let stale = (master(&servers).await + 1) % 3;
    // The stale member has to know of everything that the copy knows.
    copy_of_the_nameserver(&mut servers).await;
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

/// The controller says, with these words, that it waits for other members, and does.
pub(crate) async fn nobody_is_elected(servers: &Cluster, why: &str) {
    let waits = async || description(servers).await.is_some_and(|group| group.waiting_for.contains(why));
    eventually("the controller says for whom it waits", PATIENCE, waits).await;
    // Longer than any timeout of an election.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let state = description(servers).await.unwrap().state.unwrap();
    assert_eq!(state.master, 0, "a member was elected without the others: {state:?}");
}

/// Takes a copy of the nameserver's folder, which stops for it, and waits until it has heard all members again.
pub(crate) async fn copy_of_the_nameserver(servers: &mut Cluster) {
    servers.nameservers[0].kill().unwrap();
    let copy = servers.folder().join("copy");
    servers.nameservers[0].copy_data(&copy).unwrap();
    servers.nameservers[0].start().unwrap();
    let heard_all = async || {
        let health = description(servers).await.map(|group| group.health).unwrap_or_default();
        !health.is_empty() && health.iter().all(|member| member.silent_ms.is_some())
    };
    eventually("all members report again", PATIENCE, heard_all).await;
}

/// Puts that copy in the place of the folder. The nameserver must not run.
pub(crate) fn restore_copy(servers: &mut Cluster) {
    let copy = servers.folder().join("copy");
    servers.nameservers[0].restore_data(&copy).unwrap();
}

/// Up to where a member has written down that the log is confirmed.
fn confirmed(broker: &ServerProcess) -> u64 {
    let file = std::fs::read(broker.data().join("member.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    file["confirmed"].as_u64().unwrap_or(0)
}

pub(crate) async fn expect_everything(servers: &Cluster, sent: usize) {
    let consumer = servers.consumer("billing", "orders").await.unwrap();
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
    nobody_is_elected(&servers, "missing").await;
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
    for (number, broker) in servers.brokers.iter().enumerate() {
        let path = broker.data().join("member.json");
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if number == stale {
            file["members"] = serde_json::json!([file["incarnation"]]);
        }
        // As an earlier version wrote it.
        file.as_object_mut().unwrap().remove("controller");
        file["version"] = serde_json::json!(2);
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    }
    servers.nameservers[0].start().unwrap();
    servers.brokers[stale].start().unwrap();
    assert_eq!(master(&servers).await, stale);
    nobody_gives_anything_up(&mut servers, stale).await;
    operator_takes(&servers, |group| {
        let master = group.state.as_ref().map(|state| state.master);
        let others = group.health.iter().filter(|member| Some(member.id) != master);
        others.max_by_key(|member| member.end).unwrap().id
    })
    .await;
    expect_everything(&servers, sent).await;
}

/// The other members start under a stale master: they refuse to cut, say so, and are not ready.
pub(crate) async fn nobody_gives_anything_up(servers: &mut Cluster, stale: usize) {
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
}

/// Makes the operator choose a master and accept the loss that comes with it.
pub(crate) async fn operator_takes(servers: &Cluster, choose: impl FnOnce(&GroupDescription) -> u64) {
    let group = description(servers).await.unwrap();
    let member = choose(&group);
    let state = group.state.unwrap();
    let request = ElectMasterRequest {
        cluster: state.cluster,
        group: state.group,
        member,
        unclean: true,
        lose_messages: true,
    };
    // On a busy machine a member may be silent for a moment.
    eventually("the controller elects it", PATIENCE, async || {
        match servers.controller().elect_master(request.clone()).await {
            Ok(_) => true,
            Err(status) if status.message().contains("is not there") => false,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    in_sync(servers, 3).await;
}

/// Whether a member has given up records: a copy of them lies beside its log.
fn cut_something(broker: &ServerProcess) -> bool {
    let mut files = std::fs::read_dir(broker.data().join("log")).unwrap();
    files.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("cut-"))
}
