//! The protocol's calls without a client around them, for programs that measure a broker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, future, stream};
use kerolox_proto::kerolox::UpdateTopicRequest;
use kerolox_proto::kerolox::broker_admin_client::BrokerAdminClient;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// The longest poll that a broker grants.
pub const POLL_MAX: Duration = Duration::from_secs(20);
/// Most messages of one receive (the SDKs' limit).
const RECEIVE_MAX: i32 = 32;
/// Longer than a measurement.
const INVISIBLE: Duration = Duration::from_secs(3600);

/// One connection to a broker.
pub type MessagingStub = MessagingServiceClient<Channel>;

/// Connects to the broker at `address`, host and port.
///
/// # Errors
/// When the server cannot be reached.
pub async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint.connect().await.context("connecting to the broker")
}

/// A stub for the SDKs' protocol.
///
/// # Errors
/// When the server cannot be reached.
pub async fn stub(address: &str) -> Result<MessagingStub> {
    Ok(MessagingServiceClient::new(connect(address).await?))
}

/// Makes a topic with four queues; `kind` is a `message.type`.
///
/// # Errors
/// When the broker refuses.
pub async fn create_topic(address: &str, name: &str, kind: &str) -> Result<()> {
    let request = UpdateTopicRequest {
        name: name.to_owned(),
        write_queues: Some(4),
        attributes: vec![format!("+message.type={kind}")],
        ..Default::default()
    };
    BrokerAdminClient::new(connect(address).await?).update_topic(request).await?;
    Ok(())
}

/// Sends messages in one request.
///
/// # Errors
/// When the broker refuses one of them.
pub async fn send(stub: &mut MessagingStub, messages: Vec<v2::Message>) -> Result<()> {
    let answer = stub.send_message(request(v2::SendMessageRequest { messages })?).await?.into_inner();
    check(answer.status.as_ref())
}

/// One receive; what it takes to acknowledge its messages.
///
/// # Errors
/// When the broker refuses.
pub async fn receive(
    stub: &mut MessagingStub,
    topic: &str,
    group: &str,
    poll: Duration,
) -> Result<Vec<v2::AckMessageEntry>> {
    let queue = v2::MessageQueue {
        topic: resource(topic),
        id: -1,
        broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let receive = v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(queue),
        batch_size: RECEIVE_MAX,
        invisible_duration: Some(INVISIBLE.try_into()?),
        long_polling_timeout: Some(poll.try_into()?),
        ..Default::default()
    };
    let mut items = stub.receive_message(request(receive)?).await?.into_inner();
    let mut entries = Vec::new();
    while let Some(item) = items.message().await? {
        match item.content {
            Some(Content::Message(message)) => {
                let system = message.system_properties.context("a message with system properties")?;
                entries.push(v2::AckMessageEntry {
                    receipt_handle: system.receipt_handle().to_owned(),
                    lite_topic: system.lite_topic.clone(),
                    message_id: system.message_id,
                });
            }
            Some(Content::Status(status)) if status.code() != Code::MessageNotFound => check(Some(&status))?,
            _ => {}
        }
    }
    Ok(entries)
}

/// The first answer to a Telemetry stream that says what a producer says. The stream stays open until then, as an SDK's does.
///
/// # Errors
/// When the broker refuses or ends it.
pub async fn greet(mut stub: MessagingStub, client_id: &str, topic: &str) -> Result<v2::TelemetryCommand> {
    let publishing = v2::Publishing { topics: resource(topic).into_iter().collect(), ..Default::default() };
    let settings = v2::Settings {
        client_type: Some(v2::ClientType::Producer.into()),
        pub_sub: Some(v2::settings::PubSub::Publishing(publishing)),
        ..Default::default()
    };
    let command = Some(v2::telemetry_command::Command::Settings(settings));
    let frames = stream::once(future::ready(v2::TelemetryCommand { status: None, command }));
    let mut request = request(frames.chain(stream::pending()))?;
    request.metadata_mut().insert("x-mq-client-id", client_id.parse()?);
    let mut commands = stub.telemetry(request).await?.into_inner();
    commands.message().await?.context("a stream that ends without an answer")
}

/// Acknowledges what was received.
///
/// # Errors
/// When the broker refuses one of them.
pub async fn acknowledge(
    stub: &mut MessagingStub,
    topic: &str,
    group: &str,
    entries: Vec<v2::AckMessageEntry>,
) -> Result<()> {
    let ack = v2::AckMessageRequest { group: resource(group), topic: resource(topic), entries };
    check(stub.ack_message(request(ack)?).await?.into_inner().status.as_ref())
}

/// A message with a body of `bytes` bytes; queues take turns by `number`.
pub fn message(topic: &str, number: u64, bytes: usize) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: format!("{number:016X}"),
        message_type: v2::MessageType::Normal.into(),
        body_encoding: v2::Encoding::Identity.into(),
        queue_id: i32::try_from(number % 4).expect("a small number"),
        ..Default::default()
    };
    v2::Message {
        topic: resource(topic),
        body: vec![b'.'; bytes].into(),
        system_properties: Some(system),
        ..Default::default()
    }
}

/// A name in no namespace.
#[allow(clippy::unnecessary_wraps, reason = "the protocol's fields are optional")]
pub fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

/// A request with the headers that are needed.
///
/// # Errors
/// None: the headers are fit.
pub fn request<T>(message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    for (name, value) in
        [("x-mq-client-id", "figures"), ("x-mq-language", "RUST"), ("x-mq-client-version", "5.0.0")]
    {
        request.metadata_mut().insert(name, value.parse()?);
    }
    Ok(request)
}

/// Demands a status that says OK.
///
/// # Errors
/// What it says instead.
pub fn check(status: Option<&v2::Status>) -> Result<()> {
    let status = status.context("an answer has a status")?;
    ensure!(status.code() == Code::Ok, "{:?}: {}", status.code(), status.message);
    Ok(())
}
