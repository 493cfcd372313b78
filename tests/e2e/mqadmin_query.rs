//! Messages are found again with `mqadmin`, whatever became of them, and nothing is consumed by looking.

use kerolox_client::Message;
use serde_json::{Value, json};

use crate::mqadmin::{failure, json, rows, table};
use crate::support::{NO_CHECKS, cluster_of, receive, standalone};

fn ids(found: &Value) -> Vec<&str> {
    let messages = found["messages"].as_array().unwrap();
    messages.iter().map(|message| message["messageId"].as_str().unwrap()).collect()
}

fn keyed(key: &str, body: &str) -> Message {
    Message::builder("orders").body(body.to_owned()).keys([key, "all"]).tag("paid").build()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_id_key_offset_and_time() {
    let mut servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let mut sent = Vec::new();
    for number in 0..20 {
        // The queues of both brokers in turn.
        let broker = ["broker-a", "broker-b"][number % 2];
        let message = keyed(&format!("order-{}", number % 5), &format!("body {number}"));
        sent.push(producer.send_to(broker, Some(1), message).await.unwrap());
    }
    for restarted in [false, true] {
        if restarted {
            servers.brokers[0].kill().unwrap();
            servers.brokers[0].start().unwrap();
        }
        for receipt in &sent {
            let found = json(&format!("queryMsgById -n {ns} -i {}", receipt.message_id));
            assert_eq!(ids(&found), [&receipt.message_id], "restarted: {restarted}");
            let message = &found["messages"][0];
            assert_eq!(
                (&message["broker"], &message["queue"], &message["offset"], &message["standing"]),
                (&json!(receipt.broker), &json!(1), &json!(receipt.offset), &json!("visible"))
            );
        }
        let found = json(&format!("queryMsgByKey -n {ns} -t orders -k order-3"));
        let wanted: Vec<&str> = [18, 13, 8, 3].map(|number: usize| sent[number].message_id.as_str()).to_vec();
        let mut found = ids(&found);
        // Those of one millisecond on two brokers have no order.
        found.sort_unstable();
        let mut sorted = wanted.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted);
    }
    let newest = json(&format!("queryMsgByKey -n {ns} -t orders -k all -m 3"));
    assert_eq!(ids(&newest).len(), 3);
    let stored = |found: &Value| found["messages"][0]["storeMs"].as_i64().unwrap();
    let times: Vec<i64> = sent
        .iter()
        .map(|receipt| stored(&json(&format!("queryMsgById -n {ns} -t orders -i {}", receipt.message_id))))
        .collect();
    let of_time = json(&format!("queryMsgByKey -n {ns} -t orders -k all -b {} -e {}", times[4], times[15]));
    let wanted = times.iter().filter(|time| (times[4]..times[15]).contains(time)).count();
    assert_eq!(ids(&of_time).len(), wanted);

    let at = json(&format!("queryMsgByOffset -n {ns} -t orders -b broker-b -i 1 -o 4 -c 2"));
    assert_eq!(ids(&at), [&sent[9].message_id, &sent[11].message_id]);
    let (begin, end) = (times[6], times[12].max(times[6] + 1));
    let printed = json(&format!("printMsgByQueue -n {ns} -t orders -a broker-a -i 1 -b {begin} -e {end}"));
    let wanted: Vec<&str> = (0..20)
        .step_by(2)
        .filter(|number| (begin..end).contains(&times[*number]))
        .map(|number| sent[number].message_id.as_str())
        .collect();
    assert_eq!(ids(&printed), wanted);
    let shown = table(&format!("queryMsgById -n {ns} -i {}", sent[0].message_id));
    let row = &rows(&shown)[0];
    assert_eq!(row[..6], [sent[0].message_id.as_str(), "orders", "broker-a", "1", "0", "visible"]);

    for line in [
        "queryMsgById -i 01NOBODY",
        "queryMsgById -t absent -i 01NOBODY",
        "queryMsgByKey -t orders -k nothing",
        "queryMsgByOffset -t orders -b broker-a -i 1 -o 999",
        "queryMsgByOffset -t orders -b broker-a -i 77 -o 0",
        "queryMsgByOffset -t orders -b broker-c -i 0 -o 0",
    ] {
        let (code, said) = failure(&format!("{line} -n {ns}"));
        assert_eq!(code, 4, "{line}: {said}");
    }
    let consumer = servers.consumer("ledger", "orders").await.unwrap();
    let received = receive(&consumer, sent.len()).await;
    assert!(received.iter().all(|delivery| delivery.attempt() == 1), "looking is not consuming");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_message_is_found_and_tells_how_its_transaction_ended() {
    let servers = standalone(&NO_CHECKS);
    let ns = servers.access_points();
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let producer =
        servers.client().producer().topic("payments").transaction_checker_sync(|_| panic!("asked"));
    let producer = producer.start().await.unwrap();
    let message = |body: &str| Message::builder("payments").body(body.to_owned()).keys(["k"]).build();
    let open = producer.send_in_transaction(message("open")).await.unwrap();
    let committed = producer.send_in_transaction(message("committed")).await.unwrap();
    let rolled_back = producer.send_in_transaction(message("rolled back")).await.unwrap();
    committed.commit().await.unwrap();
    rolled_back.rollback().await.unwrap();
    let found = json(&format!("queryMsgByKey -n {ns} -t payments -k k"));
    let standings: Vec<(&str, &Value, bool)> = found["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let has_producer = !message["producer"].as_str().unwrap().is_empty();
            (message["standing"].as_str().unwrap(), &message["body"], has_producer)
        })
        .collect();
    assert!(standings.contains(&("prepared", &json!("open"), true)), "{found}");
    assert!(standings.contains(&("committed", &json!("committed"), true)), "{found}");
    assert!(standings.contains(&("rolled-back", &json!("rolled back"), true)), "{found}");
    assert_eq!(standings.len(), 3);
    drop(open);
}
