//! Nameservers whose folder is lost, replaced by an older copy, or exchanged, under members that know better.

use std::fs;
use std::time::Duration;

use kerolox_client::Producer;
use kerolox_harness::{Cluster, ServerProcess};

use crate::forgotten_decisions::{
    copy_of_the_nameserver, description, expect_everything, nobody_is_elected, operator_takes, restore_copy,
    stale_group,
};
use crate::support::{
    GROUP, PATIENCE, consume, create, eventually, group, in_sync, master, message, patient, plan, server,
    state,
};

/// The number of log lines that call for an operator: warnings and errors.
fn alarms(server: &ServerProcess) -> usize {
    server.log().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count()
}

async fn producer(servers: &Cluster) -> Producer {
    create(servers, "orders", "NORMAL").await;
    servers.client().producer().topic("orders").retry_policy(patient()).start().await.unwrap()
}

/// Every member is ready, and a send gets through.
async fn expect_health(servers: &Cluster, producer: &Producer, body: &str) {
    in_sync(servers, servers.brokers.len()).await;
    producer.send(message("orders", body)).await.unwrap();
    for broker in &servers.brokers {
        let is_ready = async || broker.probe("/readyz").is_ok_and(|told| told.status == 200);
        eventually("each member is ready", PATIENCE, is_ready).await;
    }
}

async fn expect_messages(servers: &Cluster, count: usize) {
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let received = consume(&consumer, count).await;
    assert!((0..count).all(|number| received.contains(&format!("{number}"))), "{received:?}");
}

/// The nameserver's folder is lost again and again while the members run. Each time they tell it what it has to know, and say little.
#[tokio::test]
async fn a_nameserver_that_lost_its_folder_under_running_members_learns_from_them_every_time() {
    let mut servers = group(3, &[], &[]).await;
    let producer = producer(&servers).await;
    expect_health(&servers, &producer, "0").await;
    for round in 1..=7 {
        let (epoch, alarmed) =
            (state(&servers).await.epoch, servers.brokers.iter().map(alarms).sum::<usize>());
        servers.nameservers[0].kill().unwrap();
        fs::remove_dir_all(servers.nameservers[0].data()).unwrap();
        servers.nameservers[0].start().unwrap();
        expect_health(&servers, &producer, &round.to_string()).await;
        assert!(state(&servers).await.epoch > epoch);
        let alarmed = servers.brokers.iter().map(alarms).sum::<usize>() - alarmed;
        assert!(alarmed < 60, "{alarmed} warnings in round {round}");
    }
    expect_messages(&servers, 8).await;
}

/// The nameservers are lost while a member that was not in sync is down: the others do not wait for it.
#[tokio::test]
async fn members_that_were_not_in_sync_are_not_waited_for() {
    let mut servers = group(3, &[], &[]).await;
    let producer = producer(&servers).await;
    let dead = (master(&servers).await + 1) % 3;
    servers.brokers[dead].kill().unwrap();
    in_sync(&servers, 2).await;
    producer.send(message("orders", "0")).await.unwrap();
    servers.nameservers[0].kill().unwrap();
    fs::remove_dir_all(servers.nameservers[0].data()).unwrap();
    servers.nameservers[0].start().unwrap();
    in_sync(&servers, 2).await;
    servers.brokers[dead].start().unwrap();
    expect_health(&servers, &producer, "1").await;
    expect_messages(&servers, 2).await;
}

/// All three nameservers lose their folders at once.
#[tokio::test]
async fn three_nameservers_that_lost_their_folders_learn_from_running_members() {
    let mut servers = plan().nameserver_quorum(3).group(GROUP, 3).start().unwrap();
    in_sync(&servers, 3).await;
    let producer = producer(&servers).await;
    expect_health(&servers, &producer, "0").await;
    for round in 1..=2 {
        servers.nameservers.iter_mut().for_each(|one| one.kill().unwrap());
        for one in &mut servers.nameservers {
            fs::remove_dir_all(one.data()).unwrap();
            one.begin().unwrap();
        }
        servers.nameservers.iter_mut().for_each(|one| one.wait().unwrap());
        expect_health(&servers, &producer, &round.to_string()).await;
    }
    expect_messages(&servers, 3).await;
}

/// The copy names a member in sync that has lost the set since, and that member starts first.
#[tokio::test]
async fn an_older_copy_elects_nobody_while_members_are_missing_that_know_better() {
    let (mut servers, stale, sent) = stale_group().await;
    restore_copy(&mut servers);
    servers.nameservers[0].start().unwrap();
    servers.brokers[stale].begin().unwrap();
    nobody_is_elected(&servers, "older copy").await;
    for broker in (0..3).filter(|broker| *broker != stale) {
        servers.brokers[broker].begin().unwrap();
    }
    servers.brokers.iter_mut().for_each(|broker| broker.wait().unwrap());
    in_sync(&servers, 3).await;
    assert_ne!(master(&servers).await, stale, "it rules only when it has everything");
    expect_everything(&servers, sent).await;
}

