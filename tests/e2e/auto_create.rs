//! Topics that come into being with their first message, and those that do not.

use std::time::Duration;

use kerolox_client::{FilterExpression, Message, Resolution};
use kerolox_proto::v2::{self, Code};

use crate::mqadmin::{json, mqadmin};
use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, NO_CHECKS, PATIENCE, bodies, cluster_of, code, consume, from_client, message, raw, receive,
    refusal, resource, standalone, standalone_with, start_broker,
};

const ON: [&str; 2] = ["--auto-create", "on"];

/// Names and types of all topics, with the brokers that have them.
fn topics(servers: &Cluster) -> Vec<(String, String, Vec<String>)> {
    let listed = json(&format!("topicList -n {}", servers.access_points()));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let topics = listed["topics"].as_array().unwrap().iter().map(|topic| {
        let brokers = topic["brokers"].as_array().unwrap().iter().map(text).collect();
        (text(&topic["topic"]), text(&topic["messageType"]), brokers)
    });
    topics.collect()
}

/// Names and types of all topics.
fn types(servers: &Cluster) -> Vec<(String, String)> {
    topics(servers).into_iter().map(|(name, kind, _)| (name, kind)).collect()
}

#[tokio::test]
async fn the_first_message_makes_its_topic_and_says_what_it_takes() {
    let mut servers = standalone(&[ON, NO_CHECKS].concat());
    let client = servers.client();
    let producer = client.producer().topic("half").transaction_checker_sync(|_| Resolution::Unknown);
    let producer = producer.start().await.unwrap();
    assert_eq!(types(&servers), [], "a question for a route makes nothing");
    let of = |topic: &str| Message::builder(topic).body(topic.to_owned());
    producer.send(of("plain").build()).await.unwrap();
    producer.send(of("ordered").message_group("a").build()).await.unwrap();
    producer.send(of("later").deliver_after(Duration::from_millis(500)).build()).await.unwrap();
    producer.send(of("urgent").priority(3).build()).await.unwrap();
    producer.send_in_transaction(of("half").build()).await.unwrap().commit().await.unwrap();
    let expected = [
        ("half", "TRANSACTION"),
        ("later", "DELAY"),
        ("ordered", "FIFO"),
        ("plain", "NORMAL"),
        ("urgent", "PRIORITY"),
    ];
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(types(&servers), expected);
    for (topic, _) in &expected {
        let consumer = servers.consumer("all", topic).await.unwrap();
        assert_eq!(consume(&consumer, 1).await[0], *topic);
    }
    let other = producer.send(of("plain").message_group("a").build()).await;
    assert_eq!(refusal(other), Code::MessagePropertyConflictWithType);

    // They are topics like any other.
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    assert_eq!(types(&servers), expected);
    let shown = json(&format!("topicStatus -n {} -t plain", servers.access_points()));
    assert_eq!(shown["brokers"][0]["topic"]["attributes"]["auto.created"], "true");
}

#[tokio::test]
async fn a_consumer_waits_for_a_topic_and_makes_none() {
    let servers = standalone(&ON);
    let consumer = servers
        .client()
        .simple_consumer("early")
        .subscribe("orders", FilterExpression::all())
        .await_duration(PATIENCE)
        .start()
        .await
        .unwrap();
    let assignment = v2::QueryAssignmentRequest {
        topic: resource("orders"),
        group: resource("early"),
        ..Default::default()
    };
    let answer = raw(&servers.brokers[0]).await.query_assignment(from_client(assignment)).await.unwrap();
    assert_eq!(code(answer.into_inner().status), v2::Code::Ok);
    let client = servers.client();
    let send = async {
        // The receive is under way by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(types(&servers), []);
        let producer = client.producer().start().await.unwrap();
        producer.send(message("orders", "the first")).await.unwrap();
    };
    let (received, ()) = tokio::join!(consumer.receive(1, INVISIBLE), send);
    assert_eq!(bodies(&received.unwrap()), ["the first"]);
}

