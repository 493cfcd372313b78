//! Transactions with the Rust client.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kerolox_client::admin::wire;
use kerolox_client::{Address, HalfMessage, Producer, Resolution, RetryPolicy};
use kerolox_proto::v2::Code;

use kerolox_harness::Cluster;

use crate::support::{
    NO_CHECKS, PATIENCE, bodies, cluster_of, consume, eventually, expect_nothing, message, receive,
    receive_one, refusal, standalone,
};

pub(crate) const CHECKS_EVERY_SECOND: [&str; 4] =
    ["--transaction-first-check", "1s", "--transaction-check-interval", "1s"];

/// A producer of the topic "payments" that answers check-backs.
pub(crate) async fn producer(
    servers: &Cluster,
    checker: impl Fn(&HalfMessage) -> Resolution + Send + Sync + 'static,
) -> Producer {
    let producer = servers.client().producer().topic("payments").transaction_checker_sync(checker);
    producer.start().await.unwrap()
}

fn never_asked(half: &HalfMessage) -> Resolution {
    panic!("asked about {half:?}")
}

/// The number of undecided half messages of "payments" on the first broker.
pub(crate) async fn undecided(servers: &Cluster) -> u64 {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeTopicRequest { name: "payments".to_owned() };
    let answer = servers.client().admin().broker(&address).describe_topic(request).await.unwrap();
    answer.undecided_transactions
}

#[tokio::test]
async fn only_what_is_committed_becomes_visible() {
    let servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let producer = producer(&servers, never_asked).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let committed = producer.send_in_transaction(message("payments", "committed")).await.unwrap();
    let rolled_back = producer.send_in_transaction(message("payments", "rolled back")).await.unwrap();
    let _open = producer.send_in_transaction(message("payments", "open")).await.unwrap();
    expect_nothing(&consumer).await;
    assert_eq!(undecided(&servers).await, 3);

    committed.commit().await.unwrap();
    rolled_back.rollback().await.unwrap();
    let delivery = receive_one(&consumer).await;
    assert_eq!(delivery.message_id(), committed.message_id());
    assert_eq!(delivery.message().body(), "committed");
    consumer.ack(&delivery).await.unwrap();
    expect_nothing(&consumer).await;
    assert_eq!(undecided(&servers).await, 1);
}

#[tokio::test]
async fn the_first_decision_stands() {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let producer = producer(&servers, never_asked).await;
    let committed = producer.send_in_transaction(message("payments", "committed")).await.unwrap();
    committed.commit().await.unwrap();
    committed.commit().await.expect("a repeated decision is harmless");
    assert_eq!(refusal(committed.rollback().await), Code::PreconditionFailed);
    let rolled_back = producer.send_in_transaction(message("payments", "rolled back")).await.unwrap();
    rolled_back.rollback().await.unwrap();
    rolled_back.rollback().await.expect("a repeated decision is harmless");
    let error = rolled_back.commit().await.unwrap_err();
    assert_eq!(error.code().unwrap(), Code::PreconditionFailed);
    assert!(error.to_string().contains("rolled back before"), "{error}");

    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["committed"]);
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn an_unknown_transaction_is_asked_about_until_the_checker_decides() {
    let servers = cluster_of(1, &["broker-a"], &CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let producer = producer(&servers, move |half| {
        let mut seen = seen.lock().unwrap();
        seen.push((half.clone(), Instant::now()));
        let number = seen.len();
        if number < 3 { Resolution::Unknown } else { Resolution::Commit }
    })
    .await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let sent = Instant::now();
    let transaction = producer.send_in_transaction(message("payments", "slow")).await.unwrap();
    let delivery = receive_one(&consumer).await;
    assert_eq!((delivery.message_id(), delivery.attempt()), (transaction.message_id(), 1));
    consumer.ack(&delivery).await.unwrap();
    expect_nothing(&consumer).await;

    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 3, "a decided transaction is not checked");
    let receipt = transaction.receipt();
    for (number, (half, at)) in (1..).zip(asked.iter()) {
        assert_eq!(half.message().body(), "slow");
        assert_eq!(half.message_id(), receipt.message_id);
        assert_eq!(Some(half.transaction_id()), receipt.transaction_id.as_deref());
        // The broker's clock counts whole milliseconds, and the one of this test does not.
        let after = at.duration_since(sent) + Duration::from_millis(1);
        assert!(after >= Duration::from_secs(number) && after < Duration::from_secs(number + 2), "{after:?}");
    }
}

