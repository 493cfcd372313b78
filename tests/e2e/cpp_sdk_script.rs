//! The official SDK for C++ as a script: its calls in its order, with its headers, and what it does with the answers. The SDK itself
//! is in no package index. What it does was read in its sources.

use std::time::{Duration, Instant};

use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::retry_policy::Strategy;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, MessageType};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::support::{cluster_of, code, raw, resource};

type MessagingStub = MessagingServiceClient<Channel>;

/// How long it waits for settings before it opens the stream again, for ever.
const SETTINGS: Duration = Duration::from_secs(3);
/// Its deadline for calls with one answer.
const REQUEST: Duration = Duration::from_secs(3);

/// The host, the process, a number and the time, in its form.
fn call<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in [
        ("x-mq-client-id", "host@4711#0_1761900000000"),
        ("x-mq-language", "CPP"),
        ("x-mq-client-version", "5.0.4"),
        ("x-mq-protocol-version", "v2"),
        ("x-mq-date-time", "20251101T000000Z"),
        ("x-mq-namespace", ""),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request.set_timeout(timeout);
    request
}

/// A stream that it keeps for an hour.
struct Session {
    open: mpsc::Sender<v2::TelemetryCommand>,
    commands: Streaming<v2::TelemetryCommand>,
}

impl Session {
    /// Opens the stream and waits for settings, as it does at the access point before anything else.
    async fn open(stub: &mut MessagingStub, settings: &v2::Settings) -> (Self, v2::Settings) {
        let (open, frames) = mpsc::channel(4);
        let frames = call(ReceiverStream::new(frames), Duration::from_secs(3600));
        let mut session = Self { open, commands: stub.telemetry(frames).await.unwrap().into_inner() };
        let told = session.tell(settings).await;
        (session, told)
    }

    /// Tells its settings, as it does again every five minutes.
    async fn tell(&mut self, settings: &v2::Settings) -> v2::Settings {
        let command = Some(Command::Settings(settings.clone()));
        self.open.send(v2::TelemetryCommand { status: None, command }).await.unwrap();
        let answer = tokio::time::timeout(SETTINGS, self.commands.message()).await;
        match answer.expect("settings come in time").unwrap().unwrap().command {
            Some(Command::Settings(settings)) => settings,
            other => panic!("{other:?}"),
        }
    }
}

fn settings(client_type: v2::ClientType, pub_sub: PubSub) -> v2::Settings {
    let user_agent =
        v2::Ua { language: v2::Language::Cpp.into(), version: "5.0.4".to_owned(), ..Default::default() };
    v2::Settings {
        client_type: Some(client_type.into()),
        user_agent: Some(user_agent),
        request_timeout: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        pub_sub: Some(pub_sub),
        ..Default::default()
    }
}

/// The route as it asks for it at the access point, and a connection to the first queue's broker. It takes masters only, and
/// ends the process if a queue is of another topic.
async fn route(access: &mut MessagingStub, topic: &str) -> (Vec<v2::MessageQueue>, MessagingStub) {
    let request = v2::QueryRouteRequest { topic: resource(topic), endpoints: None };
    let answer = access.query_route(call(request, REQUEST)).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
    for queue in &answer.message_queues {
        assert_eq!(queue.topic.as_ref().unwrap().name, topic);
        assert_eq!(queue.broker.as_ref().unwrap().id, 0);
    }
    let endpoints = answer.message_queues[0].broker.clone().unwrap().endpoints.unwrap();
    let address = &endpoints.addresses[0];
    let endpoint = Endpoint::from_shared(format!("http://{}:{}", address.host, address.port)).unwrap();
    (answer.message_queues, MessagingStub::new(endpoint.connect().await.unwrap()))
}

