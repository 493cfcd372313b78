//! PullMessage and the calls for offsets, made without the help of a client library, at the owner of the queue and at
//! servers that pass them on.

use std::time::{Duration, Instant};

use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::pull_message_response::Content;
use kerolox_proto::v2::{self, Code, FilterType, QueryOffsetPolicy};
use tonic::transport::Channel;

use kerolox_harness::Cluster;

use crate::support::{PATIENCE, QUEUES, cluster_of, code, from_client, message, raw, resource};

type Raw = MessagingServiceClient<Channel>;

/// What one pull came to.
#[derive(Debug)]
struct Pulled {
    code: Code,
    bodies: Vec<String>,
    next: i64,
}

fn queue(id: i32) -> Option<v2::MessageQueue> {
    let broker = v2::Broker { name: "broker-a".to_owned(), ..Default::default() };
    Some(v2::MessageQueue { topic: resource("orders"), id, broker: Some(broker), ..Default::default() })
}

fn pull_request(offset: i64, max: i32) -> v2::PullMessageRequest {
    v2::PullMessageRequest {
        group: resource("reader"),
        message_queue: queue(0),
        offset,
        batch_size: max,
        ..Default::default()
    }
}

async fn pull(server: &mut Raw, request: v2::PullMessageRequest) -> Pulled {
    let mut answer = server.pull_message(from_client(request)).await.unwrap().into_inner();
    let mut pulled = Pulled { code: Code::Unspecified, bodies: Vec::new(), next: -1 };
    while let Some(item) = answer.message().await.unwrap() {
        match item.content.unwrap() {
            Content::Status(status) => pulled.code = code(Some(status)),
            Content::Message(message) => {
                let system = message.system_properties.unwrap();
                assert!(system.receipt_handle.is_none() && system.body_digest.is_some());
                pulled.bodies.push(String::from_utf8(message.body.to_vec()).unwrap());
            }
            Content::NextOffset(next) => pulled.next = next,
        }
    }
    pulled
}

async fn query(
    server: &mut Raw,
    policy: QueryOffsetPolicy,
    timestamp: Option<prost_types::Timestamp>,
) -> (Code, i64) {
    let request =
        v2::QueryOffsetRequest { message_queue: queue(0), query_offset_policy: policy.into(), timestamp };
    let answer = server.query_offset(from_client(request)).await.unwrap().into_inner();
    (code(answer.status), answer.offset)
}

async fn update(server: &mut Raw, queue: Option<v2::MessageQueue>, offset: i64) -> Code {
    let request = v2::UpdateOffsetRequest { group: resource("reader"), message_queue: queue, offset };
    code(server.update_offset(from_client(request)).await.unwrap().into_inner().status)
}

async fn get(server: &mut Raw) -> (Code, i64) {
    let request = v2::GetOffsetRequest { group: resource("reader"), message_queue: queue(0) };
    let answer = server.get_offset(from_client(request)).await.unwrap().into_inner();
    (code(answer.status), answer.offset)
}

/// Sends numbered messages to queue 0 of "orders", every other one with the tag "even".
async fn fill(servers: &Cluster, numbers: std::ops::Range<u32>) {
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for number in numbers {
        let tag = if number % 2 == 0 { "even" } else { "odd" };
        let message = kerolox_client::Message::builder("orders").body(number.to_string()).tag(tag).build();
        producer.send_to("broker-a", Some(0), message).await.unwrap();
    }
}