/// The others come so late that the stale member rules by then. Nothing is cut on either side until an operator decides.
#[tokio::test]
async fn two_histories_are_kept_until_an_operator_decides() {
    let (mut servers, stale, sent) = stale_group().await;
    restore_copy(&mut servers);
    let hasty = server("nameserver-1", "nameserver", servers.folder(), &[])
        .env("KEROLOX_NAMESERVER__CONTROLLER__RESTART_PATIENCE", "1s")
        .listen(servers.nameservers[0].address().unwrap());
    servers.nameservers[0] = hasty;
    servers.nameservers[0].start().unwrap();
    servers.brokers[stale].start().unwrap();
    let rules = async || master(&servers).await == stale;
    eventually("the stale member is elected", PATIENCE, rules).await;
    for broker in (0..3).filter(|broker| *broker != stale) {
        servers.brokers[broker].begin().unwrap();
    }
    let waits =
        async || description(&servers).await.is_some_and(|group| group.waiting_for.contains("both sides"));
    eventually("the controller leaves the choice to an operator", PATIENCE, waits).await;
    let unready = async || {
        servers.brokers.iter().all(|broker| broker.probe("/readyz").is_ok_and(|told| told.status == 503))
    };
    eventually("no member is ready", PATIENCE, unready).await;
    let best = servers.brokers[(stale + 1) % 3].address().unwrap();
    operator_takes(&servers, |group| {
        let members = &group.state.as_ref().unwrap().members;
        members.iter().find(|member| format!("{}:{}", member.host, member.port) == best).unwrap().id
    })
    .await;
    expect_everything(&servers, sent).await;
}

/// The older copy takes the place of the folder while members run.
#[tokio::test]
async fn an_older_copy_under_running_members_is_put_right_by_them() {
    let mut servers = group(3, &[], &[]).await;
    let producer = producer(&servers).await;
    expect_health(&servers, &producer, "0").await;
    copy_of_the_nameserver(&mut servers).await;
    let stale = (master(&servers).await + 1) % 3;
    servers.brokers[stale].kill().unwrap();
    for number in 1..50 {
        producer.send(message("orders", &number.to_string())).await.unwrap();
    }
    in_sync(&servers, 2).await;
    for _ in 0..2 {
        servers.nameservers[0].kill().unwrap();
        restore_copy(&mut servers);
        servers.nameservers[0].start().unwrap();
        in_sync(&servers, 2).await;
    }
    servers.brokers[stale].start().unwrap();
    expect_health(&servers, &producer, "50").await;
    expect_messages(&servers, 51).await;
}

/// The folder of the nameserver of another cluster takes the place of its own: members refuse it, and say so.
#[tokio::test]
async fn the_folder_of_another_nameserver_is_refused_by_members() {
    let mut servers = group(3, &[], &[]).await;
    let producer = producer(&servers).await;
    expect_health(&servers, &producer, "0").await;
    let mut other = group(1, &[], &[]).await;
    let (own, kept) = (servers.nameservers[0].data(), servers.folder().join("kept"));
    servers.nameservers[0].kill().unwrap();
    other.nameservers[0].kill().unwrap();
    fs::rename(&own, &kept).unwrap();
    other.nameservers[0].copy_data(&own).unwrap();
    servers.nameservers[0].start().unwrap();
    let refuses = |broker: &ServerProcess, status: u16| {
        let told = broker.probe("/readyz").ok();
        told.is_some_and(|told| told.status == status && told.body.contains("cluster id"))
    };
    let all = async || servers.brokers.iter().all(|broker| refuses(broker, 200));
    eventually("members refuse it, and go on under their master", PATIENCE, all).await;
    producer.send(message("orders", "1")).await.unwrap();
    // Restarted members do not serve.
    servers.brokers.iter_mut().for_each(|broker| broker.kill().unwrap());
    servers.brokers.iter_mut().for_each(|broker| broker.begin().unwrap());
    let all = async || servers.brokers.iter().all(|broker| refuses(broker, 503));
    eventually("members refuse it, and are not ready", PATIENCE, all).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(servers.brokers.iter().all(|broker| alarms(broker) < 30), "they say it too often");
    servers.nameservers[0].kill().unwrap();
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&kept, &own).unwrap();
    servers.nameservers[0].start().unwrap();
    servers.brokers.iter_mut().for_each(|broker| broker.wait().unwrap());
    expect_health(&servers, &producer, "2").await;
    expect_messages(&servers, 3).await;
}
