//! Requests that no SDK should make: each is refused, with what was wrong. Spoken with the generated code.

use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, MessageType, TransactionResolution};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::support::{NO_CHECKS, cluster_of, code, from_client, raw, resource, standalone};

const NOT_A_NUMBER_OF_THE_PROTOCOL: i32 = 99;

type MessagingStub = MessagingServiceClient<Channel>;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn queue(topic: &str) -> Option<v2::MessageQueue> {
    let broker = Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() });
    Some(v2::MessageQueue { topic: resource(topic), broker, ..Default::default() })
}

fn sent(topic: &str, kind: MessageType) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: "0A1B2C".to_owned(),
        message_type: kind.into(),
        ..Default::default()
    };
    v2::Message {
        topic: resource(topic),
        system_properties: Some(system),
        body: b"body".to_vec().into(),
        ..Default::default()
    }
}

async fn send(stub: &mut MessagingStub, message: v2::Message) -> v2::SendMessageResponse {
    let request = v2::SendMessageRequest { messages: vec![message] };
    stub.send_message(from_client(request)).await.unwrap().into_inner()
}

/// Status of a receive, and the handle of the first message.
async fn receive(
    stub: &mut MessagingStub,
    invisible: Option<prost_types::Duration>,
) -> (v2::Status, Option<String>) {
    let request = v2::ReceiveMessageRequest {
        group: resource("billing"),
        message_queue: queue("orders"),
        batch_size: 1,
        invisible_duration: invisible,
        long_polling_timeout: seconds(5),
        ..Default::default()
    };
    let mut items = stub.receive_message(from_client(request)).await.unwrap().into_inner();
    let (mut status, mut handle) = (None, None);
    while let Some(item) = items.next().await {
        match item.unwrap().content {
            Some(Content::Status(told)) => status = Some(told),
            Some(Content::Message(message)) => handle = message.system_properties.unwrap().receipt_handle,
            _ => {}
        }
    }
    (status.expect("each stream has a status"), handle)
}

fn refused(status: Option<v2::Status>, expected: Code, text: &str) {
    let status = status.expect("every answer has a status");
    assert_eq!(status.code(), expected, "{status:?}");
    assert!(status.message.contains(text), "{text:?} is missing in {status:?}");
}

#[tokio::test]
async fn a_decision_about_another_topic_or_without_a_meaning_is_refused() {
    let servers = standalone(&NO_CHECKS);
    for topic in ["payments", "orders"] {
        servers.create_topic(topic, "TRANSACTION").await.unwrap();
    }
    let mut stub = raw(&servers.brokers[0]).await;
    let half = send(&mut stub, sent("payments", MessageType::Transaction)).await;
    let end = |topic: &str, resolution: i32| v2::EndTransactionRequest {
        topic: resource(topic),
        message_id: half.entries[0].message_id.clone(),
        transaction_id: half.entries[0].transaction_id.clone(),
        resolution,
        ..Default::default()
    };
    let commit = TransactionResolution::Commit.into();
    for (request, expected, text) in [
        (end("orders", commit), Code::InvalidTransactionId, "belongs to topic \"payments\", not \"orders\""),
        (end("payments", NOT_A_NUMBER_OF_THE_PROTOCOL), Code::BadRequest, "99 is no resolution"),
    ] {
        let answer = stub.end_transaction(from_client(request)).await.unwrap().into_inner();
        refused(answer.status, expected, text);
    }
    let rollback = end("payments", TransactionResolution::Rollback.into());
    let answer = stub.end_transaction(from_client(rollback)).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok, "the transaction was undecided");
}

