//! What operators and newcomers meet: attributes with typing errors, a cluster that needs no name, messages that would command a
//! terminal, the backlog of a group, slaves and brokers without slaves.

use std::time::{Duration, SystemTime};

use kerolox_client::{Message, Resolution};
use kerolox_proto::v2;
use serde_json::{Value, json};

use crate::mqadmin::{failure, json, mqadmin, table};
use crate::support::{
    NO_CHECKS, PATIENCE, broker, cluster_of, consume, create, eventually, from_client, group, master,
    message, raw, receive_one, resource, standalone,
};

#[test]
fn an_unknown_attribute_is_refused_with_what_was_probably_meant() {
    let servers = standalone(&[]);
    let ns = servers.access_points();
    for (command, meant) in [
        ("updateTopic -t orders -a +dedupe=id", "is dedup meant?"),
        ("updateTopic -t orders -a +message.type=FIFO,+retention-time=1h", "is retention.time meant?"),
        ("updateSubGroup -g billing --attributes +retry.backof=1s/2s", "is retry.backoff meant?"),
        ("updateSubGroup -g billing --attributes +dedup=id", "is unknown"),
    ] {
        let (code, said) = failure(&format!("{command} -n {ns}"));
        assert!(code == 1 && said.contains(meant), "{command}: {code} {said}");
    }
    assert_eq!(json(&format!("topicList -n {ns}"))["topics"], Value::Array(Vec::new()), "nothing was made");
    table(&format!("updateTopic -n {ns} -t orders -a +dedup=id"));
    assert_eq!(failure(&format!("updateTopic -n {ns} -t orders -a -dedupe")).0, 1);
}

#[test]
fn one_cluster_needs_no_name_and_two_do() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    let ns = servers.access_points();
    let made = table(&format!("updateTopic -n {ns} -t orders"));
    assert!(made.contains("success"), "{made}");
    table(&format!("updateSubGroup -n {ns} -g billing"));
    table(&format!("updateTopicPerm -n {ns} -t orders -p 6"));
    table(&format!("configExport -n {ns}"));
    assert!(table(&format!("deleteSubGroup -n {ns} -g billing")).contains("success"));

    let mut other =
        broker("broker-b", servers.folder(), &["--nameserver", &ns, "--cluster", "AnotherCluster"]);
    other.start().unwrap();
    servers.brokers.push(other);
    let (code, said) = failure(&format!("updateTopic -n {ns} -t more"));
    assert!(code == 2 && said.contains("AnotherCluster, DefaultCluster"), "{code} {said}");
    assert!(table(&format!("deleteTopic -n {ns} -c DefaultCluster -t orders")).contains("[DefaultCluster]"));
}

#[tokio::test]
async fn what_a_stranger_wrote_commands_no_terminal() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let attack = "\u{1b}[2J\u{9b}31m\r\u{202e}\nforged";
    let producer = servers.client().producer().start().await.unwrap();
    let sent = producer.send(message("orders", attack)).await.unwrap();
    // Not every client is ours: what a broker takes as an id is not to be believed either.
    let id = "\u{1b}[2J01AABBCCDDEEFF12340000003C00000007";
    let evil = v2::Message {
        topic: resource("orders"),
        system_properties: Some(v2::SystemProperties { message_id: id.to_owned(), ..Default::default() }),
        body: b"evil".to_vec().into(),
        ..Default::default()
    };
    let request = v2::SendMessageRequest { messages: vec![evil] };
    // It may be refused as well.
    let _ = raw(&servers.brokers[0]).await.send_message(from_client(request)).await;
    let ns = servers.access_points();
    for command in [
        "consumeMessage -t orders".to_owned(),
        "browse -t orders".to_owned(),
        "printMsg -t orders".to_owned(),
        format!("queryMsgById -t orders -i {}", sent.message_id),
        format!("message why {} -t orders", sent.message_id),
        format!("topicStatus -t '{attack}'").replace('\n', ""),
    ] {
        for output in ["table", "json", "yaml"] {
            let run = mqadmin(&format!("{command} -n {ns} --output {output}"));
            let shown = format!("{}{}", run.stdout, run.stderr);
            let commands: Vec<char> =
                shown.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
            assert!(
                !shown.is_empty() && commands.is_empty(),
                "{command} {output}: {commands:?} in {shown:?}"
            );
        }
        let run = mqadmin(&format!("{command} -n {ns}"));
        assert!(!run.stdout.lines().any(|line| line == "forged"), "{command}: a forged line: {run:?}");
    }
    let read = json(&format!("queryMsgById -n {ns} -t orders -i {}", sent.message_id));
    assert_eq!(read["messages"][0]["body"], attack, "scripts get what was sent");
}

