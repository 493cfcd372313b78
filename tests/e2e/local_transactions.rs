//! Local transactions with the Rust client: what becomes of the message follows from what becomes of the work.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use kerolox_client::{Code, Commit, HalfMessage, Producer, Resolution, RetryPolicy, TransactionError};

use kerolox_harness::Cluster;

use crate::support::{NO_CHECKS, PATIENCE, consume, eventually, expect_nothing, message, standalone};
use crate::transactions::{CHECKS_EVERY_SECOND, producer, undecided};

/// Works that are done, by body: what a checker looks up.
#[derive(Clone, Default)]
struct Works(Arc<Mutex<Vec<String>>>, Arc<AtomicU32>);

impl Works {
    fn do_work(&self, body: &str) -> Result<usize, String> {
        let mut works = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        works.push(body.to_owned());
        Ok(works.len())
    }

    /// A producer whose checker knows which works are done.
    async fn producer(&self, servers: &Cluster) -> Producer {
        let works = self.clone();
        producer(servers, move |half| {
            works.1.fetch_add(1, Ordering::Relaxed);
            let body = String::from_utf8_lossy(half.message().body()).into_owned();
            let works = works.0.lock().unwrap_or_else(PoisonError::into_inner);
            if works.contains(&body) { Resolution::Commit } else { Resolution::Rollback }
        })
        .await
    }

    fn asked(&self) -> u32 {
        self.1.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn work_that_is_done_commits_and_work_that_fails_rolls_back() {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let works = Works::default();
    let producer = works.producer(&servers).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let done = producer
        .in_transaction(message("payments", "done"), async |half| {
            assert!(half.transaction_id.is_some(), "the half message is stored before the work begins");
            assert_eq!(undecided(&servers).await, 1);
            works.do_work("done")
        })
        .await
        .unwrap();
    assert_eq!((done.value, &done.commit), (1, &Commit::Confirmed));
    let failed =
        producer.in_transaction(message("payments", "failed"), async |_| Err::<(), _>("no money")).await;
    match failed.unwrap_err() {
        TransactionError::Failed { error: "no money", rollback: Ok(()) } => {}
        other => panic!("{other:?}"),
    }
    let pair = vec![message("payments", "a"), message("payments", "b")];
    let pair = producer.send_all_in_transaction(pair).await.unwrap();
    pair.execute(async |_| works.do_work("a and b")).await.unwrap();
    assert_eq!(consume(&consumer, 3).await, ["a", "b", "done"]);
    expect_nothing(&consumer).await;
    assert_eq!((undecided(&servers).await, works.asked()), (0, 0));
}

#[tokio::test]
async fn work_is_not_begun_without_a_half_message() {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("payments", "NORMAL").await.unwrap();
    let producer = Works::default().producer(&servers).await;
    let begun = AtomicBool::new(false);
    let local = async |_| {
        begun.store(true, Ordering::Relaxed);
        Ok::<_, String>(())
    };
    let error = producer.in_transaction(message("payments", "x"), local).await.unwrap_err();
    match error {
        TransactionError::NotBegun(error) => assert!(error.code().is_some(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(!begun.into_inner());
}

#[tokio::test]
async fn a_panic_or_a_cancellation_is_left_to_the_check_back() {
    let servers = standalone(&CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let works = Works::default();
    let checked = works.clone();
    // On a slow machine the first check-back may come before the work: only work that never comes is rolled back.
    let checker = move |half: &HalfMessage| {
        let body = String::from_utf8_lossy(half.message().body());
        let works = checked.0.lock().unwrap_or_else(PoisonError::into_inner);
        match body.ends_with("before the work") {
            true => Resolution::Rollback,
            false if works.iter().any(|work| *work == body) => Resolution::Commit,
            false => Resolution::Unknown,
        }
    };
    let producer = Arc::new(producer(&servers, checker).await);
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let spawn = |body: &'static str, panics: bool| {
        let (producer, works) = (Arc::clone(&producer), works.clone());
        let (begin, begun) = oneshot::channel();
        let task = tokio::spawn(async move {
            let local = async |_| {
                if body.ends_with("after the work") {
                    works.do_work(body)?;
                }
                begin.send(()).unwrap();
                assert!(!panics, "a panic that the test wants");
                std::future::pending::<Result<(), String>>().await
            };
            producer.in_transaction(message("payments", body), local).await
        });
        (begun, task)
    };
    for body in ["panicked after the work", "panicked before the work"] {
        let (_begun, task) = spawn(body, true);
        assert!(task.await.unwrap_err().is_panic());
    }
    for body in ["cancelled after the work", "cancelled before the work"] {
        let (begun, task) = spawn(body, false);
        begun.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(consume(&consumer, 2).await, ["cancelled after the work", "panicked after the work"]);
    eventually("all are decided", PATIENCE, async || undecided(&servers).await == 0).await;
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn a_lost_answer_leaves_the_commit_to_the_check_back() {
    let mut servers = standalone(&CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let works = Works::default();
    let sender = works.producer(&servers).await;
    let broker = &mut servers.brokers[0];
    let done = sender
        .in_transaction(message("payments", "done"), async |_| {
            broker.kill().unwrap();
            works.do_work("done")
        })
        .await
        .unwrap();
    assert_eq!(done.value, 1);
    assert!(matches!(done.commit, Commit::LeftToCheckBack(_)), "{}", done.commit);

    servers.brokers[0].start().unwrap();
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["done"]);
    assert!(works.asked() > 0);
}

#[tokio::test]
async fn a_commit_that_comes_after_a_rollback_is_told_apart() {
    let servers = standalone(&CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let works = Works::default();
    let patient = RetryPolicy::default().attempts(30);
    let checked = works.clone();
    let producer = servers
        .client()
        .producer()
        .topic("payments")
        .transaction_checker_sync(move |_| {
            checked.1.fetch_add(1, Ordering::Relaxed);
            Resolution::Rollback
        })
        .retry_policy(patient)
        .start()
        .await
        .unwrap();
    let slow = async |_| {
        eventually("the checker was asked too early", PATIENCE, async || {
            works.asked() > 0 && undecided(&servers).await == 0
        })
        .await;
        works.do_work("slow")
    };
    match producer.in_transaction(message("payments", "slow"), slow).await.unwrap_err() {
        TransactionError::Refused(error) => {
            assert_eq!(error.code(), Some(Code::from(kerolox_proto::v2::Code::PreconditionFailed)))
        }
        other => panic!("{other:?}"),
    }
}
