//! `mqadmin` against real servers: each command, its table, its JSON and its exit codes.

use kerolox_client::{Client, FilterExpression};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::Code;
use serde_json::{Value, json};

use crate::mqadmin::{failure, json, mqadmin, rows, run, table};
use crate::support::{cluster_of, message, receive_one, refusal, standalone};

/// An address on which no server listens.
fn deserted() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn topics_from_creation_to_deletion() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    let broker = servers.brokers[0].address().unwrap();
    let made = table(&format!(
        "updateTopic -n {ns} -c DefaultCluster -t orders -a +message.type=TRANSACTION -r 4 -w 3"
    ));
    assert!(made.starts_with(&format!("create topic to {broker} success.")), "{made}");
    for part in
        ["topicName=orders", "readQueueNums=4", "writeQueueNums=3", "perm=RW-", "messageType=TRANSACTION"]
    {
        assert!(made.contains(part), "{part} is missing in {made}");
    }
    // An option that is not given keeps its value.
    let changed = json(&format!("updateTopic -n {ns} -c DefaultCluster -t orders -w 4 -p 4"));
    let entry = &changed["brokers"][0];
    assert_eq!(
        (&entry["ok"], &entry["created"], &entry["broker"]),
        (&json!(true), &json!(false), &json!("broker-a"))
    );
    assert_eq!(
        entry["topic"],
        json!({ "name": "orders", "readQueues": 4, "writeQueues": 4, "perm": "R--",
                "messageType": "TRANSACTION", "attributes": { "message.type": "TRANSACTION" } })
    );
    let made = json(&format!("updateTopic -n {ns} -c DefaultCluster -t greetings -r 2 -w 2"));
    assert_eq!(
        (&made["brokers"][0]["created"], &made["brokers"][0]["topic"]["messageType"]),
        (&json!(true), &json!("NORMAL"))
    );

    let listed = table(&format!("topicList -n {ns}"));
    assert_eq!(
        rows(&listed),
        [
            ["greetings", "NORMAL", "2", "2", "RW-", "broker-a"],
            ["orders", "TRANSACTION", "4", "4", "R--", "broker-a"]
        ]
    );
    assert!(
        table(&format!("topicList -n {ns} -c"))
            .lines()
            .all(|l| l.starts_with('#') || l.starts_with("DefaultCluster"))
    );
    let listed = json(&format!("topicList -n {ns}"));
    assert_eq!(listed["topics"][1]["topic"], "orders");

    let route = table(&format!("topicRoute -n {ns} -t orders"));
    assert_eq!(rows(&route), [["DefaultCluster", "broker-a", broker, "4", "4", "R--", "TRANSACTION"]]);
    let route = json(&format!("topicRoute -n {ns} -t orders"));
    assert_eq!((&route["topic"], &route["brokers"][0]["address"]), (&json!("orders"), &json!(broker)));

    let status = table(&format!("topicStatus -n {ns} -t orders"));
    assert_eq!(rows(&status).len(), 4, "{status}");
    assert_eq!(rows(&status)[3][..4], ["broker-a", "3", "0", "0"]);
    let status = json(&format!("topicStatus -n {ns} -t orders"));
    assert_eq!(status["brokers"][0]["queues"].as_array().unwrap().len(), 4);
    assert_eq!(status["brokers"][0]["undecidedTransactions"], 0);

    let deleted = table(&format!("deleteTopic -n {ns} -c DefaultCluster -t orders"));
    assert_eq!(deleted.trim(), "delete topic [orders] from cluster [DefaultCluster] success.");
    let deleted = json(&format!("deleteTopic -n {ns} -c DefaultCluster -t greetings"));
    assert_eq!(deleted["brokers"][0]["ok"], true);
    assert_eq!(json(&format!("topicList -n {ns}")), json!({ "topics": [] }));
    for command in
        ["topicRoute", "topicStatus", "consumeMessage", "deleteTopic -c DefaultCluster", "sendMessage -p x"]
    {
        let (code, said) = failure(&format!("{command} -n {ns} -t orders"));
        assert_eq!(code, 4, "{command}: {said}");
        assert!(said.contains("orders"), "{command}: {said}");
    }
}

