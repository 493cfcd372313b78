//! What `kerolox-inspect` says of a data folder that a broker filled.

use std::time::Duration;

use kerolox_client::Message;
use kerolox_client::admin::wire;
use serde_json::Value;

use crate::mqadmin::inspect;
use crate::support::{message, standalone};

#[tokio::test]
async fn every_kind_of_message_shows_in_dump_and_stats() {
    let mut servers = standalone(&[]);
    servers.create_topic("plain", "NORMAL").await.unwrap();
    servers.create_topic("reminders", "DELAY").await.unwrap();
    servers.create_topic("sessions", "LITE").await.unwrap();
    let address: kerolox_client::Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: "once".to_owned(),
        attributes: vec!["+dedup=key".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();

    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("plain", "plain")).await.unwrap();
    for number in 0..2 {
        let later = Message::builder("reminders").body(format!("r{number}"));
        producer.send(later.deliver_after(Duration::from_secs(3_600)).build()).await.unwrap();
    }
    for name in ["a", "b", "a"] {
        producer.send(Message::builder("sessions").body(name).lite_topic(name).build()).await.unwrap();
    }
    for key in ["k1", "k2"] {
        producer.send(Message::builder("once").body(key).key(key).build()).await.unwrap();
    }
    servers.brokers[0].stop().unwrap();

    let data = servers.brokers[0].data();
    let dump = inspect(&format!("dump {} --kind message --output json", data.display()));
    assert_eq!(dump.code, 0, "{dump:?}");
    let records: Vec<Value> = dump.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hash = |record: &Value| record["record"]["dedup"].as_str().map(str::to_owned);
    let of =
        |topic: &str| records.iter().filter(|r| r["record"]["topic"] == topic).map(hash).collect::<Vec<_>>();
    assert_eq!(of("plain"), [None]);
    let hashes = of("once");
    assert!(hashes.iter().all(|hash| hash.as_ref().is_some_and(|hash| hash.len() == 32)), "{hashes:?}");
    assert_ne!(hashes[0], hashes[1], "other keys");

    let stats = inspect(&format!("stats {} --output json", data.display()));
    let stats: Value = serde_json::from_str(&stats.stdout).unwrap();
    assert_eq!(stats["scheduled"], 2);
    let topics = stats["topics"].as_array().unwrap();
    let numbers = |name: &str| {
        let topic = topics.iter().find(|topic| topic["topic"] == name).unwrap();
        ["records", "visible", "queues", "scheduled"].map(|number| topic[number].as_u64().unwrap())
    };
    assert_eq!((numbers("reminders"), numbers("sessions")), ([2, 0, 0, 2], [3, 3, 2, 0]));
    let table = inspect(&format!("stats {}", data.display()));
    assert!(table.stdout.contains("scheduled     2 messages"), "{}", table.stdout);
}