#[tokio::test]
async fn any_producer_of_the_topic_may_be_asked() {
    let servers = cluster_of(1, &["broker-a"], &CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let sender = producer(&servers, never_asked).await;
    // Left before the first check; dropping the transaction decides nothing.
    drop(sender.send_in_transaction(message("payments", "orphan")).await.unwrap());
    sender.shutdown().await;
    let answers = Arc::new(AtomicU32::new(0));
    let mut others = Vec::new();
    for _ in 0..3 {
        let answers = Arc::clone(&answers);
        others.push(
            producer(&servers, move |_| {
                answers.fetch_add(1, Ordering::Relaxed);
                Resolution::Commit
            })
            .await,
        );
    }
    assert_eq!(consume(&consumer, 1).await, ["orphan"]);
    expect_nothing(&consumer).await;
    assert_eq!(answers.load(Ordering::Relaxed), 1, "one answer is enough");
}

#[tokio::test]
async fn transactions_of_several_producers_each_go_their_way() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let mut tasks = Vec::new();
    for name in ["p", "q", "r"] {
        let producer = producer(&servers, never_asked).await;
        tasks.push(tokio::spawn(async move {
            for number in 0..10 {
                let half = message("payments", &format!("{name}{number}"));
                let transaction = producer.send_in_transaction(half).await.unwrap();
                match number % 2 {
                    0 => transaction.commit().await.unwrap(),
                    _ => transaction.rollback().await.unwrap(),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<String> = ["p", "q", "r"]
        .iter()
        .flat_map(|name| (0..10).step_by(2).map(move |n| format!("{name}{n}")))
        .collect();
    assert_eq!(consume(&consumer, 15).await, expected);
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn after_the_last_check_a_half_message_is_parked_and_can_still_be_settled() {
    let flags = [&CHECKS_EVERY_SECOND[..], &["--transaction-check-max", "2"]].concat();
    let servers = standalone(&flags);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let producer = producer(&servers, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Resolution::Unknown
    })
    .await;
    let transaction = producer.send_in_transaction(message("payments", "parked")).await.unwrap();
    eventually("two checks", PATIENCE, || async { asked.load(Ordering::Relaxed) == 2 }).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((asked.load(Ordering::Relaxed), undecided(&servers).await), (2, 1));

    transaction.commit().await.unwrap();
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["parked"]);
    assert_eq!(undecided(&servers).await, 0);
}

#[tokio::test]
async fn a_transaction_outlives_its_broker_process() {
    let mut servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let patient = RetryPolicy::default().attempts(30);
    let producer = servers
        .client()
        .producer()
        .topic("payments")
        .transaction_checker_sync(never_asked)
        .retry_policy(patient)
        .start()
        .await
        .unwrap();
    let transaction = producer.send_in_transaction(message("payments", "survivor")).await.unwrap();
    servers.brokers[0].kill().unwrap();
    let (committed, started) = tokio::join!(transaction.commit(), async {
        // The commit meets the dead broker first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        servers.brokers[0].start()
    });
    started.unwrap();
    committed.unwrap();
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["survivor"]);
    expect_nothing(&consumer).await;
}

/// Bodies of what a transaction of three messages holds.
const TOGETHER: [&str; 3] = ["debit", "credit", "receipt"];

fn together() -> Vec<kerolox_client::Message> {
    TOGETHER.map(|body| message("payments", body)).to_vec()
}

#[tokio::test]
async fn messages_of_one_transaction_become_visible_together_or_never() {
    let mut servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let producer = producer(&servers, never_asked).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let committed = producer.send_all_in_transaction(together()).await.unwrap();
    let rolled_back = producer.send_all_in_transaction(together()).await.unwrap();
    let _open = producer.send_all_in_transaction(together()).await.unwrap();
    expect_nothing(&consumer).await;
    assert_eq!(undecided(&servers).await, 3);
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(undecided(&servers).await, 3);
    committed.commit().await.unwrap();
    rolled_back.rollback().await.unwrap();
    assert_eq!(refusal(committed.rollback().await), Code::PreconditionFailed);
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let received = receive(&consumer, TOGETHER.len()).await;
    assert_eq!(bodies(&received), ["credit", "debit", "receipt"]);
    for delivery in &received {
        consumer.ack(delivery).await.unwrap();
    }
    expect_nothing(&consumer).await;
    assert_eq!(undecided(&servers).await, 1);
}

#[tokio::test]
async fn one_check_back_decides_about_all_messages_of_a_transaction() {
    let servers = cluster_of(1, &["broker-a"], &CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let said = asked.clone();
    let producer = producer(&servers, move |half| {
        said.lock().unwrap().push(half.message().body().to_vec());
        Resolution::Commit
    });
    let producer = producer.await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let _open = producer.send_all_in_transaction(together()).await.unwrap();
    assert_eq!(receive(&consumer, TOGETHER.len()).await.len(), TOGETHER.len());
    assert_eq!(asked.lock().unwrap().as_slice(), [b"receipt"]);
}

#[tokio::test]
async fn a_topic_without_duplicates_takes_one_message_for_each_transaction() {
    let servers = cluster_of(1, &["broker-a"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: "payments".to_owned(),
        attributes: vec!["+dedup=id".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
    let producer = producer(&servers, never_asked).await;
    let refused = refusal(producer.send_all_in_transaction(together()).await);
    assert_eq!(refused, Code::MessagePropertyConflictWithType);
    assert_eq!(undecided(&servers).await, 0);
    let _open = producer.send_in_transaction(message("payments", "alone")).await.unwrap();
    assert_eq!(undecided(&servers).await, 1);
}