/// A poll of its push consumer; the renewal of what it holds is the server's work.
async fn poll(stub: &mut MessagingStub, queue: &v2::MessageQueue) -> (Code, Vec<v2::Message>) {
    let request = v2::ReceiveMessageRequest {
        group: resource("billing"),
        message_queue: Some(queue.clone()),
        filter_expression: Some(v2::FilterExpression {
            r#type: v2::FilterType::Tag.into(),
            expression: "*".to_owned(),
        }),
        batch_size: 32,
        auto_renew: true,
        long_polling_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        attempt_id: Some("6a1c".to_owned()),
        ..Default::default()
    };
    let mut items = stub.receive_message(call(request, REQUEST + SETTINGS)).await.unwrap().into_inner();
    let (mut status, mut messages) = (None, Vec::new());
    while let Some(item) = items.next().await {
        match item.unwrap().content {
            Some(Content::Status(told)) => status = Some(told),
            Some(Content::Message(message)) => messages.push(message),
            _ => {}
        }
    }
    let status = code(status);
    // Success without a message is a bad gateway to it.
    assert!(status == Code::MessageNotFound || !messages.is_empty(), "{status:?}");
    for message in &messages {
        let digest = message.system_properties.as_ref().unwrap().body_digest.as_ref().unwrap();
        // It takes what does not match for null, and then looks into it.
        assert_eq!(digest.r#type(), v2::DigestType::Md5);
    }
    (status, messages)
}

fn system(message: &v2::Message) -> &v2::SystemProperties {
    message.system_properties.as_ref().unwrap()
}

/// The pause before the next attempt, as it works it out: one step too far, and only from a list. Of an exponential strategy it takes
/// nothing, and tries again every second.
fn pause(told: &v2::Settings, attempt: i32) -> prost_types::Duration {
    match told.backoff_policy.as_ref().unwrap().strategy.as_ref().unwrap() {
        Strategy::CustomizedBackoff(list) => {
            let step = usize::try_from(attempt).unwrap().min(list.next.len() - 1);
            list.next[step]
        }
        Strategy::ExponentialBackoff(_) => prost_types::Duration { seconds: 1, nanos: 0 },
    }
}

async fn servers() -> Cluster {
    let servers = cluster_of(1, &["broker-a"], &["--transaction-first-check", "1s"]);
    servers.create_topic("orders", "MIXED").await.unwrap();
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::UpdateGroupRequest {
        name: "billing".to_owned(),
        attributes: vec!["+retry.backoff=1s/3s/60s".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&address).update_group(request).await.unwrap();
    servers
}

fn access_points(servers: &Cluster) -> [&ServerProcess; 2] {
    [&servers.nameservers[0], &servers.brokers[0]]
}

#[tokio::test]
async fn its_producer_sends_and_decides() {
    let servers = servers().await;
    for server in access_points(&servers) {
        let mut access = raw(server).await;
        let topics = resource("orders").into_iter().collect();
        let publishing = PubSub::Publishing(v2::Publishing { topics, ..Default::default() });
        let mine = settings(v2::ClientType::Producer, publishing);
        let (_session, told) = Session::open(&mut access, &mine).await;
        let Some(PubSub::Publishing(publishing)) = told.pub_sub else { panic!("not a producer") };
        assert!(publishing.max_body_size > 0, "it would refuse every message itself");
        let (queues, mut broker) = route(&mut access, "orders").await;
        let (mut session, _) = Session::open(&mut broker, &mine).await;
        let later = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
        let half = |id: &str, kind: MessageType| v2::Message {
            topic: resource("orders"),
            body: b"body".to_vec().into(),
            system_properties: Some(v2::SystemProperties {
                message_id: format!("01{id}"),
                message_type: kind.into(),
                body_encoding: v2::Encoding::Identity.into(),
                queue_id: queues[1].id,
                // Whatever was in its memory there.
                delivery_attempt: (kind == MessageType::Delay).then_some(-1_094_795_586),
                delivery_timestamp: None,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut delayed = half("D", MessageType::Delay);
        delayed.system_properties.as_mut().unwrap().delivery_timestamp = Some(later);
        for message in [half("N", MessageType::Normal), half("T", MessageType::Transaction)] {
            let request = v2::SendMessageRequest { messages: vec![message] };
            let sent = broker.send_message(call(request, REQUEST)).await.unwrap().into_inner();
            assert_eq!(code(sent.status), Code::Ok);
        }
        let request = v2::SendMessageRequest { messages: vec![delayed] };
        let sent = broker.send_message(call(request, REQUEST)).await.unwrap().into_inner();
        assert_ne!(code(sent.status), Code::Ok, "that is too far ahead, whatever its attempt says");
        // It did not decide, so it is asked; its decision does not say why it came.
        let asked = tokio::time::timeout(crate::support::PATIENCE, async {
            loop {
                let command = session.commands.message().await.unwrap().unwrap().command;
                if let Some(Command::RecoverOrphanedTransactionCommand(orphaned)) = command {
                    return orphaned;
                }
            }
        });
        let asked = asked.await.expect("it is asked");
        let message = asked.message.unwrap();
        let end = v2::EndTransactionRequest {
            topic: resource("orders"),
            message_id: system(&message).message_id.clone(),
            transaction_id: asked.transaction_id,
            resolution: v2::TransactionResolution::Commit.into(),
            ..Default::default()
        };
        let ended = broker.end_transaction(call(end, REQUEST)).await.unwrap().into_inner();
        assert_eq!(code(ended.status), Code::Ok);
    }
}

#[tokio::test]
async fn its_push_consumer_waits_between_attempts() {
    let servers = servers().await;
    for server in access_points(&servers) {
        let producer = servers.client().producer().start().await.unwrap();
        let mut access = raw(server).await;
        let entry = v2::SubscriptionEntry { topic: resource("orders"), expression: None };
        let subscription = PubSub::Subscription(v2::Subscription {
            group: resource("billing"),
            subscriptions: vec![entry],
            ..Default::default()
        });
        let mine = settings(v2::ClientType::PushConsumer, subscription);
        let (mut first, _) = Session::open(&mut access, &mine).await;
        let (_, mut broker) = route(&mut access, "orders").await;
        let (mut session, told) = Session::open(&mut broker, &mine).await;
        assert!(told.backoff_policy.as_ref().unwrap().max_attempts > 2);
        for again in [first.tell(&mine).await, session.tell(&mine).await] {
            assert_eq!(again.backoff_policy, told.backoff_policy, "it is told the same everywhere");
        }
        let assigned = v2::QueryAssignmentRequest {
            topic: resource("orders"),
            group: resource("billing"),
            ..Default::default()
        };
        let assigned = broker.query_assignment(call(assigned, REQUEST)).await.unwrap().into_inner();
        let queue = assigned.assignments[0].message_queue.clone().unwrap();
        assert_eq!(poll(&mut broker, &queue).await, (Code::MessageNotFound, Vec::new()));

        producer.send(crate::support::message("orders", "fails")).await.unwrap();
        let (_, received) = poll(&mut broker, &queue).await;
        let [message] = &received[..] else { panic!("{received:?}") };
        assert_eq!(system(message).delivery_attempt, Some(1));
        let put_off = v2::ChangeInvisibleDurationRequest {
            group: resource("billing"),
            topic: resource("orders"),
            receipt_handle: system(message).receipt_handle.clone().unwrap(),
            invisible_duration: Some(pause(&told, 1)),
            message_id: system(message).message_id.clone(),
            ..Default::default()
        };
        let failed = Instant::now();
        let answer = broker.change_invisible_duration(call(put_off, REQUEST)).await.unwrap().into_inner();
        assert_eq!(code(answer.status), Code::Ok);
        let again = loop {
            let (_, received) = poll(&mut broker, &queue).await;
            if let Some(message) = received.into_iter().next() {
                break message;
            }
            assert!(failed.elapsed() < crate::support::PATIENCE, "it does not come again");
        };
        // The second delay of the group, which is far from its second that ends all attempts within a minute.
        assert!(failed.elapsed() >= Duration::from_millis(2_900), "{:?}", failed.elapsed());
        assert_eq!(system(&again).delivery_attempt, Some(2));
        // A dead letter names no handle, and must not be tried for ever.
        let forward = v2::ForwardMessageToDeadLetterQueueRequest {
            group: resource("billing"),
            topic: resource("orders"),
            message_id: system(&again).message_id.clone(),
            ..Default::default()
        };
        let refused = broker.forward_message_to_dead_letter_queue(call(forward, REQUEST)).await.unwrap();
        assert_eq!(code(refused.into_inner().status), Code::InvalidReceiptHandle);
        let receipt_handle = system(&again).receipt_handle.clone().unwrap();
        let ack = v2::AckMessageRequest {
            group: resource("billing"),
            topic: resource("orders"),
            entries: vec![v2::AckMessageEntry { receipt_handle, ..Default::default() }],
        };
        let acked = broker.ack_message(call(ack, REQUEST)).await.unwrap().into_inner();
        assert_eq!(code(acked.status), Code::Ok);
        producer.shutdown().await;
    }
}