#[test]
fn groups_are_made_and_changed() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    let made = table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing -r 3"));
    for part in ["create subscription group to", "groupName=billing", "retryMaxTimes=3", "consumeEnable=true"]
    {
        assert!(made.contains(part), "{part} is missing in {made}");
    }
    let changed = json(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing -s false -m false"));
    let entry = &changed["brokers"][0];
    assert_eq!(
        (&entry["created"], &entry["group"]["consumeEnable"], &entry["group"]["retryMaxTimes"]),
        (&json!(false), &json!(false), &json!(3))
    );
    let deleted = table(&format!("deleteSubGroup -n {ns} -c DefaultCluster -g billing"));
    assert!(deleted.contains("delete subscription group [billing]"), "{deleted}");
    assert_eq!(failure(&format!("deleteSubGroup -n {ns} -c DefaultCluster -g billing")).0, 4);
    let (code, said) = failure(&format!("updateSubGroup -n {ns} -c DefaultCluster -g 'a b'"));
    assert!(code == 1 && said.contains("a b"), "{code}: {said}");
}

#[test]
fn clusters_show_their_brokers() {
    let mut servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    let ns = servers.access_points();
    let address = |servers: &Cluster, number: usize| servers.brokers[number].address().unwrap().to_owned();
    let (a, b) = (address(&servers, 0), address(&servers, 1));
    table(&format!("updateTopic -b {a} -t orders"));
    table(&format!("sendMessage -n {ns} -t orders -p hello"));
    let listed = table(&format!("clusterList -n {ns}"));
    let found: Vec<Vec<&str>> = rows(&listed).into_iter().map(|row| row[..5].to_vec()).collect();
    // The master's broker id is 0, as the SDKs expect; its number in its group is another thing.
    let expected =
        [["DefaultCluster", "broker-a", "0", "1", &a], ["DefaultCluster", "broker-b", "0", "1", &b]];
    assert_eq!(found, expected);
    let listed = json(&format!("clusterList -n {ns} -c DefaultCluster"));
    let first = &listed["brokers"][0];
    assert_eq!(
        (&first["broker"], &first["role"], &first["state"], &first["messagesIn"], &first["topics"]),
        (&json!("broker-a"), &json!("MASTER"), &json!("OK"), &json!(1), &json!(1))
    );
    assert_eq!(first["logEnd"], first["logApplied"]);
    assert_eq!(failure(&format!("clusterList -n {ns} -c Nowhere")).0, 4);

    // One of two brokers does not answer: what could be done was done, and the exit code says so.
    servers.brokers[1].kill().unwrap();
    let partial = mqadmin(&format!("clusterList -n {ns} --output json"));
    assert_eq!(partial.code, 3, "{partial:?}");
    let listed: Value = serde_json::from_str(&partial.stdout).unwrap();
    assert_eq!(listed["brokers"][1]["state"], "UNREACHABLE");
    let partial = mqadmin(&format!("updateTopic -n {ns} -c DefaultCluster -t partial --output json"));
    assert_eq!(partial.code, 3, "{partial:?}");
    let done: Value = serde_json::from_str(&partial.stdout).unwrap();
    assert_eq!((&done["brokers"][0]["ok"], &done["brokers"][1]["ok"]), (&json!(true), &json!(false)));
    assert!(partial.stderr.contains(&b), "{partial:?}");
}

#[test]
fn messages_are_sent_and_shown() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    table(&format!("updateTopic -n {ns} -c DefaultCluster -t orders -r 2 -w 2"));
    let sent =
        table(&format!("sendMessage -n {ns} -t orders -p 'order 4711' -k '4711 customer-7' -c created"));
    let sent = rows(&sent).remove(0).join(" ");
    let id = sent.split(' ').next_back().unwrap().to_owned();
    assert!(sent.starts_with("broker-a ") && sent.contains(" SEND_OK "), "{sent}");
    let second = json(&format!("sendMessage -n {ns} -t orders -p -x -b broker-a -i 1"));
    assert_eq!(
        (&second["result"], &second["broker"], &second["queue"]),
        (&json!("SEND_OK"), &json!("broker-a"), &json!(1))
    );
    let offsets: u64 = json(&format!("topicStatus -n {ns} -t orders"))["brokers"][0]["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["maxOffset"].as_u64().unwrap())
        .sum();
    assert_eq!(offsets, 2);

    let shown = table(&format!("consumeMessage -n {ns} -t orders --wait 1"));
    let line =
        shown.lines().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("{id} is not in {shown}"));
    for part in ["Tag: created", "Keys: 4711 customer-7", "BODY: order 4711"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert_eq!(shown.lines().count(), 2, "{shown}");

    // Looking consumes nothing: the whole topic is there again, and as a group's own.
    let lines = table(&format!("consumeMessage -n {ns} -t orders -g billing -c 2 --output json"));
    let mut messages: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    messages.sort_by_key(|message| message["body"].to_string());
    assert_eq!((&messages[0]["body"], &messages[1]["body"]), (&json!("-x"), &json!("order 4711")));
    assert_eq!(messages[0]["messageId"], second["messageId"]);
    assert_eq!(messages[1]["keys"], json!(["4711", "customer-7"]));
    assert!(messages.iter().all(|message| message["attempt"] == 1), "{messages:?}");
    assert_eq!(
        table(&format!("consumeMessage -n {ns} -t orders -g billing --wait 1")),
        "",
        "consumed before"
    );

    let (code, said) = failure(&format!("sendMessage -n {ns} -t orders -p x -b broker-z"));
    assert!(code == 4 && said.contains("orders"), "{code}: {said}");
    table(&format!("updateTopic -n {ns} -c DefaultCluster -t payments -a +message.type=TRANSACTION"));
    let (code, said) = failure(&format!("sendMessage -n {ns} -t payments -p x"));
    assert!(code == 1 && said.contains("MESSAGE_PROPERTY_CONFLICT_WITH_TYPE"), "{code}: {said}");
}

