//! Broker groups with slaves: what survives the master, and what clients notice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kerolox_client::{Message, RetryPolicy, SimpleConsumer};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::kerolox::{ElectMasterRequest, GroupState};
use kerolox_proto::v2::Code;
use kerolox_proto::v2::telemetry_command::Command;

use crate::calls_at_other_servers::Listener;
use crate::support::{
    NO_CHECKS, PATIENCE, body, consume, create, eventually, expect_nothing, group, in_sync, master, message,
    patient, raw, receive, refusal, state,
};

#[tokio::test]
async fn everything_survives_the_master() {
    let mut servers = group(3, &NO_CHECKS, &[]).await;
    for (topic, kind) in [("orders", "NORMAL"), ("payments", "TRANSACTION"), ("later", "DELAY")] {
        create(&servers, topic, kind).await;
    }
    let client = servers.client();
    let producer = client.producer().topic("orders").topic("later").retry_policy(patient());
    let producer = producer.start().await.unwrap();
    let transactional = client
        .producer()
        .topic("payments")
        .retry_policy(patient())
        .transaction_checker_sync(|_| kerolox_client::Resolution::Unknown)
        .start()
        .await
        .unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut sent: BTreeSet<String> = (0..40).map(|number| format!("before {number:02}")).collect();
    for body in &sent {
        producer.send(message("orders", body)).await.unwrap();
    }
    let first = consumer.receive(16, Duration::from_secs(60)).await.unwrap();
    assert!(!first.is_empty());
    for delivery in &first {
        consumer.ack(delivery).await.unwrap();
        sent.remove(body(delivery));
    }
    let open = transactional.send_in_transaction(message("payments", "open")).await.unwrap();
    let gone = transactional.send_in_transaction(message("payments", "gone")).await.unwrap();
    gone.rollback().await.unwrap();
    let due = SystemTime::now() + Duration::from_secs(6);
    let later = Message::builder("later").body("later").delivery_timestamp(due).build();
    producer.send(later).await.unwrap();

    let old = master(&servers).await;
    servers.brokers[old].kill().unwrap();
    let killed = Instant::now();
    producer.send(message("orders", "after")).await.unwrap();
    eprintln!("time without writes: {:?}", killed.elapsed());
    sent.insert("after".to_owned());
    assert_ne!(master(&servers).await, old);

    // What was acknowledged stays so, and everything else comes.
    assert_eq!(consume_after_failover(&consumer, sent.len()).await, sent);
    expect_nothing(&consumer).await;
    open.commit().await.unwrap();
    let payments = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&payments, 1).await, ["open"]);
    expect_nothing(&payments).await;
    let laters = servers.consumer("clock", "later").await.unwrap();
    assert_eq!(consume(&laters, 1).await, ["later"]);
    assert!(SystemTime::now() >= due, "never early");

    // The old master comes back as a slave, with the same bytes as the others.
    servers.brokers[old].start().unwrap();
    in_sync(&servers, 3).await;
    eventually("the logs are the same", PATIENCE, async || are_logs_equal(&servers)).await;
}

/// Consumes with a client that still has the old master in its routes.
async fn consume_after_failover(consumer: &SimpleConsumer, count: usize) -> BTreeSet<String> {
    let (mut received, began) = (BTreeSet::new(), Instant::now());
    while received.len() < count {
        assert!(began.elapsed() < PATIENCE, "only {} of {count} messages came", received.len());
        for delivery in consumer.receive(32, Duration::from_secs(60)).await.unwrap_or_default() {
            consumer.ack(&delivery).await.unwrap();
            assert!(received.insert(body(&delivery).to_owned()), "{delivery:?} came twice");
        }
    }
    received
}

/// Whether the segments of all members hold the same bytes.
fn are_logs_equal(servers: &Cluster) -> bool {
    let log = |broker: &kerolox_harness::ServerProcess| {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(broker.data().join("log")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let mut bytes = std::fs::read(&path).unwrap();
                // Room that is reserved behind the end.
                bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
                segments.push((path.file_name().unwrap().to_owned(), bytes));
            }
        }
        segments.sort();
        segments
    };
    let logs: Vec<_> = servers.brokers.iter().map(log).collect();
    logs.windows(2).all(|pair| pair[0] == pair[1])
}