#[tokio::test]
async fn what_is_not_made_is_refused_with_what_to_do() {
    let servers = standalone_with(
        &["--auto-create", "standalone"],
        &[("KEROLOX_BROKER__TOPICS__AUTO_CREATE_MAX", "1")],
    );
    let producer = servers.client().producer().start().await.unwrap();
    let lite = Message::builder("sessions").body("x").lite_topic("a").build();
    assert_eq!(refusal(producer.send(lite).await), Code::TopicNotFound);
    let letters = producer.send(message("%DLQ%billing", "x")).await;
    assert_eq!(refusal(letters), Code::TopicNotFound);
    producer.send(message("one", "x")).await.unwrap();
    let second = producer.send(message("two", "x")).await.unwrap_err().to_string();
    assert!(second.contains("topics.auto-create-max") && second.contains("updateTopic"), "{second}");
    let sync = v2::SyncLiteSubscriptionRequest {
        topic: resource("three"),
        group: resource("agents"),
        lite_topic_set: vec!["a".to_owned()],
        ..Default::default()
    };
    let answer = raw(&servers.brokers[0]).await.sync_lite_subscription(from_client(sync)).await.unwrap();
    assert_eq!(code(answer.into_inner().status), v2::Code::TopicNotFound);
    assert_eq!(types(&servers), [("one".to_owned(), "NORMAL".to_owned())]);

    let off = standalone(&[]);
    let producer = off.client().producer().start().await.unwrap();
    let refused = producer.send(message("orders", "x")).await.unwrap_err().to_string();
    for word in ["orders", "topics.auto-create", "mqadmin updateTopic"] {
        assert!(refused.contains(word), "{refused}");
    }
}

#[tokio::test]
async fn a_topic_comes_to_every_broker_that_makes_topics() {
    let mut servers = cluster_of(1, &["broker-a", "broker-b"], &ON);
    let nameservers = servers.access_points();
    start_broker(&mut servers, "broker-c", &["--nameserver", &nameservers]);
    let client = servers.client();
    let producer = client.producer().start().await.unwrap();
    producer
        .send_to("broker-a", None, Message::builder("orders").body("a").message_group("g").build())
        .await
        .unwrap();
    let made = |brokers: &[&str]| {
        let brokers = brokers.iter().map(|&broker| broker.to_owned()).collect::<Vec<_>>();
        ("orders".to_owned(), "FIFO".to_owned(), brokers)
    };
    assert_eq!(topics(&servers), [made(&["broker-a"])]);
    let plain = producer.send_to("broker-b", None, message("orders", "x")).await;
    assert_eq!(refusal(plain), Code::MessagePropertyConflictWithType, "it takes the same everywhere");
    let ordered = Message::builder("orders").body("b").message_group("g").build();
    producer.send_to("broker-b", None, ordered).await.unwrap();
    assert_eq!(topics(&servers), [made(&["broker-a", "broker-b"])]);
    let route = json(&format!("topicRoute -n {nameservers} -t orders"));
    assert_eq!(route["brokers"].as_array().unwrap().len(), 2, "broker-c makes none: {route}");

    // Through the nameserver, which passes the send on to a broker that makes the topic.
    let sent = v2::Message {
        topic: resource("relayed"),
        system_properties: Some(v2::SystemProperties {
            message_id: "R1".to_owned(),
            message_type: v2::MessageType::Normal.into(),
            ..Default::default()
        }),
        body: b"relayed".to_vec().into(),
        ..Default::default()
    };
    let request = from_client(v2::SendMessageRequest { messages: vec![sent] });
    let answer = raw(&servers.nameservers[0]).await.send_message(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), v2::Code::Ok);
    let consumer = servers.consumer("all", "relayed").await.unwrap();
    assert_eq!(bodies(&receive(&consumer, 1).await), ["relayed"]);

    // One that an administrator makes stays where it was made.
    let address = servers.brokers[2].address().unwrap();
    let made = mqadmin(&format!("updateTopic -b {address} -t own"));
    assert_eq!(made.code, 0, "{made:?}");
    let route = json(&format!("topicRoute -n {nameservers} -t own"));
    assert_eq!(route["brokers"].as_array().unwrap().len(), 1);
    assert!(producer.send_to("broker-a", None, message("own", "x")).await.is_err());
}
