//! Transactional messages: commit, rollback, check-back, and producers that are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kerolox_sdk_tests::{Access, Cluster, Receiver, bodies, each_access_point, eventually, message};
use rocketmq::Producer;
use rocketmq::model::transaction::{Transaction, TransactionResolution};

/// Commits after `unknown` answers that decide nothing; remembers what it was asked about.
#[derive(Clone, Default)]
pub struct Checker(Arc<Mutex<Vec<String>>>);

impl Checker {
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    /// A producer that answers `last` after `unknown` answers that decide nothing.
    pub async fn producer(
        &self,
        cluster: &Cluster,
        access: Access,
        topic: &str,
        unknown: usize,
        last: Decision,
    ) -> Producer {
        let asked = self.0.clone();
        let checker = Box::new(move |_id: String, message: rocketmq::model::message::MessageView| {
            let mut asked = asked.lock().expect("no panic");
            asked.push(String::from_utf8_lossy(message.body()).into_owned());
            match last {
                _ if asked.len() <= unknown => TransactionResolution::UNKNOWN,
                Decision::Commit => TransactionResolution::COMMIT,
                Decision::Rollback => TransactionResolution::ROLLBACK,
            }
        });
        cluster.transaction_producer(access, topic, checker).await
    }
}

#[derive(Clone, Copy)]
pub enum Decision {
    Commit,
    Rollback,
}

const NEVER: usize = usize::MAX;

/// A topic for transactions, and a consumer of it.
async fn open(access: Access) -> (String, Receiver) {
    let cluster = Cluster::shared();
    let (topic, group) = (cluster.topic("TRANSACTION", 1).await, cluster.group(&[]));
    let consumer = cluster.consumer(access, &topic, &group).await;
    (topic, consumer)
}

pub async fn send_half(producer: &Producer, topic: &str, body: &str) -> impl Transaction + use<> {
    let half = message(topic, body).enable_transaction().build().expect("a message");
    producer.send_transaction_message(half).await.expect("a half message")
}

async fn check_back(access: Access, last: Decision, delivered: &[&str]) {
    let (topic, consumer) = open(access).await;
    let checker = Checker::default();
    let producer = checker.producer(Cluster::shared(), access, &topic, 1, last).await;
    send_half(&producer, &topic, "order-3").await;
    eventually("it was asked twice", async || checker.asked().len() >= 2).await;
    if !delivered.is_empty() {
        assert_eq!(bodies(&consumer.receive(delivered.len()).await), delivered);
    }
    assert_eq!(consumer.receive_nothing(Duration::from_secs(5)).await, [""; 0]);
    assert_eq!(checker.asked(), ["order-3"; 2], "a settled transaction must not be checked back again");
}

each_access_point! {
    async fn a_committed_message_is_delivered_once(access: Access) {
        let (topic, consumer) = open(access).await;
        let checker = Checker::default();
        let producer = checker.producer(Cluster::shared(), access, &topic, NEVER, Decision::Commit).await;
        let half = message(&topic, "order-1")
            .set_tag("paid")
            .set_keys(vec!["k"])
            .set_properties(HashMap::from([("city", "Zürich")]))
            .enable_transaction();
        let half = producer.send_transaction_message(half.build().expect("a message")).await.expect("a half message");
        assert!(!half.transaction_id().is_empty());
        let id = half.message_id().to_owned();
        assert_eq!(consumer.receive_nothing(Duration::from_secs(1)).await, [""; 0], "a half message is invisible");
        half.commit().await.expect("a commit");
        let asked = checker.asked();
        let [received] = &consumer.receive(1).await[..] else { panic!("one message") };
        assert_eq!((received.body(), received.message_id()), (&b"order-1"[..], id.as_str()));
        assert_eq!((received.tag(), received.keys()), (Some("paid"), &["k".to_owned()][..]));
        assert_eq!(received.delivery_attempt(), 1);
        assert_eq!(consumer.receive_nothing(Duration::from_secs(4)).await, [""; 0]);
        assert_eq!(checker.asked(), asked, "a decided transaction must not be checked back");
    }

    async fn a_rolled_back_message_is_never_delivered(access: Access) {
        let (topic, consumer) = open(access).await;
        let checker = Checker::default();
        let producer = checker.producer(Cluster::shared(), access, &topic, 0, Decision::Commit).await;
        send_half(&producer, &topic, "order-2").await.rollback().await.expect("a rollback");
        assert_eq!(consumer.receive_nothing(Duration::from_secs(6)).await, [""; 0]);
        assert_eq!(checker.asked(), [""; 0], "a decided transaction must not be checked back");
    }

    async fn check_back_commits_an_undecided_transaction(access: Access) {
        check_back(access, Decision::Commit, &["order-3"]).await;
    }

    async fn check_back_rolls_back_an_undecided_transaction(access: Access) {
        check_back(access, Decision::Rollback, &[]).await;
    }

    async fn another_producer_is_asked_when_the_first_one_is_gone(access: Access) {
        let (topic, consumer) = open(access).await;
        let gone = Checker::default().producer(Cluster::shared(), access, &topic, NEVER, Decision::Commit).await;
        send_half(&gone, &topic, "order-4").await;
        gone.shutdown().await.expect("a shutdown");
        let checker = Checker::default();
        let _producer = checker.producer(Cluster::shared(), access, &topic, 0, Decision::Commit).await;
        assert_eq!(bodies(&consumer.receive(1).await), ["order-4"]);
        assert_eq!(consumer.receive_nothing(Duration::from_secs(4)).await, [""; 0]);
        assert_eq!(checker.asked(), ["order-4"]);
    }
}