#[tokio::test]
async fn a_rolling_restart_fails_no_send() {
    let mut servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let client = servers.client();
    let stop = Arc::new(AtomicBool::new(false));
    let sending = {
        let (producer, stop) = (client.producer().topic("orders").start().await.unwrap(), stop.clone());
        tokio::spawn(async move {
            let (mut sent, mut longest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                producer.send(message("orders", &sent.to_string())).await.unwrap();
                longest = longest.max(began.elapsed());
                sent += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (sent, longest)
        })
    };
    for _ in 0..2 {
        for broker in 0..2 {
            servers.brokers[broker].stop().unwrap();
            servers.brokers[broker].start().unwrap();
            in_sync(&servers, 2).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (sent, longest) = sending.await.unwrap();
    eprintln!("{sent} sends, the longest took {longest:?}");
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = BTreeSet::new();
    while received.len() < sent {
        for delivery in consumer.receive(32, Duration::from_secs(60)).await.unwrap() {
            consumer.ack(&delivery).await.unwrap();
            received.insert(body(&delivery).to_owned());
        }
    }
    assert_eq!(received.len(), sent);
}

#[tokio::test]
async fn who_was_told_of_all_members_is_asked_to_look_for_the_new_master() {
    let servers = group(2, &[], &[]).await;
    create(&servers, "payments", "TRANSACTION").await;
    let GroupState { cluster, group, master: ruling, .. } = state(&servers).await;
    let old = master(&servers).await;
    let mut server = raw(&servers.brokers[old]).await;
    // Java tries all addresses of a broker; Node.js, which says "HTTP", knows only the one it was given.
    let mut java = Listener::open_as("JAVA", &mut server).await;
    let mut nodejs = Listener::open_as("HTTP", &mut server).await;
    let other =
        state(&servers).await.members.iter().map(|member| member.id).find(|id| *id != ruling).unwrap();
    let request = ElectMasterRequest { cluster, group, member: other, ..Default::default() };
    servers.controller().elect_master(request).await.unwrap();
    assert!(matches!(java.next().await, Command::ReconnectEndpointsCommand(_)));
    assert!(nodejs.is_silent_for(Duration::from_secs(1)).await);
    assert_ne!(master(&servers).await, old);
}

#[tokio::test]
async fn a_master_that_stood_still_acknowledges_nothing_that_is_lost() {
    let servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let old = master(&servers).await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "0")).await.unwrap();
    servers.brokers[old].pause().unwrap();
    eventually("another one rules", PATIENCE, async || state(&servers).await.epoch > 1).await;
    producer.send(message("orders", "1")).await.unwrap();
    servers.brokers[old].resume().unwrap();
    producer.send(message("orders", "2")).await.unwrap();
    in_sync(&servers, 2).await;
    assert_ne!(master(&servers).await, old);
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let received: BTreeSet<String> =
        receive(&consumer, 3).await.iter().map(|one| body(one).to_owned()).collect();
    assert_eq!(received, ["0", "1", "2"].map(str::to_owned).into());
    eventually("the logs are the same", PATIENCE, async || are_logs_equal(&servers)).await;
}

/// Waits for an answer of `/readyz`: a leader goes by the in-sync set that it asked for a moment after the controller does.
async fn until_ready(broker: &ServerProcess, status: u16) {
    let has_status = async || broker.probe("/readyz").unwrap().status == status;
    eventually("the broker says whether it takes messages", PATIENCE, has_status).await;
}

#[tokio::test]
async fn too_few_members_in_sync_refuse_what_is_to_be_kept() {
    let mut servers = group(2, &[], &[("KEROLOX_BROKER__REPLICATION__MIN_IN_SYNC", "2")]).await;
    until_ready(&servers.brokers[master(&servers).await], 200).await;
    create(&servers, "orders", "NORMAL").await;
    let client = servers.client();
    let producer =
        client.producer().topic("orders").retry_policy(RetryPolicy::never()).start().await.unwrap();
    let slave = 1 - master(&servers).await;
    until_ready(&servers.brokers[1 - slave], 200).await;
    producer.send(message("orders", "both")).await.unwrap();
    servers.brokers[slave].kill().unwrap();
    in_sync(&servers, 1).await;
    until_ready(&servers.brokers[1 - slave], 503).await;
    let refused = producer.send(message("orders", "one")).await;
    assert_eq!(refusal(refused), Code::HaNotAvailable);
    servers.brokers[slave].start().unwrap();
    in_sync(&servers, 2).await;
    until_ready(&servers.brokers[1 - slave], 200).await;
    producer.send(message("orders", "both again")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["both", "both again"]);
}

#[tokio::test]
async fn running_brokers_go_on_without_nameservers() {
    let mut servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    producer.send(message("orders", "with")).await.unwrap();
    let before = state(&servers).await;
    servers.nameservers[0].kill().unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    producer.send(message("orders", "without")).await.unwrap();
    servers.nameservers[0].start().unwrap();
    in_sync(&servers, 2).await;
    assert_eq!(state(&servers).await.epoch, before.epoch, "no master was elected");
    // Brokers register every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["with", "without"]);
}

/// A member whose folder was emptied is another one: it promised nothing, and gets everything.
#[tokio::test]
async fn an_emptied_member_comes_back_as_another_one() {
    let mut servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in 0..20 {
        producer.send(message("orders", &format!("{number:02} {}", "x".repeat(100_000)))).await.unwrap();
    }
    let slave = 1 - master(&servers).await;
    servers.brokers[slave].kill().unwrap();
    std::fs::remove_dir_all(servers.brokers[slave].data()).unwrap();
    servers.brokers[slave].start().unwrap();
    let is_another = async || {
        let now = state(&servers).await;
        now.members.len() == 3 && now.in_sync.contains(&3) && now.in_sync.len() == 2
    };
    eventually("it is in sync as the third member", PATIENCE, is_another).await;
    eventually("the logs are the same", PATIENCE, async || are_logs_equal(&servers)).await;
    let master = master(&servers).await;
    servers.brokers[master].kill().unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 20).await.len(), 20);
}

