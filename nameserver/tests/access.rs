//! A nameserver on a real port, spoken to as brokers and SDKs do.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_gateway::registrar::{BrokerAnnouncement, BrokerRegistrar};
use kerolox_gateway::routes::{ClusterRoutes, DEFAULT_LEASE};
use kerolox_model::token::{ReceiptHandle, TransactionId};
use kerolox_proto::kerolox::DescribeClusterRequest;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use support::{Running, broker, eventually, from_client, query_route, resource};

#[tokio::test]
async fn a_registered_broker_is_routed_to_until_its_lease_ends() {
    let nameserver = Running::start("127.0.0.1:0", Duration::from_millis(600)).await;
    let mut client = nameserver.client().await;
    assert_eq!(query_route(&mut client, "orders").await.0, Code::InternalServerError, "no broker is there");
    assert_eq!(query_route(&mut client, "bad topic").await.0, Code::IllegalTopic);

    let response = nameserver.registry().await.register(broker("broker-a", "orders", 2, 8081)).await.unwrap();
    let response = response.into_inner();
    assert_eq!(response.lease_ms, 600);
    // The host was left empty: it is where the broker connected from.
    assert_eq!(response.snapshot.unwrap().brokers[0].broker.as_ref().unwrap().host, "127.0.0.1");

    let (code, queues) = query_route(&mut client, "orders").await;
    assert_eq!((code, queues.iter().map(|queue| queue.id).collect::<Vec<_>>()), (Code::Ok, vec![0, 1]));
    let endpoints = queues[0].broker.clone().unwrap().endpoints.unwrap();
    assert_eq!(endpoints.addresses, [v2::Address { host: "127.0.0.1".into(), port: 8081 }]);

    let assignment = v2::QueryAssignmentRequest {
        topic: Some(resource("orders")),
        group: Some(resource("g")),
        endpoints: None,
    };
    let assigned = client.query_assignment(from_client("c", assignment)).await.unwrap().into_inner();
    let assigned: Vec<i32> =
        assigned.assignments.iter().map(|a| a.message_queue.as_ref().unwrap().id).collect();
    assert_eq!(assigned, [-1]);

    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(query_route(&mut client, "orders").await.0, Code::InternalServerError, "no broker is there");
    nameserver.stop().await;
}

#[tokio::test]
async fn a_broker_re_registers_after_a_restart_of_the_nameserver_and_leaves_cleanly() {
    let first = Running::start("127.0.0.1:0", DEFAULT_LEASE).await;
    let address = first.address.to_string();
    let routes = Arc::new(ClusterRoutes::new(DEFAULT_LEASE));
    let is_wide = Arc::new(AtomicBool::new(false));
    let wide = Arc::clone(&is_wide);
    let current: BrokerAnnouncement = Arc::new(move || {
        let queues = if wide.load(Ordering::Relaxed) { 3 } else { 1 };
        let mut request = broker("broker-a", "orders", queues, 8081);
        request.broker.as_mut().unwrap().host = "broker-a.example".into();
        request
    });
    let nameservers = [address.clone()];
    let registrar = BrokerRegistrar::new(&nameservers, Arc::clone(&routes), current).unwrap();
    registrar.start(Duration::from_millis(50));
    assert!(registrar.wait_registered(support::PATIENCE).await);

    // A change is known when `announce` returns, not a heartbeat later.
    is_wide.store(true, Ordering::Relaxed);
    registrar.announce().await;
    let mut client = first.client().await;
    assert_eq!(query_route(&mut client, "orders").await.1.len(), 3);
    // Another broker shows up in this broker's routes too.
    first.registry().await.register(broker("broker-b", "bills", 1, 8082)).await.unwrap();
    eventually("the peer is known", || async { routes.master("broker-b").is_some() }).await;

    first.stop().await;
    let second = Running::start(&address, DEFAULT_LEASE).await;
    let mut client = second.client().await;
    eventually("the broker is back", || {
        let mut client = client.clone();
        async move { query_route(&mut client, "orders").await.0 == Code::Ok }
    })
    .await;
    // The new nameserver knows nothing of the peer, which has not come back.
    eventually("the peer is forgotten", || async { routes.master("broker-b").is_none() }).await;
    assert!(routes.master("broker-a").is_some());

    registrar.stop().await;
    assert_eq!(query_route(&mut client, "orders").await.0, Code::InternalServerError, "no broker is there");
    second.stop().await;
}

#[tokio::test]
async fn plaintext_and_tls_share_the_port_and_a_silent_peer_hinders_nobody() {
    let nameserver = Running::start("127.0.0.1:0", DEFAULT_LEASE).await;
    let _silent = tokio::net::TcpStream::connect(nameserver.address).await.unwrap();
    let heartbeat = || v2::HeartbeatRequest::default();
    for channel in [nameserver.channel().await, nameserver.tls_channel().await] {
        let mut client = MessagingServiceClient::new(channel);
        // A heartbeat of a client that never sent settings is fine.
        let response = client.heartbeat(from_client("c", heartbeat())).await.unwrap().into_inner();
        assert_eq!(response.status.unwrap().code(), Code::Ok);
        let response = client.heartbeat(heartbeat()).await.unwrap().into_inner();
        assert_eq!(response.status.unwrap().code(), Code::ClientIdRequired);
    }
    nameserver.stop().await;
}

