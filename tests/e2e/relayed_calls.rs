//! Calls that reach a server which is not their owner, made without the help of a client library: a nameserver or the
//! other broker passes them on.

use std::time::{Duration, Instant};

use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use kerolox_harness::Cluster;

use crate::support::{
    INVISIBLE, NO_CHECKS, cluster_of, code, consume, eventually, expect_nothing, from_client, raw, received,
    resource,
};

pub(crate) type Raw = MessagingServiceClient<Channel>;

pub(crate) const A: &str = "broker-a";
pub(crate) const B: &str = "broker-b";

/// A nameserver, broker A and broker B with the normal topic "orders" and the transactional topic "payments".
async fn two_brokers() -> Cluster {
    let servers = cluster_of(1, &[A, B], &NO_CHECKS);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    servers
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) async fn send(
    server: &mut Raw,
    topic: &str,
    id: &str,
    kind: v2::MessageType,
) -> v2::SendResultEntry {
    let system = v2::SystemProperties {
        message_id: id.to_owned(),
        message_type: kind.into(),
        body_encoding: v2::Encoding::Identity.into(),
        ..Default::default()
    };
    let message = v2::Message {
        topic: resource(topic),
        system_properties: Some(system),
        body: id.to_owned().into(),
        ..Default::default()
    };
    let request = from_client(v2::SendMessageRequest { messages: vec![message] });
    let mut answer = server.send_message(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
    answer.entries.remove(0)
}

/// One ReceiveMessage of "orders" at `owner`, sent to `server`.
async fn receive(server: &mut Raw, owner: &str) -> (Code, Vec<v2::Message>) {
    let broker = v2::Broker { name: owner.to_owned(), ..Default::default() };
    let request = v2::ReceiveMessageRequest {
        group: resource("billing"),
        message_queue: Some(v2::MessageQueue {
            topic: resource("orders"),
            id: -1,
            broker: Some(broker),
            ..Default::default()
        }),
        batch_size: 16,
        invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
        long_polling_timeout: seconds(1),
        ..Default::default()
    };
    received(server.receive_message(from_client(request)).await).await
}

fn handle(message: &v2::Message) -> String {
    message.system_properties.as_ref().unwrap().receipt_handle.clone().unwrap()
}

fn attempt(message: &v2::Message) -> Option<i32> {
    message.system_properties.as_ref().unwrap().delivery_attempt
}

/// Acknowledges in one request; the codes of the answer and of its entries.
async fn ack(server: &mut Raw, handles: &[String]) -> (Code, Vec<Code>) {
    let entry = |handle: &String| v2::AckMessageEntry {
        message_id: "any".to_owned(),
        receipt_handle: handle.clone(),
        lite_topic: None,
    };
    let request = v2::AckMessageRequest {
        group: resource("billing"),
        topic: resource("orders"),
        entries: handles.iter().map(entry).collect(),
    };
    let answer = server.ack_message(from_client(request)).await.unwrap().into_inner();
    (code(answer.status), answer.entries.into_iter().map(|entry| code(entry.status)).collect())
}

async fn put_away(server: &mut Raw, handle: &str, duration: i64) -> (Code, String) {
    let request = v2::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: handle.to_owned(),
        invisible_duration: seconds(duration),
        message_id: "any".to_owned(),
        ..Default::default()
    };
    let answer = server.change_invisible_duration(from_client(request)).await.unwrap().into_inner();
    (code(answer.status), answer.receipt_handle)
}

/// Ends a transaction; the code of the answer.
pub(crate) async fn end(server: &mut Raw, request: v2::EndTransactionRequest) -> Code {
    code(server.end_transaction(from_client(request)).await.unwrap().into_inner().status)
}

/// The decision about a half message of "payments".
pub(crate) fn end_of(
    message_id: &str,
    transaction_id: &str,
    resolution: v2::TransactionResolution,
) -> v2::EndTransactionRequest {
    v2::EndTransactionRequest {
        topic: resource("payments"),
        message_id: message_id.to_owned(),
        transaction_id: transaction_id.to_owned(),
        resolution: resolution.into(),
        source: v2::TransactionSource::SourceClient.into(),
        trace_context: String::new(),
    }
}

