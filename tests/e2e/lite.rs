//! Lite topics: sent to, subscribed to and received from, over restarts and through a nameserver.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Delivery, Message, SimpleConsumer};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, LiteSubscriptionAction as Action, offset_option::OffsetType};
use tokio_stream::StreamExt as _;
use tonic::{Request, Streaming};

use crate::mqadmin::{failure, json, rows, table};
use crate::support::{
    INVISIBLE, PATIENCE, bodies, body, cluster_of, code, consume, eventually, expect_nothing, from_client,
    message, raw, receive, receive_one, refusal, resource, standalone, standalone_with,
};

const PARENT: &str = "sessions";
const GROUP: &str = "agents";

fn lite(name: &str, body: &str) -> Message {
    Message::builder(PARENT).body(body.to_owned()).lite_topic(name).build()
}

/// A call as from the client with this id.
fn of<T>(client: &str, message: T) -> Request<T> {
    let mut request = from_client(message);
    request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
    request
}

fn request(action: Action, names: &[&str]) -> v2::SyncLiteSubscriptionRequest {
    v2::SyncLiteSubscriptionRequest {
        action: action.into(),
        topic: resource(PARENT),
        group: resource(GROUP),
        lite_topic_set: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

async fn sync(server: &ServerProcess, client: &str, request: v2::SyncLiteSubscriptionRequest) -> Code {
    let answer = raw(server).await.sync_lite_subscription(of(client, request)).await;
    code(answer.unwrap().into_inner().status)
}

async fn subscribe(server: &ServerProcess, consumer: &SimpleConsumer, names: &[&str]) {
    let client = consumer.client_id();
    assert_eq!(sync(server, client, request(Action::PartialAdd, names)).await, Code::Ok);
}

async fn set_group(servers: &Cluster, attributes: &[&str]) {
    for broker in &servers.brokers {
        let address: Address = broker.address().unwrap().parse().unwrap();
        let request = wire::UpdateGroupRequest {
            name: GROUP.to_owned(),
            attributes: attributes.iter().map(|text| (*text).to_owned()).collect(),
            ..Default::default()
        };
        servers.client().admin().broker(&address).update_group(request).await.unwrap();
    }
}

fn places(received: &[Delivery]) -> Vec<(String, String)> {
    let place = |d: &Delivery| (d.message().lite_topic().unwrap().to_owned(), body(d).to_owned());
    received.iter().map(place).collect()
}

#[tokio::test]
async fn subscribers_get_the_messages_of_their_lite_topics_in_order() {
    let servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    let (one, two) =
        (servers.consumer(GROUP, PARENT).await.unwrap(), servers.consumer(GROUP, PARENT).await.unwrap());
    let broker = &servers.brokers[0];
    subscribe(broker, &one, &["a", "b"]).await;
    subscribe(broker, &two, &["c"]).await;
    for (name, body) in [("a", "a1"), ("c", "c1"), ("a", "a2"), ("b", "b1"), ("unread", "n1")] {
        producer.send(lite(name, body)).await.unwrap();
    }
    let received = receive(&one, 3).await;
    let own = |name: &str| {
        let of_it = places(&received).into_iter().filter(|(of, _)| of == name);
        of_it.map(|(_, body)| body).collect::<Vec<_>>()
    };
    assert_eq!((own("a"), own("b")), (vec!["a1".to_owned(), "a2".to_owned()], vec!["b1".to_owned()]));
    assert_eq!(places(&receive(&two, 1).await), [("c".to_owned(), "c1".to_owned())]);

    // A failure keeps the order: nothing of the lite topic comes before the message that failed.
    producer.send(lite("a", "a3")).await.unwrap();
    let place = |text: &str| received.iter().position(|delivery| body(delivery) == text).unwrap();
    let (first, second) = (place("a1"), place("a2"));
    let mut received: Vec<Option<Delivery>> = received.into_iter().map(Some).collect();
    let mut failed = received[first].take().unwrap();
    one.change_invisible(&mut failed, Duration::ZERO).await.unwrap();
    expect_nothing(&one).await;
    one.ack(&received[second].take().unwrap()).await.unwrap();
    // A new message waits until the failed one is done.
    let again = receive_one(&one).await;
    assert_eq!((body(&again), again.attempt()), ("a1", 2));
    expect_nothing(&one).await;
    one.ack(&again).await.unwrap();
    let next = receive_one(&one).await;
    assert_eq!((body(&next), next.attempt()), ("a3", 1));

    // Who unsubscribes gets no more, also of what was ready for it.
    producer.send(lite("c", "c-ready")).await.unwrap();
    assert_eq!(sync(broker, two.client_id(), request(Action::CompleteRemove, &[])).await, Code::Ok);
    producer.send(lite("c", "c2")).await.unwrap();
    expect_nothing(&two).await;
    // A subscription replaces all others, and finds what was sent before it.
    assert_eq!(sync(broker, two.client_id(), request(Action::CompleteAdd, &["unread"])).await, Code::Ok);
    assert_eq!(consume(&two, 1).await, ["n1"]);
}

#[tokio::test]
async fn a_waiting_receive_hears_of_a_lite_topic_that_comes_into_being() {
    let servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let client = servers.client();
    let consumer = client.simple_consumer(GROUP).subscribe(PARENT, kerolox_client::FilterExpression::all());
    let consumer = consumer.await_duration(PATIENCE).start().await.unwrap();
    subscribe(&servers.brokers[0], &consumer, &["later"]).await;
    let producer = client.producer().topic(PARENT).start().await.unwrap();
    let (received, sent) =
        tokio::join!(consumer.receive(1, INVISIBLE), producer.send(lite("later", "at last")));
    sent.unwrap();
    assert_eq!(bodies(&received.unwrap()), ["at last"]);
}

#[tokio::test]
async fn lite_topics_and_what_was_done_in_them_outlive_a_crash() {
    let mut servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("session-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        producer.send(lite(name, &format!("{name} 1"))).await.unwrap();
        producer.send(lite(name, &format!("{name} 2"))).await.unwrap();
    }
    let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
    subscribe(&servers.brokers[0], &consumer, &names).await;
    for delivery in receive(&consumer, 600).await.iter().filter(|delivery| body(delivery).ends_with(" 1")) {
        consumer.ack(delivery).await.unwrap();
    }
    for index_survives in [true, false] {
        servers.brokers[0].kill().unwrap();
        if !index_survives {
            std::fs::remove_dir_all(servers.brokers[0].data().join("index")).unwrap();
        }
        servers.brokers[0].start().unwrap();
        let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
        subscribe(&servers.brokers[0], &consumer, &names).await;
        let left = receive(&consumer, 300).await;
        assert!(left.iter().all(|delivery| body(delivery).ends_with(" 2")), "{:?}", bodies(&left));
    }
}

#[tokio::test]
async fn a_place_to_begin_can_be_chosen() {
    let servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    for number in 1..=4 {
        producer.send(lite("a", &format!("m{number}"))).await.unwrap();
    }
    for (place, expected) in [
        (OffsetType::TailN(2), &["m3", "m4"][..]),
        (OffsetType::Policy(2), &[]),
        (OffsetType::Offset(3), &["m4"]),
        (OffsetType::Policy(1), &["m1", "m2", "m3", "m4"]),
        (OffsetType::Timestamp(0), &["m1", "m2", "m3", "m4"]),
        (OffsetType::Policy(0), &[]),
    ] {
        let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
        let offset_option = Some(v2::OffsetOption { offset_type: Some(place) });
        let asked = v2::SyncLiteSubscriptionRequest { offset_option, ..request(Action::PartialAdd, &["a"]) };
        assert_eq!(sync(&servers.brokers[0], consumer.client_id(), asked).await, Code::Ok);
        assert_eq!(consume(&consumer, expected.len()).await, expected, "{place:?}");
        consumer.shutdown().await;
    }
}

/// The stream of the lite consumer "watcher" at a server, and what that tells it of its subscription.
async fn watch(server: &ServerProcess) -> (Streaming<v2::TelemetryCommand>, v2::Subscription) {
    let subscription = v2::Subscription { group: resource(GROUP), ..Default::default() };
    let settings = v2::Settings {
        client_type: Some(v2::ClientType::LiteSimpleConsumer.into()),
        pub_sub: Some(v2::settings::PubSub::Subscription(subscription)),
        ..Default::default()
    };
    let hello = v2::TelemetryCommand { command: Some(Command::Settings(settings)), ..Default::default() };
    let commands = tokio_stream::once(hello).chain(tokio_stream::pending());
    let mut stream = raw(server).await.telemetry(of("watcher", commands)).await.unwrap().into_inner();
    let told = stream.message().await.unwrap().unwrap().command;
    let Some(Command::Settings(told)) = told else { panic!("{told:?}") };
    let Some(v2::settings::PubSub::Subscription(told)) = told.pub_sub else { panic!("no subscription") };
    (stream, told)
}

#[tokio::test]
async fn an_exclusive_lite_topic_goes_to_the_newest_subscriber_and_the_old_one_is_told() {
    let servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    set_group(&servers, &["+lite.sub.model=Exclusive"]).await;
    let broker = &servers.brokers[0];
    let (old, new) =
        (servers.consumer(GROUP, PARENT).await.unwrap(), servers.consumer(GROUP, PARENT).await.unwrap());
    let (mut stream, told) = watch(broker).await;
    assert_eq!((told.lite_subscription_quota, told.max_lite_topic_size), (Some(2_000), Some(64)));

    assert_eq!(sync(broker, "watcher", request(Action::PartialAdd, &["a"])).await, Code::Ok);
    subscribe(broker, &old, &["a"]).await;
    let told = stream.message().await.unwrap().unwrap().command;
    let Some(Command::NotifyUnsubscribeLiteCommand(told)) = told else { panic!("{told:?}") };
    assert_eq!(told.lite_topic, "a");
    subscribe(broker, &new, &["a"]).await;
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    producer.send(lite("a", "for the newest")).await.unwrap();
    expect_nothing(&old).await;
    assert_eq!(consume(&new, 1).await, ["for the newest"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_code() {
    let limits =
        [("KEROLOX_BROKER__LITE__MAX_TOPICS", "2"), ("KEROLOX_BROKER__LITE__MAX_SUBSCRIPTIONS", "3")];
    let servers = standalone_with(&[], &limits);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    set_group(&servers, &["+lite.sub.client.quota=2", "+lite.bind.topic=sessions"]).await;
    let client = servers.client();
    let producer = client.producer().start().await.unwrap();
    assert_eq!(refusal(producer.send(message(PARENT, "x")).await), Code::MessagePropertyConflictWithType);
    assert_eq!(refusal(producer.send(lite("a b", "x")).await), Code::IllegalLiteTopic);
    for name in ["a", "b", "a"] {
        producer.send(lite(name, "x")).await.unwrap();
    }
    assert_eq!(refusal(producer.send(lite("c", "x")).await), Code::LiteTopicQuotaExceeded);

    let broker = &servers.brokers[0];
    let add = |names: &[&str]| request(Action::PartialAdd, names);
    let quota = Code::LiteSubscriptionQuotaExceeded;
    assert_eq!(sync(broker, "one", add(&["a", "b"])).await, Code::Ok);
    assert_eq!(sync(broker, "one", add(&["c"])).await, quota);
    assert_eq!(sync(broker, "two", add(&["a", "b"])).await, quota, "of the broker");
    assert_eq!(sync(broker, "two", add(&["a"])).await, Code::Ok);
    for no_name in ["a$b", "*"] {
        assert_eq!(sync(broker, "two", add(&[no_name])).await, Code::IllegalLiteTopic);
    }
    let orders = || v2::SyncLiteSubscriptionRequest { topic: resource("orders"), ..add(&["a"]) };
    assert_eq!(sync(broker, "two", orders()).await, Code::IllegalTopic);
    servers.create_topic("other", "LITE").await.unwrap();
    let other = v2::SyncLiteSubscriptionRequest { topic: resource("other"), ..orders() };
    assert_eq!(sync(broker, "two", other).await, Code::IllegalConsumerGroup);
}

#[tokio::test]
async fn a_subscription_at_a_nameserver_reaches_every_broker() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
    subscribe(&servers.nameservers[0], &consumer, &["a"]).await;
    for broker in ["broker-a", "broker-b"] {
        producer.send_to(broker, None, lite("a", broker)).await.unwrap();
    }
    assert_eq!(consume(&consumer, 2).await, ["broker-a", "broker-b"]);
    // A broker passes it on as well.
    let other = servers.consumer("others", PARENT).await.unwrap();
    let asked =
        v2::SyncLiteSubscriptionRequest { group: resource("others"), ..request(Action::CompleteAdd, &["a"]) };
    let mut received = Vec::new();
    // A broker hears of the others with its next registration; SDKs repeat their subscriptions for that.
    eventually("both brokers know the subscription", PATIENCE, async || {
        assert_eq!(sync(&servers.brokers[0], other.client_id(), asked.clone()).await, Code::Ok);
        received.extend(other.receive(32, INVISIBLE).await.unwrap());
        received.len() == 2
    })
    .await;
    assert_eq!(bodies(&received), ["broker-a", "broker-b"]);
}

#[tokio::test]
async fn a_message_of_a_lite_topic_becomes_a_dead_letter_and_the_next_one_follows() {
    let servers = standalone(&[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    producer.send(lite("a", "bad")).await.unwrap();
    producer.send(lite("a", "good")).await.unwrap();
    let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
    subscribe(&servers.brokers[0], &consumer, &["a"]).await;
    let bad = consumer.receive(1, INVISIBLE).await.unwrap().remove(0);
    let request = v2::ForwardMessageToDeadLetterQueueRequest {
        group: resource(GROUP),
        topic: resource(PARENT),
        receipt_handle: bad.receipt_handle().to_owned(),
        message_id: bad.message_id().to_owned(),
        lite_topic: Some("a".to_owned()),
        ..Default::default()
    };
    let mut server = raw(&servers.brokers[0]).await;
    let answer = server.forward_message_to_dead_letter_queue(from_client(request)).await.unwrap();
    assert_eq!(code(answer.into_inner().status), Code::Ok);
    assert_eq!(consume(&consumer, 1).await, ["good"]);
    let morgue = servers.consumer("morgue", &format!("%DLQ%{GROUP}")).await.unwrap();
    let dead = receive_one(&morgue).await;
    assert_eq!((body(&dead), dead.message().lite_topic()), ("bad", Some("a")));
}

#[tokio::test]
async fn administrators_see_lite_topics_and_what_is_left_of_them() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let ns = servers.access_points();
    let list = |more: &str| json(&format!("liteList -n {ns} -t {PARENT} {more}"))["brokers"][0].clone();
    assert_eq!((&list("")["total"], &list("")["liteTopics"]), (&0.into(), &serde_json::json!([])));

    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    for name in ["user-1", "user-2", "guest-1"] {
        for number in 1..=3 {
            producer.send(lite(name, &format!("{name} {number}"))).await.unwrap();
        }
    }
    let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
    subscribe(&servers.brokers[0], &consumer, &["user-1", "guest-1", "to-come"]).await;
    for delivery in receive(&consumer, 6).await.iter().filter(|delivery| body(delivery) == "user-1 1") {
        consumer.ack(delivery).await.unwrap();
    }

    let all = list("");
    let names: Vec<&str> =
        all["liteTopics"].as_array().unwrap().iter().map(|one| one["liteTopic"].as_str().unwrap()).collect();
    assert_eq!((names, &all["total"]), (vec!["guest-1", "user-1", "user-2"], &3.into()));
    assert_eq!(all["liteTopics"][0]["diff"], serde_json::Value::Null);
    let first = &all["liteTopics"][1];
    assert_eq!(
        (&first["messages"], &first["maxOffset"], &first["subscribers"]),
        (&3.into(), &3.into(), &1.into())
    );
    assert!(first["lastActivityMs"].as_i64().unwrap() >= first["createdMs"].as_i64().unwrap());
    let chosen = list(&format!("--prefix user- -g {GROUP} -m 1"));
    assert_eq!(
        (&chosen["truncated"], &chosen["liteTopics"][0]["liteTopic"]),
        (&true.into(), &"user-1".into())
    );
    assert_eq!(
        (&chosen["liteTopics"][0]["diff"], &chosen["liteTopics"].as_array().unwrap().len()),
        (&2.into(), &1)
    );
    let shown = table(&format!("liteList -n {ns} -t {PARENT} -g {GROUP}"));
    let shown = rows(shown.split("\n\n").next().unwrap());
    let row = |name: &str| shown.iter().find(|row| row[0] == name).unwrap().clone();
    assert_eq!(row("user-2").last(), Some(&"-"), "no member of the group subscribes to it");
    assert_eq!((row("guest-1")[1], row("guest-1")[3..6].to_vec()), ("broker-a", vec!["0", "3", "3"]));
    assert_eq!(row("user-1").last(), Some(&"2"));

    // One line for all of them, before and after the clients are gone and the broker was started again.
    let progress = || json(&format!("consumerProgress -n {ns} -g {GROUP}"));
    let seen = progress();
    assert_eq!((&seen["diffTotal"], &seen["inflightTotal"]), (&5.into(), &5.into()));
    assert_eq!((seen["queues"].as_array().unwrap().len(), &seen["queues"][0]["liteTopics"]), (1, &2.into()));
    let line = table(&format!("consumerProgress -n {ns} -g {GROUP}"));
    assert!(line.contains("2 lite"), "{line}");
    drop(consumer);
    let mut servers = servers;
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    eventually("the broker is back", PATIENCE, async || {
        crate::mqadmin::mqadmin(&format!("topicRoute -n {ns} -t {PARENT}")).code == 0
    })
    .await;
    let seen = progress();
    assert_eq!((&seen["diffTotal"], &seen["queues"][0]["liteTopics"]), (&2.into(), &1.into()), "{seen}");

    for (line, exit, word) in [
        (format!("liteList -n {ns} -t orders"), 1, "LITE"),
        (format!("liteList -n {ns} -t nothing"), 4, "nothing"),
        (format!("liteList -n {ns} -t {PARENT} -g absent"), 4, "absent"),
    ] {
        let (code, text) = failure(&line);
        assert!(code == exit && text.contains(word), "{line}: {code} {text}");
    }
}

/// The shortest expiration is a minute.
#[tokio::test]
async fn an_idle_lite_topic_expires_and_one_at_work_stays() {
    let servers = standalone_with(&[], &[("KEROLOX_BROKER__LITE__CHECK_INTERVAL", "1s")]);
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateTopicRequest {
        name: PARENT.to_owned(),
        attributes: vec!["+message.type=LITE".to_owned(), "+lite.topic.expiration=1".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_topic(request).await.unwrap();
    let producer = servers.client().producer().topic(PARENT).start().await.unwrap();
    let started = std::time::Instant::now();
    producer.send(lite("idle", "forgotten")).await.unwrap();
    producer.send(lite("busy", "early")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    producer.send(lite("busy", "late")).await.unwrap();
    let names = || {
        let listed = json(&format!("liteList -b {address} -t {PARENT}"));
        let listed = listed["brokers"][0]["liteTopics"].as_array().unwrap().clone();
        listed.iter().map(|lite| lite["liteTopic"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["busy", "idle"]);
    eventually("the idle one is gone", Duration::from_secs(60), async || names() == ["busy"]).await;
    assert!(started.elapsed() >= Duration::from_secs(60), "it went after {:?}", started.elapsed());
    let consumer = servers.consumer(GROUP, PARENT).await.unwrap();
    subscribe(&servers.brokers[0], &consumer, &["busy", "idle"]).await;
    assert_eq!(consume(&consumer, 2).await, ["early", "late"]);
    // One of the same name begins anew, and its subscribers get it.
    producer.send(lite("idle", "again")).await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["again"]);
}

#[tokio::test]
async fn a_client_of_a_nameserver_hears_its_quota_and_what_it_lost() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic(PARENT, "LITE").await.unwrap();
    set_group(&servers, &["+lite.sub.model=Exclusive", "+lite.sub.client.quota=7"]).await;
    let nameserver = &servers.nameservers[0];
    let (mut stream, told) = watch(nameserver).await;
    assert_eq!(told.lite_subscription_quota, Some(7));

    assert_eq!(sync(nameserver, "watcher", request(Action::PartialAdd, &["a"])).await, Code::Ok);
    assert_eq!(sync(nameserver, "another", request(Action::PartialAdd, &["a"])).await, Code::Ok);
    let told = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a notice comes");
    let told = told.unwrap().unwrap().command;
    let Some(Command::NotifyUnsubscribeLiteCommand(told)) = told else { panic!("{told:?}") };
    assert_eq!(told.lite_topic, "a");
}