#[tokio::test]
async fn telemetry_is_answered_and_does_not_hold_up_the_shutdown() {
    let nameserver = Running::start("127.0.0.1:0", DEFAULT_LEASE).await;
    let mut client = nameserver.client().await;
    let (frames, receiver) = tokio::sync::mpsc::channel(4);
    let mut stream =
        client.telemetry(from_client("p", ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let publishing = v2::Publishing { topics: vec![resource("orders")], ..v2::Publishing::default() };
    let settings = v2::Settings { pub_sub: Some(PubSub::Publishing(publishing)), ..v2::Settings::default() };
    for _ in 0..2 {
        let command = Some(Command::Settings(settings.clone()));
        frames.send(v2::TelemetryCommand { status: None, command }).await.unwrap();
        let reply = stream.next().await.unwrap().unwrap();
        assert_eq!(reply.status.unwrap().code(), Code::Ok);
        let Some(Command::Settings(reply)) = reply.command else { panic!("no settings") };
        let Some(PubSub::Publishing(publishing)) = reply.pub_sub else { panic!("not a producer") };
        assert_eq!((publishing.topics, publishing.max_body_size), (vec![resource("orders")], 4 << 20));
    }
    // An open stream, on which neither side says anything: the server ends it.
    let begin = Instant::now();
    nameserver.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(stream.next().await.is_none_or(|item| item.is_err()));
}

#[tokio::test]
async fn illegal_settings_end_the_telemetry_stream() {
    let nameserver = Running::start("127.0.0.1:0", DEFAULT_LEASE).await;
    let mut client = nameserver.client().await;
    let frame =
        v2::TelemetryCommand { status: None, command: Some(Command::Settings(v2::Settings::default())) };
    let mut stream =
        client.telemetry(from_client("p", tokio_stream::once(frame))).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::InvalidArgument);
    nameserver.stop().await;
}

#[tokio::test]
async fn calls_for_brokers_are_passed_on_and_never_in_circles() {
    // The second nameserver poses as the broker: it answers the first one's relayed call, by refusing to pass it on again.
    let (front, back) = tokio::join!(
        Running::start("127.0.0.1:0", DEFAULT_LEASE),
        Running::start("127.0.0.1:0", DEFAULT_LEASE)
    );
    for nameserver in [&front, &back] {
        let posing = broker("broker-a", "orders", 1, back.address.port());
        nameserver.registry().await.register(posing).await.unwrap();
    }
    let mut client = front.client().await;
    let transaction_id = TransactionId::new("broker-a", 1, "id").to_text();
    let request = v2::EndTransactionRequest { transaction_id, ..v2::EndTransactionRequest::default() };
    let status =
        client.end_transaction(from_client("p", request)).await.unwrap().into_inner().status.unwrap();
    assert!(status.message.contains("passed on"), "{status:?}");

    let handle = ReceiptHandle { broker: "broker-gone".into(), ..ReceiptHandle::default() }.to_text();
    for (receipt_handle, code) in
        [(handle, Code::InternalServerError), ("garbage".into(), Code::InvalidReceiptHandle)]
    {
        let request = v2::ChangeInvisibleDurationRequest {
            receipt_handle: receipt_handle.clone(),
            ..v2::ChangeInvisibleDurationRequest::default()
        };
        let response =
            client.change_invisible_duration(from_client("c", request)).await.unwrap().into_inner();
        assert_eq!((response.status.unwrap().code(), response.receipt_handle), (code, receipt_handle));
    }

    let broker_named = v2::Broker { name: "broker-a".into(), ..v2::Broker::default() };
    let queue = v2::MessageQueue { broker: Some(broker_named), ..v2::MessageQueue::default() };
    let request = v2::ReceiveMessageRequest {
        message_queue: Some(queue.clone()),
        ..v2::ReceiveMessageRequest::default()
    };
    let mut items = client.receive_message(from_client("c", request)).await.unwrap().into_inner();
    let item = items.next().await.unwrap().unwrap();
    let Some(v2::receive_message_response::Content::Status(status)) = item.content else {
        panic!("no status")
    };
    assert!(status.message.contains("passed on"), "{status:?}");
    assert!(items.next().await.is_none());

    let request = v2::SendMessageRequest {
        messages: vec![v2::Message { topic: Some(resource("orders")), ..v2::Message::default() }],
    };
    let status = client.send_message(from_client("p", request)).await.unwrap().into_inner().status.unwrap();
    assert!(status.message.contains("passed on"), "{status:?}");
    let request = v2::GetOffsetRequest { message_queue: Some(queue), ..v2::GetOffsetRequest::default() };
    let status = client.get_offset(from_client("c", request)).await.unwrap().into_inner().status.unwrap();
    assert!(status.message.contains("passed on"), "{status:?}");
    let request = v2::SyncLiteSubscriptionRequest::default();
    let status =
        client.sync_lite_subscription(from_client("p", request)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.code(), Code::IllegalTopic, "{status:?}");

    let cluster = front.registry().await.describe_cluster(DescribeClusterRequest {}).await.unwrap();
    assert_eq!(cluster.into_inner().brokers.len(), 1);
    front.stop().await;
    back.stop().await;
}