#[tokio::test]
async fn what_a_group_has_not_come_to_yet_is_left_to_do() {
    const SENT: u64 = 20;
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    let ns = servers.access_points();
    let [first, second] = [0, 1].map(|index| servers.brokers[index].address().unwrap());
    table(&format!("updateTopic -b {first} -n {ns} -t orders -r 2 -w 2"));
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "early")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["early"]);
    drop(consumer);

    // The group has never polled the second broker, nor does it exist there.
    table(&format!("updateTopic -b {second} -n {ns} -t orders -r 2 -w 2"));
    let is_known =
        async || json(&format!("topicRoute -n {ns} -t orders"))["brokers"].as_array().unwrap().len() == 2;
    eventually("both brokers have the topic", PATIENCE, is_known).await;
    let producer = servers.client().producer().start().await.unwrap();
    for number in 0..SENT {
        producer.send(message("orders", &number.to_string())).await.unwrap();
    }
    let left = async || json(&format!("consumerProgress -n {ns} -g billing"))["diffTotal"] == SENT;
    eventually("all of it is left to do", PATIENCE, left).await;
    let progress = json(&format!("consumerProgress -n {ns} -g billing"));
    let at_second: u64 = progress["queues"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|queue| queue["broker"] == "broker-b")
        .map(|queue| queue["diff"].as_u64().unwrap())
        .sum();
    assert!(at_second > 0, "the second broker has rows: {progress}");
    assert_eq!(json(&format!("consumerProgress -n {ns}"))["groups"][0]["diff"], SENT);
    let (enough, less) = (SENT, SENT - 1);
    assert_eq!(mqadmin(&format!("check lag -n {ns} --max-lag {enough}")).code, 0);
    assert_eq!(mqadmin(&format!("check lag -n {ns} --max-lag {less}")).code, 1);
    assert_eq!(failure(&format!("consumerProgress -n {ns} -g absent")).0, 4);
}

#[tokio::test]
async fn slaves_answer_what_only_looks() {
    let servers = group(2, &[], &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "one")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["one"]);
    let slave = 1 - master(&servers).await;
    let slave = servers.brokers[slave].address().unwrap();
    let exported = async || {
        let run = mqadmin(&format!("configExport -b {slave}"));
        run.code == 0 && run.stdout.contains("orders")
    };
    eventually("the slave tells of the topic", PATIENCE, exported).await;
    assert!(table(&format!("brokerConsumeStats -b {slave}")).contains("billing"));
    assert!(table(&format!("browse -t orders -b {slave}")).contains("one"));
    table(&format!("dlqList -g billing -b {slave}"));
    table(&format!("transaction list -t orders -b {slave}"));
    let status = json(&format!("brokerStatus -b {slave}"));
    assert_eq!(
        (&status["brokers"][0]["role"], &status["brokers"][0]["state"]),
        (&"slave".into(), &"ok".into())
    );
    let (code, said) = failure(&format!("updateTopic -b {slave} -t more"));
    assert!(code != 0 && said.contains("slave"), "{said}");
}