#[test]
fn definitions_survive_a_restart() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    let broker = servers.brokers[0].address().unwrap().to_owned();
    table(&format!(
        "updateTopic -n {ns} -c DefaultCluster -t orders -a +message.type=TRANSACTION,+retention.time=7d -r 3 -w 3"
    ));
    table(&format!("updateTopic -n {ns} -c DefaultCluster -t gone"));
    table(&format!("deleteTopic -n {ns} -c DefaultCluster -t gone"));
    table(&format!("updateSubGroup -n {ns} -c DefaultCluster -g billing -r 5 -o true"));
    for restart in [ServerProcess::kill, ServerProcess::stop] {
        restart(&mut servers.brokers[0]).unwrap();
        servers.brokers[0].start().unwrap();
        assert_eq!(
            rows(&table(&format!("topicList -b {broker}"))),
            [["orders", "TRANSACTION", "3", "3", "RW-", &broker]]
        );
        assert_eq!(json(&format!("topicList -n {ns}"))["topics"][0]["brokers"], json!(["broker-a"]));
        let unchanged = json(&format!("updateTopic -b {broker} -t orders"));
        assert_eq!(unchanged["brokers"][0]["created"], false);
        assert_eq!(
            unchanged["brokers"][0]["topic"]["attributes"],
            json!({ "message.type": "TRANSACTION", "retention.time": "7d" })
        );
        let group = json(&format!("updateSubGroup -b {broker} -g billing"));
        assert_eq!(group["brokers"][0]["created"], false);
        assert_eq!(
            (
                &group["brokers"][0]["group"]["retryMaxTimes"],
                &group["brokers"][0]["group"]["consumeMessageOrderly"]
            ),
            (&json!(5), &json!(true))
        );
    }
}

#[tokio::test]
async fn a_deleted_topic_is_gone_for_its_clients_and_comes_back_empty() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    for body in ["first", "second"] {
        producer.send(message("orders", body)).await.unwrap();
    }
    let held = receive_one_of_two(&consumer).await;
    table(&format!("deleteTopic -n {ns} -c DefaultCluster -t orders"));
    assert_eq!(refusal(consumer.receive(1, crate::support::INVISIBLE).await), Code::TopicNotFound);
    assert_eq!(refusal(producer.send(message("orders", "late")).await), Code::TopicNotFound);
    let new = servers
        .client()
        .simple_consumer("billing")
        .subscribe("orders", FilterExpression::all())
        .start()
        .await;
    assert_eq!(refusal(new), Code::TopicNotFound);

    servers.create_topic("orders", "NORMAL").await.unwrap();
    assert!(consumer.ack(&held).await.is_err(), "a handle of the topic that is no more");
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let receipt = producer.send(message("orders", "new")).await.unwrap();
    assert_eq!(receipt.offset, 0);
    let delivery = receive_one(&consumer).await;
    assert_eq!((delivery.message().body().as_ref(), delivery.attempt()), (b"new".as_slice(), 1));
    consumer.ack(&delivery).await.unwrap();
}

/// Takes one message, and leaves the other one where it is.
async fn receive_one_of_two(consumer: &kerolox_client::SimpleConsumer) -> kerolox_client::Delivery {
    consumer.receive(1, crate::support::INVISIBLE).await.unwrap().remove(0)
}