/// A member that lacks what was acknowledged is elected by hand: what only the old master had is given up, and kept aside.
#[tokio::test]
async fn an_unclean_election_keeps_aside_what_it_gives_up() {
    let mut servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let client = servers.client();
    let producer = client.producer().topic("orders").retry_policy(patient()).start().await.unwrap();
    producer.send(message("orders", "both have this")).await.unwrap();
    let old = master(&servers).await;
    servers.brokers[1 - old].kill().unwrap();
    producer.send(message("orders", "only the old master has this")).await.unwrap();
    servers.brokers[old].kill().unwrap();
    servers.brokers[1 - old].start().unwrap();

    let GroupState { cluster, group, master: ruling, .. } = state(&servers).await;
    let member =
        state(&servers).await.members.iter().map(|member| member.id).find(|id| *id != ruling).unwrap();
    let elect = async |unclean, lose_messages| {
        let (cluster, group) = (cluster.clone(), group.clone());
        let request = ElectMasterRequest { cluster, group, member, unclean, lose_messages };
        servers.controller().elect_master(request).await.map_err(|status| status.message().to_owned())
    };
    assert!(elect(false, false).await.is_err(), "a loss that was not accepted elects no master");
    let says =
        async || elect(true, false).await.is_err_and(|reason| reason.contains("bytes of the log are lost"));
    eventually("the loss has to be accepted", PATIENCE, says).await;
    eventually("it is elected", PATIENCE, async || elect(true, true).await.is_ok()).await;
    producer.send(message("orders", "a new life")).await.unwrap();
    servers.brokers[old].start().unwrap();
    in_sync(&servers, 2).await;
    eventually("the logs are the same", PATIENCE, async || are_logs_equal(&servers)).await;
    assert_eq!(master(&servers).await, 1 - old);

    let given_up: Vec<u8> = std::fs::read_dir(servers.brokers[old].data().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("cut-"))
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect();
    let holds = |body: &str| given_up.windows(body.len()).any(|bytes| bytes == body.as_bytes());
    assert!(holds("only the old master has this") && !holds("both have this"));
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut received = consume(&consumer, 2).await;
    received.sort();
    assert_eq!(received, ["a new life", "both have this"]);
    expect_nothing(&consumer).await;
}

/// A master that cannot have anything confirmed when a message is due stores it when it can.
#[tokio::test]
async fn a_message_that_fell_due_while_nothing_could_be_stored_comes_afterwards() {
    let mut servers = group(2, &[], &[]).await;
    create(&servers, "later", "DELAY").await;
    let producer = servers.client().producer().topic("later").start().await.unwrap();
    let due = SystemTime::now() + Duration::from_secs(3);
    producer.send(Message::builder("later").body("later").delivery_timestamp(due).build()).await.unwrap();
    let slave = 1 - master(&servers).await;
    // Without a nameserver the set in sync stays as it is, so nothing is confirmed without the slave.
    servers.nameservers[0].kill().unwrap();
    servers.brokers[slave].kill().unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    servers.nameservers[0].start().unwrap();
    servers.brokers[slave].start().unwrap();
    in_sync(&servers, 2).await;
    let consumer = servers.consumer("clock", "later").await.unwrap();
    assert_eq!(consume_after_failover(&consumer, 1).await, BTreeSet::from(["later".to_owned()]));
    expect_nothing(&consumer).await;
}
