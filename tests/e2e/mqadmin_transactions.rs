//! `mqadmin transaction`: what people see of transactions, and what they decide by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kerolox_client::Resolution;
use serde_json::{Value, json};

use crate::mqadmin::{failure, json, table};
use crate::support::{
    NO_CHECKS, PATIENCE, cluster_of, consume, eventually, expect_nothing, message, standalone,
};
use crate::transactions::{CHECKS_EVERY_SECOND, producer};

/// The transactions that a command shows, of all brokers.
fn listed(line: &str) -> Vec<Value> {
    let answer = json(line);
    let brokers = answer["brokers"].as_array().unwrap();
    brokers.iter().flat_map(|broker| broker["transactions"].as_array().unwrap().clone()).collect()
}

fn message_ids(transactions: &[Value]) -> Vec<&str> {
    transactions.iter().map(|transaction| transaction["messageId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_listed_and_settled_by_hand() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &NO_CHECKS);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let ns = servers.access_points();
    let producer = producer(&servers, |_| Resolution::Unknown).await;
    let mut sent = Vec::new();
    for body in ["one", "two", "three", "four"] {
        sent.push(producer.send_in_transaction(message("payments", body)).await.unwrap());
    }
    sent[3].rollback().await.unwrap();

    let open = listed(&format!("transaction list -n {ns} -t payments"));
    let mut expected: Vec<&str> = sent[..3].iter().map(|transaction| transaction.message_id()).collect();
    let mut found = message_ids(&open);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(open.iter().all(|t| t["state"] == "prepared" && t["checks"] == 0 && t["topic"] == "payments"));
    let rolled_back = listed(&format!("transaction list -n {ns} -s rolled-back"));
    assert_eq!(message_ids(&rolled_back), [sent[3].message_id()]);
    assert!(listed(&format!("transaction list -n {ns} --older-than 1h")).is_empty());
    assert_eq!(
        listed(&format!("transaction list -n {ns} --newer-than 1h -m 1")).len(),
        2,
        "one of each broker"
    );
    let plain = table(&format!("transaction list -n {ns}"));
    assert!(plain.contains("#Transaction") && plain.contains(sent[0].message_id()), "{plain}");

    // By its id at whichever broker owns it; the second time is harmless, the opposite is refused.
    let id_of = |message_id: &str| {
        let found = open.iter().find(|transaction| transaction["messageId"] == message_id).unwrap();
        found["transactionId"].as_str().unwrap().to_owned()
    };
    let (first, second) = (id_of(sent[0].message_id()), id_of(sent[1].message_id()));
    let line = format!("transaction commit -n {ns} {first} --by alice -r 'paid by phone'");
    assert_eq!(json(&line)["transactions"][0]["repeated"], false);
    assert_eq!(json(&line)["transactions"][0]["repeated"], true);
    let (code, said) = failure(&format!("transaction rollback -n {ns} {first}"));
    assert!(code == 1 && said.contains("was committed before"), "{code} {said}");
    table(&format!("transaction rollback -n {ns} {second} --by bob"));
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["one"]);
    expect_nothing(&consumer).await;

    // A dry run settles nothing; then all that is left goes.
    let chosen = json(&format!("transaction commit -n {ns} --all -t payments --dry-run"));
    assert_eq!(chosen["chosen"].as_array().unwrap().len(), 1);
    expect_nothing(&consumer).await;
    table(&format!("transaction commit -n {ns} --all -t payments -y"));
    assert_eq!(consume(&consumer, 1).await, ["three"]);
    assert!(listed(&format!("transaction list -n {ns}")).is_empty());

    let stats = json(&format!("transaction stats -n {ns}"));
    let sum = |name: &str| -> u64 {
        let brokers = stats["brokers"].as_array().unwrap().iter();
        brokers
            .flat_map(|broker| broker["topics"].as_array().unwrap())
            .map(|t| t[name].as_u64().unwrap())
            .sum()
    };
    assert_eq!([sum("prepared"), sum("parked"), sum("committed"), sum("rolledBack")], [0, 0, 2, 2]);

    // The audit trail has every decision by hand, refused ones as well.
    let audit = json(&format!("auditList -n {ns}"));
    let mut told: Vec<(String, String, String)> = Vec::new();
    for entry in audit["brokers"].as_array().unwrap().iter().flat_map(|b| b["entries"].as_array().unwrap()) {
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        told.push((text("action"), text("outcome"), text("object")));
        assert!(entry["by"] != "alice" || entry["reason"] == "paid by phone", "{entry}");
    }
    let count = |action: &str, outcome: &str| {
        told.iter().filter(|(a, o, _)| a == action && o.starts_with(outcome)).count()
    };
    assert_eq!(count("transaction commit", "done"), 2);
    assert_eq!(count("transaction commit", "had been done before"), 1);
    // A command that fails is run twice by the test, as a table and as JSON.
    assert_eq!(count("transaction rollback", "refused"), 2);
    assert_eq!(count("transaction rollback", "done"), 1);
    assert!(told.iter().any(|(_, _, object)| *object == first));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_story_of_a_transaction_is_told_over_a_restart() {
    let mut servers = standalone(&[&CHECKS_EVERY_SECOND[..], &["--transaction-check-max", "2"]].concat());
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let ns = servers.access_points();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let producer = producer(&servers, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Resolution::Unknown
    })
    .await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let transaction = producer.send_in_transaction(message("payments", "told")).await.unwrap();
    let show = format!("transaction show -n {ns} -i {}", transaction.message_id());
    eventually("it is parked", PATIENCE, || async { json(&show)["state"] == "parked" }).await;
    let story = json(&show);
    assert_eq!((&story["checks"], &story["body"]), (&json!(2), &json!("told")));
    let checks = story["checkBacks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["answer"] == "unknown" && check["asked"] == story["producer"]));
    assert_eq!((checks.len(), asked.load(Ordering::Relaxed)), (2, 2));

    // Parked transactions are checked again on request, with a full set of checks before them.
    let id = story["transactionId"].as_str().unwrap();
    table(&format!("transaction recheck -n {ns} {id} --by carol -r 'the producer was mended'"));
    eventually("it is asked about again", PATIENCE, || async { asked.load(Ordering::Relaxed) == 4 }).await;
    eventually("it is parked again", PATIENCE, || async { json(&show)["state"] == "parked" }).await;

    table(&format!("transaction commit -n {ns} {id} --by dave -r 'the bank says yes'"));
    assert_eq!(consume(&consumer, 1).await, ["told"]);
    let broker = &mut servers.brokers[0];
    broker.kill().unwrap();
    broker.start().unwrap();
    let story = json(&show);
    for (name, value) in [
        ("state", json!("committed")),
        ("decidedBy", json!("dave")),
        ("decidedSource", json!("administrator")),
        ("reason", json!("the bank says yes")),
        ("deliveries", json!([{ "group": "ledger", "acknowledged": true, "attempts": 0 }])),
    ] {
        assert_eq!(story[name], value, "{story}");
    }
    assert_eq!(story["checkBacks"].as_array().unwrap().len(), 4);
    let told = table(&format!("transaction show -n {ns} {id}"));
    for part in
        ["State        committed", "by dave (administrator): the bank says yes", "group ledger: acknowledged"]
    {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    let audit = table(&format!("auditList -n {ns}"));
    assert!(audit.contains("transaction recheck") && audit.contains("the producer was mended"), "{audit}");

    let (code, said) = failure(&format!("transaction show -n {ns} -i no-such-message"));
    assert!(code == 4 && said.contains("no-such-message"), "{code} {said}");
    let (code, _) = failure(&format!("transaction show -n {ns} not-an-id"));
    assert_eq!(code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_checks_of_its_own_and_an_age_that_decides() {
    let servers = standalone(&NO_CHECKS);
    let ns = servers.access_points();
    let address = servers.brokers[0].address().unwrap();
    for (topic, attributes) in [
        ("payments", "+transaction.first-check=1s,+transaction.check-interval=1s,+transaction.check-max=1"),
        ("orphans", "+transaction.first-check=1s,+transaction.max-age=3s"),
    ] {
        table(&format!("updateTopic -b {address} -t {topic} -a +message.type=TRANSACTION,{attributes}"));
    }
    let (code, said) =
        failure(&format!("updateTopic -b {address} -t payments -a +transaction.check-max=many"));
    assert!(code == 1 && said.contains("transaction.check-max"), "{code} {said}");

    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let asking = producer(&servers, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Resolution::Unknown
    })
    .await;
    let client = servers.client();
    let _asked_about = asking.send_in_transaction(message("payments", "asked once")).await.unwrap();
    {
        let gone = client.producer().topic("orphans").transaction_checker_sync(|_| Resolution::Unknown);
        let gone = gone.start().await.unwrap();
        let _never_decided = gone.send_in_transaction(message("orphans", "never asked")).await.unwrap();
        gone.shutdown().await;
    }
    for (topic, checks) in [("payments", 1), ("orphans", 0)] {
        let line = format!("transaction list -n {ns} -t {topic} -s parked");
        eventually("it is parked", PATIENCE, || async { listed(&line).len() == 1 }).await;
        assert_eq!(listed(&line)[0]["checks"], checks, "{topic}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