#[tokio::test]
async fn names_and_addresses_are_taken_as_rocketmq_takes_them() {
    let mut servers = cluster_of(2, &["broker-a"], &[]);
    let nameservers: Vec<String> =
        servers.nameservers.iter().map(|server| server.address().unwrap().to_owned()).collect();
    let broker = servers.brokers[0].address().unwrap().to_owned();

    // With a broker instead of a nameserver, and in any spelling.
    table(&format!("UPDATETOPIC -b {broker} -t orders -r 2 -w 2"));
    table(&format!("topicstatus -b {broker} -t orders"));
    table(&format!("updatesubgroup -b {broker} -g billing"));
    assert_eq!(json(&format!("TopicList -b {broker}"))["topics"][0]["topic"], "orders");

    // A list of nameservers, with ';' and ',', of which one may be dead; from the environment, too.
    servers.nameservers[0].kill().unwrap();
    let separators = [";", ","];
    for separator in separators {
        let list = nameservers.join(separator);
        assert_eq!(json(&format!("topicRoute -n {list} -t orders"))["brokers"][0]["broker"], "broker-a");
        table(&format!("sendMessage -n {list} -t orders -p x"));
        let from_environment = run("mqadmin", "clusterlist", &[("NAMESRV_ADDR", &list)]);
        assert!(
            from_environment.code == 0 && from_environment.stdout.contains(&broker),
            "{from_environment:?}"
        );
    }
    table(&format!("deletetopic -b {broker} -t orders"));
    assert_eq!(failure(&format!("topicStatus -b {broker} -t orders")).0, 4);

    // A standalone broker is its own nameserver.
    let alone = standalone(&[]);
    let address = alone.access_points();
    table(&format!("updateTopic -n {address} -c DefaultCluster -t orders"));
    assert_eq!(json(&format!("clusterList -n {address}"))["brokers"][0]["state"], "OK");
    let client = Client::builder(address).build().unwrap();
    client.producer().topic("orders").start().await.unwrap();
}

#[test]
fn exit_codes_tell_what_happened() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    for line in [
        "updateTopic -t orders".to_owned(),
        format!("updateTopic -n {ns} -c DefaultCluster"),
        format!("updateTopic -n {ns} -c DefaultCluster -t orders -p 5"),
        format!("updateTopic -n {ns} -c DefaultCluster -t orders -r many"),
        "topicList".to_owned(),
        "topicList -n nowhere".to_owned(),
        format!("sendMessage -n {ns} -t orders"),
        format!("noSuchCommand -n {ns}"),
    ] {
        assert_eq!(mqadmin(&line).code, 2, "{line}");
    }
    for line in [
        format!("updateTopic -n {ns} -c Nowhere -t orders"),
        format!("deleteTopic -n {ns} -c DefaultCluster -t orders"),
        format!("topicRoute -n {ns} -t orders"),
        format!("deleteSubGroup -n {ns} -c DefaultCluster -g absent"),
    ] {
        assert_eq!(failure(&line).0, 4, "{line}");
    }
    for line in [
        format!("updateTopic -n {ns} -c DefaultCluster -t 'not a name'"),
        format!("updateTopic -n {ns} -c DefaultCluster -t orders -a +message.type=ODD"),
        format!("updateTopic -n {ns} -c DefaultCluster -t orders -r 0"),
    ] {
        assert_eq!(failure(&line).0, 1, "{line}");
    }
    let unused = deserted();
    for line in [
        format!("topicList -n {unused}"),
        format!("clusterList -n {unused}"),
        format!("updateTopic -b {unused} -t orders"),
        format!("updateSubGroup -n {unused} -c DefaultCluster -g billing"),
        format!("sendMessage -n {unused} -t orders -p x"),
        format!("consumeMessage -n {unused} -t orders"),
    ] {
        assert_eq!(mqadmin(&line).code, 6, "{line}");
        assert!(mqadmin(&line).stderr.contains(&unused), "{line}");
    }
}

#[tokio::test]
async fn produce_says_what_was_stored_and_ends_soon_after_a_refusal() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let file = servers.folder().join("messages.json");
    let good = "{\"body\":\"good\"}\n";
    let bad = "{\"body\":\"bad\",\"properties\":{\"a\\u0001b\":\"v\"}}\n";
    std::fs::write(&file, [&good.repeat(3), bad, &good.repeat(400)].concat()).unwrap();
    let ns = servers.access_points();
    let started = std::time::Instant::now();
    // All lines would take over a minute.
    let run = mqadmin(&format!("produce -n {ns} -t orders --input json --rate 5 -f {}", file.display()));
    assert!(run.code != 0 && run.stdout.is_empty(), "{run:?}");
    assert!(
        run.stderr.contains("line 4: ") && run.stderr.contains(" bytes were stored, 1 refused: "),
        "{run:?}"
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(40), "it went on: {:?}", started.elapsed());
    let stored: Option<usize> = run.stderr.split_whitespace().find_map(|word| word.parse().ok());
    let stored = stored.expect("it says how many were stored");
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let came = crate::support::consume(&consumer, stored).await;
    assert!(stored >= 3 && came.iter().all(|body| body == "good"), "{came:?}");
    crate::support::expect_nothing(&consumer).await;
}