fn decided(half: &v2::SendResultEntry, resolution: v2::TransactionResolution) -> v2::EndTransactionRequest {
    end_of(&half.message_id, &half.transaction_id, resolution)
}

/// Connections to the nameserver, broker A and broker B.
async fn clients(servers: &Cluster) -> (Raw, Raw, Raw) {
    (raw(&servers.nameservers[0]).await, raw(&servers.brokers[0]).await, raw(&servers.brokers[1]).await)
}

#[tokio::test]
async fn a_consumer_that_only_knows_the_nameserver_is_served() {
    let servers = two_brokers().await;
    let (mut nameserver, mut a, mut b) = clients(&servers).await;
    for (owner, broker, body) in [(A, &mut a, "1A"), (B, &mut b, "1B")] {
        // One after the other: who waits at one group is given what the other one has.
        send(broker, "orders", body, v2::MessageType::Normal).await;
        let (status, messages) = receive(&mut nameserver, owner).await;
        assert_eq!((status, messages.len()), (Code::Ok, 1));
        assert_eq!((&messages[0].body[..], attempt(&messages[0])), (body.as_bytes(), Some(1)));

        let (status, renewed) = put_away(&mut nameserver, &handle(&messages[0]), 0).await;
        assert_eq!(status, Code::Ok, "{renewed}");
        let (status, again) = receive(&mut nameserver, owner).await;
        assert_eq!((status, attempt(&again[0])), (Code::Ok, Some(2)));

        assert_eq!(ack(&mut nameserver, &[handle(&again[0])]).await, (Code::Ok, vec![Code::Ok]));
        assert_eq!(receive(&mut nameserver, owner).await, (Code::MessageNotFound, Vec::new()));
    }
}

#[tokio::test]
async fn a_send_to_the_nameserver_ends_up_on_some_broker() {
    let servers = two_brokers().await;
    let (mut nameserver, ..) = clients(&servers).await;
    for number in 0..4 {
        send(&mut nameserver, "orders", &format!("1{number}"), v2::MessageType::Normal).await;
    }
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 4).await, ["10", "11", "12", "13"]);
}

#[tokio::test]
async fn decisions_reach_the_half_message_from_everywhere() {
    let servers = two_brokers().await;
    let (mut nameserver, mut a, mut b) = clients(&servers).await;
    let mut halves = Vec::new();
    for id in ["1A", "2A", "3A"] {
        halves.push(send(&mut a, "payments", id, v2::MessageType::Transaction).await);
    }
    use v2::TransactionResolution::{Commit, Rollback};
    assert_eq!(end(&mut nameserver, decided(&halves[0], Commit)).await, Code::Ok);
    assert_eq!(end(&mut b, decided(&halves[1], Commit)).await, Code::Ok);
    assert_eq!(end(&mut b, decided(&halves[2], Rollback)).await, Code::Ok);
    assert_eq!(
        end(&mut nameserver, decided(&halves[0], Commit)).await,
        Code::Ok,
        "a repeated decision is harmless"
    );
    assert_eq!(end(&mut a, decided(&halves[0], Rollback)).await, Code::PreconditionFailed);
    assert_eq!(end(&mut nameserver, decided(&halves[2], Commit)).await, Code::PreconditionFailed);

    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 2).await, ["1A", "2A"]);
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn one_request_may_acknowledge_at_several_brokers() {
    let servers = two_brokers().await;
    let (mut nameserver, mut a, mut b) = clients(&servers).await;
    for id in ["1", "2"] {
        send(&mut a, "orders", id, v2::MessageType::Normal).await;
        send(&mut b, "orders", id, v2::MessageType::Normal).await;
    }
    let (_, of_a) = receive(&mut a, A).await;
    // Broker A passes the poll on, too.
    let (_, of_b) = receive(&mut a, B).await;
    assert_eq!((of_a.len(), of_b.len()), (2, 2));
    let handles = |number: usize| [handle(&of_a[number]), "not a handle".to_owned(), handle(&of_b[number])];

    let mixed = (Code::MultipleResults, vec![Code::Ok, Code::InvalidReceiptHandle, Code::Ok]);
    assert_eq!(ack(&mut b, &handles(0)).await, mixed);
    assert_eq!(ack(&mut nameserver, &handles(1)).await, mixed);
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn an_owner_that_is_gone_is_reported_as_such() {
    let mut servers = two_brokers().await;
    let (mut nameserver, mut a, mut b) = clients(&servers).await;
    send(&mut a, "orders", "1A", v2::MessageType::Normal).await;
    let half = send(&mut a, "payments", "2A", v2::MessageType::Transaction).await;
    let (_, messages) = receive(&mut a, A).await;
    let handle = handle(&messages[0]);
    servers.brokers[0].kill().unwrap();

    for server in [&mut nameserver, &mut b] {
        let (_, entries) = ack(server, std::slice::from_ref(&handle)).await;
        assert_eq!(entries, [Code::InternalServerError]);
        assert_eq!(put_away(server, &handle, 30).await, (Code::InternalServerError, handle.clone()));
        assert_eq!(
            end(server, decided(&half, v2::TransactionResolution::Commit)).await,
            Code::InternalServerError
        );
        assert_eq!(receive(server, A).await.0, Code::InternalServerError);
    }

    // What could not be passed on works once the owner is back.
    servers.brokers[0].start().unwrap();
    eventually("the nameserver reaches the owner again", Duration::from_secs(5), || {
        let (mut nameserver, handle) = (nameserver.clone(), handle.clone());
        async move { ack(&mut nameserver, &[handle]).await.0 == Code::Ok }
    })
    .await;
    assert_eq!(end(&mut nameserver, decided(&half, v2::TransactionResolution::Commit)).await, Code::Ok);
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["2A"]);
}