#[tokio::test]
async fn messages_are_pulled_from_an_offset_on() {
    let servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    fill(&servers, 0..10).await;
    for server in [&servers.brokers[0], &servers.brokers[1], &servers.nameservers[0]] {
        let mut server = raw(server).await;
        let pulled = pull(&mut server, pull_request(3, 4)).await;
        assert_eq!((pulled.code, pulled.next), (Code::Ok, 7));
        assert_eq!(pulled.bodies, ["3", "4", "5", "6"]);
        let again = pull(&mut server, pull_request(3, 1)).await;
        assert_eq!(again.bodies, ["3"], "nothing is leased");

        let mut filtered = pull_request(1, 3);
        filtered.filter_expression =
            Some(v2::FilterExpression { r#type: FilterType::Tag.into(), expression: "even".into() });
        let pulled = pull(&mut server, filtered.clone()).await;
        assert_eq!((pulled.bodies, pulled.next), (vec!["2".to_owned(), "4".into(), "6".into()], 7));
        filtered.offset = 9;
        let pulled = pull(&mut server, filtered).await;
        assert_eq!(
            (pulled.code, pulled.next),
            (Code::MessageNotFound, 10),
            "what does not match is passed over"
        );

        for (offset, next) in [(-1, 0), (11, 10)] {
            let pulled = pull(&mut server, pull_request(offset, 1)).await;
            assert_eq!((pulled.code, pulled.next), (Code::IllegalOffset, next), "{offset}");
        }
        let nowhere = v2::PullMessageRequest { message_queue: queue(99), ..pull_request(0, 1) };
        assert_eq!(pull(&mut server, nowhere).await.code, Code::BadRequest);
        let brokerless = v2::PullMessageRequest { message_queue: None, ..pull_request(0, 1) };
        assert_eq!(pull(&mut server, brokerless).await.code, Code::BadRequest);
    }
}

#[tokio::test]
async fn a_pull_waits_for_a_message() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for server in [&servers.brokers[0], &servers.nameservers[0]] {
        let mut server = raw(server).await;
        let (_, end) = query(&mut server, QueryOffsetPolicy::End, None).await;
        let empty = pull(&mut server, pull_request(end, 1)).await;
        assert_eq!(
            (empty.code, empty.next),
            (Code::MessageNotFound, end),
            "a pull without a poll time does not wait"
        );
        let waiting = v2::PullMessageRequest {
            long_polling_timeout: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            ..pull_request(end, 8)
        };
        let started = Instant::now();
        let waiting = tokio::spawn(async move { pull(&mut server, waiting).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        // An arrival in another queue is none.
        producer.send_to("broker-a", Some(1), message("orders", "elsewhere")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished());
        producer.send_to("broker-a", Some(0), message("orders", "here")).await.unwrap();
        let pulled = waiting.await.unwrap();
        assert_eq!((pulled.code, pulled.bodies, pulled.next), (Code::Ok, vec!["here".to_owned()], end + 1));
        assert!(started.elapsed() < Duration::from_secs(10), "it heard of the message");
    }
}

#[tokio::test]
async fn offsets_are_asked_for_and_kept() {
    let mut servers = cluster_of(1, &["broker-a", "broker-b"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    fill(&servers, 0..4).await;
    // Store times are whole milliseconds.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = std::time::SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    fill(&servers, 4..6).await;
    for server in [&servers.brokers[0], &servers.brokers[1], &servers.nameservers[0]] {
        let mut server = raw(server).await;
        assert_eq!(query(&mut server, QueryOffsetPolicy::Beginning, None).await, (Code::Ok, 0));
        assert_eq!(query(&mut server, QueryOffsetPolicy::End, None).await, (Code::Ok, 6));
        let at = |time: std::time::SystemTime| Some(prost_types::Timestamp::from(time));
        assert_eq!(query(&mut server, QueryOffsetPolicy::Timestamp, at(between)).await, (Code::Ok, 4));
        let future = std::time::SystemTime::now() + Duration::from_secs(60);
        assert_eq!(query(&mut server, QueryOffsetPolicy::Timestamp, at(future)).await, (Code::Ok, 6));
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        assert_eq!(query(&mut server, QueryOffsetPolicy::Timestamp, at(epoch)).await, (Code::Ok, 0));
        assert_eq!(query(&mut server, QueryOffsetPolicy::Timestamp, None).await.0, Code::BadRequest);
    }
    let mut owner = raw(&servers.brokers[0]).await;
    assert_eq!(get(&mut owner).await.0, Code::ConsumerGroupNotFound);
    for (offset, expected) in [(-1, Code::IllegalOffset), (7, Code::IllegalOffset), (5, Code::Ok)] {
        assert_eq!(update(&mut owner, queue(0), offset).await, expected, "{offset}");
    }
    assert_eq!(update(&mut owner, queue(QUEUES.cast_signed()), 0).await, Code::BadRequest);
    for (place, server) in
        [&servers.brokers[0], &servers.brokers[1], &servers.nameservers[0]].iter().enumerate()
    {
        let mut server = raw(server).await;
        let offset = i64::try_from(place).unwrap() + 2;
        assert_eq!(update(&mut server, queue(0), offset).await, Code::Ok);
        assert_eq!(get(&mut server).await, (Code::Ok, offset));
    }
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    let started = Instant::now();
    let mut owner = raw(&servers.brokers[0]).await;
    let mut kept = get(&mut owner).await;
    while kept.0 != Code::Ok {
        assert!(started.elapsed() < PATIENCE, "{kept:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        kept = get(&mut owner).await;
    }
    assert_eq!(kept, (Code::Ok, 4), "an offset is durable when it is answered");
}