#[tokio::test]
async fn a_broker_without_slaves_says_what_that_means() {
    let servers = standalone(&[]);
    let ns = servers.access_points();
    for command in ["haStatus", "getSyncStateSet", "nameserver status"] {
        let told = table(&format!("{command} -n {ns}"));
        for words in ["broker-a", "MASTER", "runs alone", "on its disk"] {
            assert!(told.contains(words), "{command}: {words} is missing in {told}");
        }
        assert_eq!(json(&format!("{command} -n {ns}"))["standalone"], true);
    }
    let (code, said) = failure(&format!("electMaster -n {ns} -b broker-a"));
    assert!(code == 1 && said.contains("runs alone"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_tell_what_one_needs_at_night() {
    let mut servers = standalone(&NO_CHECKS);
    let ns = servers.access_points();
    table(&format!("updateTopic -n {ns} -t orders"));
    table(&format!("updateSubGroup -n {ns} -g billing --attributes +retry.backoff=1h"));
    assert!(table(&format!("retryList -n {ns} -g billing")).contains("nothing waits"));
    let producer = servers.client().producer().start().await.unwrap();
    let failing = Message::builder("orders").body("x").tag("paid").key("order-7").build();
    let sent = producer.send(failing).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    let mut delivery = receive_one(&consumer).await;
    consumer.change_invisible(&mut delivery, Duration::from_secs(600)).await.unwrap();
    drop(consumer);
    for _ in 0..2 {
        let retries = json(&format!("group retries -n {ns} -g billing -t orders"));
        let retry = &retries["brokers"][0]["retries"][0];
        assert_eq!(
            (&retry["messageId"], &retry["keys"], &retry["tag"], &retry["attempts"]),
            (&json!(sent.message_id), &json!(["order-7"]), &json!("paid"), &json!(1)),
            "{retries}"
        );
        let next_ms = retry["nextMs"].as_i64().unwrap();
        let now_ms = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert!(next_ms > now_ms && next_ms <= now_ms + 600_000, "{retries}");
        let shown = table(&format!("retryList -n {ns} -g billing"));
        assert!(shown.contains("order-7") && shown.contains("1 of 17"), "{shown}");
        // What the log knows is enough.
        servers.brokers[0].stop().unwrap();
        servers.brokers[0].start().unwrap();
    }

    // Who acknowledged a message, and when.
    producer.send(message("orders", "done")).await.unwrap();
    let consumer = servers.consumer("shipping", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["done", "x"]);
    let why = json(&format!("message why {} -n {ns} -g shipping", sent.message_id));
    let reason = &why["messages"][0]["groups"][0];
    assert!(reason["acknowledgedMs"].as_i64().unwrap() > 0, "{why}");
    let client = reason["client"].as_str().unwrap();
    assert!(!client.is_empty() && reason["text"] == format!("client {client} acknowledged it"), "{why}");
    assert!(
        table(&format!("message why {} -n {ns} -g shipping", sent.message_id))
            .contains("acknowledged it at 20")
    );

    // A half message is parked soon; list and log name it.
    table(&format!(
        "updateTopic -n {ns} -t payments -a +message.type=TRANSACTION,+transaction.max-age=1s,+transaction.first-check=0s,+transaction.check-interval=1s"
    ));
    let producer =
        servers.client().producer().topic("payments").transaction_checker_sync(|_| Resolution::Unknown);
    let producer = producer.start().await.unwrap();
    let half = Message::builder("payments").body("x").tag("created").key("order-8").build();
    let _never_decided = producer.send_in_transaction(half).await.unwrap();
    let parked = || json(&format!("transaction list -n {ns} -t payments -s parked"));
    let listed = |said: &Value| said["brokers"][0]["transactions"].as_array().unwrap().len();
    eventually("it is parked", PATIENCE, async || listed(&parked()) == 1).await;
    let said = parked();
    let transaction = &said["brokers"][0]["transactions"][0];
    assert_eq!((&transaction["tag"], &transaction["keys"]), (&json!("created"), &json!(["order-8"])));
    let id = transaction["transactionId"].as_str().unwrap();
    let logged = async || {
        servers.brokers[0]
            .log_tail()
            .lines()
            .any(|line| line.contains("half message parked") && line.contains(id))
    };
    eventually("the log names it", PATIENCE, logged).await;
}

#[tokio::test]
async fn members_have_one_number_and_elections_a_reason() {
    let mut servers = group(2, &[], &[]).await;
    let ns = servers.access_points();
    let master = master(&servers).await;
    let known = json(&format!("getSyncStateSet -n {ns}"));
    let members = known["brokers"][0]["members"].as_array().unwrap();
    let listed = json(&format!("clusterList -n {ns}"));
    let checked = table(&format!("check liveness -n {ns}"));
    for broker in listed["brokers"].as_array().unwrap() {
        let member = members.iter().find(|member| member["address"] == broker["address"]).unwrap();
        assert_eq!(broker["member"], member["id"], "{listed}");
        assert!(checked.contains(&format!("broker broker-a/{}", member["id"])), "{checked}");
        assert_eq!(broker["id"] == 0, broker["role"] == "MASTER", "the SDKs' number: {listed}");
    }
    servers.brokers[master].kill().unwrap();
    let logged = async || {
        let log = servers.nameservers[0].log_tail();
        log.lines().any(|line| line.contains("election of a master") && line.contains("has been silent for"))
    };
    eventually("the log says why another one was elected", PATIENCE, logged).await;
}