#[tokio::test]
async fn very_many_calls_at_the_same_time_share_one_connection_to_a_broker() {
    const CLIENTS: usize = 16;
    const CALLS: usize = 64;
    let servers = cluster_of(1, &[A], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(raw(&servers.nameservers[0]).await);
    }
    let mut calls = JoinSet::new();
    for number in 0..CLIENTS * CALLS {
        let mut client = clients[number % CLIENTS].clone();
        let kind = v2::MessageType::Normal;
        calls.spawn(async move { send(&mut client, "orders", &format!("{number}"), kind).await });
    }
    // Each send checks its answer.
    assert_eq!(calls.join_all().await.len(), CLIENTS * CALLS);
}

/// Tells `server` the settings of a consumer with this request timeout, and answers how long its receive from broker A waits when
/// it has a deadline of 13 s and names no time.
async fn unnamed_poll(mut server: Raw, request_timeout: i64) -> Duration {
    let subscription = v2::Subscription { group: resource("billing"), ..Default::default() };
    let settings = v2::Settings {
        client_type: Some(v2::ClientType::SimpleConsumer.into()),
        request_timeout: seconds(request_timeout),
        pub_sub: Some(v2::settings::PubSub::Subscription(subscription)),
        ..Default::default()
    };
    let command = Some(v2::telemetry_command::Command::Settings(settings));
    let told = from_client(tokio_stream::once(v2::TelemetryCommand { status: None, command }));
    server.telemetry(told).await.unwrap().into_inner().message().await.unwrap().expect("settings come back");
    let mut request = from_client(v2::ReceiveMessageRequest {
        group: resource("billing"),
        message_queue: Some(v2::MessageQueue {
            topic: resource("orders"),
            broker: Some(v2::Broker { name: A.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        batch_size: 16,
        invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(13));
    let begun = Instant::now();
    let mut stream = server.receive_message(request).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().expect("every answer has a status");
    let Some(Content::Status(status)) = answer.content else { panic!("no status: {answer:?}") };
    assert_eq!(status.code(), Code::MessageNotFound);
    begun.elapsed()
}

#[tokio::test]
async fn a_receive_without_a_poll_time_leaves_half_of_the_request_timeout() {
    let servers = cluster_of(1, &[A], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    for server in [&servers.brokers[0], &servers.nameservers[0]] {
        let waited = unnamed_poll(raw(server).await, 12).await;
        // 7 s; three seconds are for a slow machine.
        let expected = Duration::from_secs(6)..Duration::from_secs(10);
        assert!(expected.contains(&waited), "{waited:?} at {}", server.address().unwrap());
    }
}
