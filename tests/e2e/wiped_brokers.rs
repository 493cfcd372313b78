//! A development cluster whose brokers lost their folders, while the nameserver kept its own.

use std::time::Duration;

use crate::mqadmin::{failure, json};
use crate::support::{PATIENCE, consume, create, eventually, group, in_sync, message, patient};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_folders_are_all_gone_begins_anew_with_one_command() {
    let mut servers = group(3, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").retry_policy(patient()).start().await.unwrap();
    producer.send(message("orders", "gone")).await.unwrap();
    let ns = servers.access_points();
    let (code, text) = failure(&format!("resetBrokerGroup -n {ns} -b broker-a --lose-all-messages --yes"));
    assert!(code == 1 && text.contains("holds messages"), "{code} {text}");
    for broker in &mut servers.brokers {
        broker.kill().unwrap();
        std::fs::remove_dir_all(broker.data()).unwrap();
        broker.begin().unwrap();
    }
    // They wait, say what helps, and do not say it every second.
    let waits =
        || json(&format!("getSyncStateSet -n {ns} -b broker-a"))["brokers"][0]["waitingFor"].to_string();
    eventually("what helps is said", PATIENCE, async || waits().contains("resetBrokerGroup")).await;
    let lines = || servers.brokers.iter().map(|broker| broker.log().lines().count()).sum::<usize>();
    let written = lines();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let written = lines() - written;
    assert!(written < 3 * 12 / 2, "{written} lines of log in 12 s");

    assert_eq!(failure(&format!("resetBrokerGroup -n {ns} -b broker-a")).0, 2, "it takes a word");
    let answer = json(&format!("resetBrokerGroup -n {ns} -b broker-a --lose-all-messages --yes"));
    assert!(answer["lost"].as_str().unwrap().contains("all messages are lost"), "{answer}");
    assert_eq!(answer["forgotten"].as_array().unwrap().len(), 3, "{answer}");
    servers.brokers.iter_mut().for_each(|broker| broker.wait().unwrap());
    in_sync(&servers, 3).await;
    create(&servers, "orders", "NORMAL").await;
    producer.send(message("orders", "new")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["new"]);
}