#[tokio::test]
async fn receipts_say_what_is_wrong_with_them_as_rocketmq_does() {
    let servers = standalone(&[]);
    for topic in ["orders", "payments"] {
        servers.create_topic(topic, "NORMAL").await.unwrap();
    }
    let mut stub = raw(&servers.brokers[0]).await;
    for (asked, text) in [
        (None, "the invisibleTime is too small. min is 10000"),
        (seconds(9), "the invisibleTime is too small. min is 10000"),
        (seconds(-5), "-5000 ms"),
        (seconds(12 * 3600 + 1), "the invisibleTime is too large. max is 43200000"),
    ] {
        refused(Some(receive(&mut stub, asked).await.0), Code::IllegalInvisibleTime, text);
    }
    assert_eq!(code(send(&mut stub, sent("orders", MessageType::Normal)).await.status), Code::Ok);
    let handle = receive(&mut stub, seconds(60)).await.1.expect("the message");
    let ack = |topic: &str, group: &str, handle: &str| v2::AckMessageRequest {
        group: resource(group),
        topic: resource(topic),
        entries: vec![v2::AckMessageEntry { receipt_handle: handle.to_owned(), ..Default::default() }],
    };
    for (request, text) in [
        (ack("payments", "billing", &handle), "belongs to topic \"orders\", not \"payments\""),
        (ack("orders", "shipping", &handle), "consumer group"),
        (ack("orders", "billing", "nonsense"), ""),
        (v2::AckMessageRequest { entries: Vec::new(), ..ack("orders", "billing", &handle) }, "nothing"),
    ] {
        let status = stub.ack_message(from_client(request)).await.unwrap().into_inner().status.unwrap();
        assert!(status.message.starts_with("INVALID_RECEIPT_HANDLE: "), "{status:?}");
        refused(Some(status), Code::InvalidReceiptHandle, text);
    }
    let change = |topic: &str, duration| v2::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource(topic),
        receipt_handle: handle.clone(),
        invisible_duration: duration,
        ..Default::default()
    };
    for (request, expected, text) in [
        (change("orders", seconds(-1)), Code::IllegalInvisibleTime, "too small. min is 0. -1000 ms"),
        (change("orders", seconds(12 * 3600 + 1)), Code::IllegalInvisibleTime, "too large. max is 43200000"),
        (change("payments", seconds(60)), Code::InvalidReceiptHandle, "INVALID_RECEIPT_HANDLE: "),
    ] {
        let answer = stub.change_invisible_duration(from_client(request)).await.unwrap().into_inner();
        assert_eq!(answer.receipt_handle, handle, "it is still good");
        refused(answer.status, expected, text);
    }
    let answer = stub.ack_message(from_client(ack("orders", "billing", &handle))).await.unwrap();
    assert_eq!(code(answer.into_inner().status), Code::Ok);
}

#[tokio::test]
async fn messages_and_questions_that_make_no_sense_are_refused() {
    let servers = standalone(&NO_CHECKS);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let mut stub = raw(&servers.brokers[0]).await;
    let mut escaping = sent("orders", MessageType::Normal);
    escaping.system_properties.as_mut().unwrap().message_id = "a\u{1b}[2Jb".to_owned();
    let mut broken = sent("orders", MessageType::Normal);
    broken.user_properties.insert("a\nb".to_owned(), "value".to_owned());
    let mut separated = sent("orders", MessageType::Normal);
    separated.user_properties.insert("a\u{2028}b".to_owned(), "value".to_owned());
    let mut hasty = sent("payments", MessageType::Transaction);
    hasty.system_properties.as_mut().unwrap().orphaned_transaction_recovery_duration = seconds(-3);
    for (message, expected, text) in [
        (escaping, Code::IllegalMessageId, "control characters"),
        (broken, Code::IllegalMessagePropertyKey, "control characters"),
        (separated, Code::IllegalMessagePropertyKey, "control characters"),
        (hasty, Code::BadRequest, "is -3000 ms"),
    ] {
        refused(send(&mut stub, message).await.status, expected, text);
    }
    let request = v2::QueryOffsetRequest {
        message_queue: queue("orders"),
        query_offset_policy: NOT_A_NUMBER_OF_THE_PROTOCOL,
        ..Default::default()
    };
    let answer = stub.query_offset(from_client(request)).await.unwrap().into_inner();
    refused(answer.status, Code::BadRequest, "99 is no policy");
}

#[tokio::test]
async fn a_client_that_tells_too_much_of_itself_is_refused_everywhere() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    for server in [&servers.nameservers[0], &servers.brokers[0]] {
        let publishing =
            v2::Publishing { topics: resource("orders").into_iter().collect(), ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::Producer.into()),
            pub_sub: Some(PubSub::Publishing(publishing)),
            client_properties: [("k".to_owned(), "v".repeat(257))].into(),
            ..Default::default()
        };
        let frame = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        let frames = tokio_stream::once(frame).chain(tokio_stream::pending());
        let mut commands = raw(server).await.telemetry(from_client(frames)).await.unwrap().into_inner();
        let refused = commands.message().await.expect_err("no settings");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("the limit is 256"), "{refused}");
    }
}
