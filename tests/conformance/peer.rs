//! One client of one server: the generated code with its headers, and short spellings of common requests.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use kerolox_harness::ServerProcess;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code, MessageType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::world::{A, new_name};

/// The shortest invisible duration that a receive may ask for.
pub(crate) const INVISIBLE: Duration = Duration::from_secs(10);

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// A client with a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) stub: MessagingServiceClient<Channel>,
    channel: Channel,
    headers: Vec<(&'static str, String)>,
    timeout: Option<Duration>,
}

/// A call with one request and one answer.
macro_rules! unary {
    ($($name:ident($request:ident) -> $answer:ident;)+) => {$(
        pub(crate) async fn $name(&self, request: v2::$request) -> v2::$answer {
            self.stub.clone().$name(self.request(request)).await.expect(stringify!($name)).into_inner()
        }
    )+};
}

impl Peer {
    /// A client with an id of its own.
    pub(crate) async fn connect(server: &ServerProcess, transport: Transport) -> Self {
        let address = server.address().expect("the server was started").to_owned();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self::over(connect(server, transport, endpoint).await)
    }

    /// A client on a channel.
    pub(crate) fn over(channel: Channel) -> Self {
        let headers = vec![("x-mq-client-id", new_name("client"))];
        let stub = MessagingServiceClient::new(channel.clone());
        Self { stub, channel, headers, timeout: Some(Duration::from_secs(30)) }
    }

    /// The connection, for calls that the generated code does not know.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Another client on the same connection.
    pub(crate) fn other(&self) -> Self {
        self.clone().with_headers(&[("x-mq-client-id", &new_name("client"))])
    }

    pub(crate) fn with_headers(mut self, headers: &[(&'static str, &str)]) -> Self {
        self.headers = headers.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        self
    }

    pub(crate) fn and_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    unary! {
        send_message(SendMessageRequest) -> SendMessageResponse;
        query_assignment(QueryAssignmentRequest) -> QueryAssignmentResponse;
        heartbeat(HeartbeatRequest) -> HeartbeatResponse;
        ack_message(AckMessageRequest) -> AckMessageResponse;
        end_transaction(EndTransactionRequest) -> EndTransactionResponse;
        recall_message(RecallMessageRequest) -> RecallMessageResponse;
        notify_client_termination(NotifyClientTerminationRequest) -> NotifyClientTerminationResponse;
        change_invisible_duration(ChangeInvisibleDurationRequest) -> ChangeInvisibleDurationResponse;
        forward_message_to_dead_letter_queue(ForwardMessageToDeadLetterQueueRequest)
            -> ForwardMessageToDeadLetterQueueResponse;
        sync_lite_subscription(SyncLiteSubscriptionRequest) -> SyncLiteSubscriptionResponse;
    }

    pub(crate) async fn query_route(&self, topic: &str) -> v2::QueryRouteResponse {
        let request = v2::QueryRouteRequest { topic: resource(topic), endpoints: None };
        self.stub.clone().query_route(self.request(request)).await.expect("query_route").into_inner()
    }

    pub(crate) async fn assignment(&self, topic: &str, group: &str) -> v2::QueryAssignmentResponse {
        let request =
            v2::QueryAssignmentRequest { topic: resource(topic), group: resource(group), endpoints: None };
        self.query_assignment(request).await
    }

    /// Sends messages that must be accepted.
    pub(crate) async fn send(&self, messages: Vec<v2::Message>) -> Vec<v2::SendResultEntry> {
        let answer = self.send_message(v2::SendMessageRequest { messages }).await;
        assert_eq!(code(&answer.status), Code::Ok, "{answer:?}");
        answer.entries
    }

    /// The one code that a message is refused with, at the top and in its entry if there is one.
    pub(crate) async fn send_code(&self, message: v2::Message) -> Code {
        let answer = self.send_message(v2::SendMessageRequest { messages: vec![message] }).await;
        for entry in &answer.entries {
            assert_eq!(code(&entry.status), code(&answer.status));
        }
        code(&answer.status)
    }

    /// The items of one ReceiveMessage.
    pub(crate) async fn receive_items(&self, request: v2::ReceiveMessageRequest) -> Vec<Content> {
        let stream = self.stub.clone().receive_message(self.request(request)).await.expect("a stream");
        contents(stream.into_inner()).await.expect("a stream without an error")
    }

    /// Code and messages of one ReceiveMessage.
    pub(crate) async fn receive(&self, request: v2::ReceiveMessageRequest) -> (Code, Vec<v2::Message>) {
        let (mut status, mut messages) = (None, Vec::new());
        for item in self.receive_items(request).await {
            match item {
                Content::Status(found) => status = Some(found),
                Content::Message(message) => messages.push(message),
                Content::DeliveryTimestamp(_) => {}
            }
        }
        (code(&status), messages)
    }

    /// The one message that is there to receive.
    pub(crate) async fn receive_one(&self, topic: &str, group: &str) -> v2::Message {
        let (code, mut messages) = self.receive(receiving(topic, group)).await;
        assert_eq!((code, messages.len()), (Code::Ok, 1));
        messages.remove(0)
    }

    /// Nothing is there to receive for as long as the poll takes.
    pub(crate) async fn receive_nothing(&self, topic: &str, group: &str, poll: Duration) {
        let mut request = receiving(topic, group);
        request.long_polling_timeout = duration(poll);
        let (code, messages) = self.receive(request).await;
        assert_eq!(code, Code::MessageNotFound, "{messages:?}");
    }

    /// The code for the acknowledgement of one message, at the top and in its entry.
    pub(crate) async fn ack(&self, topic: &str, group: &str, handle: &str) -> Code {
        let answer = self.ack_message(acking(topic, group, &[handle])).await;
        for entry in &answer.entries {
            assert_eq!((code(&entry.status), entry.receipt_handle.as_str()), (code(&answer.status), handle));
        }
        code(&answer.status)
    }

    pub(crate) async fn change_invisible(
        &self,
        topic: &str,
        group: &str,
        handle: &str,
        after: Duration,
    ) -> v2::ChangeInvisibleDurationResponse {
        let request = v2::ChangeInvisibleDurationRequest {
            topic: resource(topic),
            group: resource(group),
            receipt_handle: handle.to_owned(),
            invisible_duration: duration(after),
            ..Default::default()
        };
        self.change_invisible_duration(request).await
    }

    /// Sends a half message; its entry has the transaction id.
    pub(crate) async fn send_half(&self, topic: &str, body: &str) -> v2::SendResultEntry {
        let half = typed(message(topic, body), MessageType::Transaction);
        self.send(vec![half]).await.remove(0)
    }

    pub(crate) async fn end(&self, topic: &str, id: &str, resolution: v2::TransactionResolution) -> Code {
        let request = v2::EndTransactionRequest {
            topic: resource(topic),
            transaction_id: id.to_owned(),
            resolution: resolution.into(),
            ..Default::default()
        };
        code(&self.end_transaction(request).await.status)
    }
}

/// A channel to a server over a transport, with the server's own certificate trusted.
pub(crate) async fn connect(server: &ServerProcess, transport: Transport, endpoint: Endpoint) -> Channel {
    match transport {
        Transport::Plain => endpoint.connect().await.expect("a connection"),
        Transport::Tls => {
            let connector = TlsConnector::from(Arc::new(trusting(server)));
            let address = server.address().expect("the server was started").to_owned();
            let connect = move |_| encrypted(connector.clone(), address.clone());
            endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("a connection")
        }
    }
}

async fn encrypted(
    connector: TlsConnector,
    address: String,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    Ok(TokioIo::new(connector.connect(name, tcp).await?))
}

/// The certificate that a server made for itself.
pub(crate) fn certificate(server: &ServerProcess) -> CertificateDer<'static> {
    let file = server.data().join("tls/development-cert.pem");
    CertificateDer::from_pem_file(file).expect("the server made a certificate")
}

fn trusting(server: &ServerProcess) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(server)).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The items of a stream to its end.
pub(crate) async fn contents(
    mut stream: Streaming<v2::ReceiveMessageResponse>,
) -> Result<Vec<Content>, Status> {
    let mut items = Vec::new();
    while let Some(item) = stream.message().await? {
        items.push(item.content.expect("an item with content"));
    }
    Ok(items)
}

/// The code of a status, which must be there.
pub(crate) fn code(status: &Option<v2::Status>) -> Code {
    status.as_ref().expect("every answer has a status").code()
}

pub(crate) fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

pub(crate) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().expect("a short time"))
}

/// A normal message with an id of its own.
pub(crate) fn message(topic: &str, body: &str) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: new_name("id"),
        message_type: MessageType::Normal.into(),
        body_encoding: v2::Encoding::Identity.into(),
        born_timestamp: Some(SystemTime::now().into()),
        born_host: "producer-host".to_owned(),
        ..Default::default()
    };
    v2::Message {
        topic: resource(topic),
        body: body.to_owned().into(),
        system_properties: Some(system),
        ..Default::default()
    }
}

/// The message with a type.
pub(crate) fn typed(message: v2::Message, kind: MessageType) -> v2::Message {
    with_system(message, |system| system.message_type = kind.into())
}

/// The message, to be delivered after `seconds`.
pub(crate) fn delayed(message: v2::Message, seconds: u64) -> v2::Message {
    let at = std::time::SystemTime::now() + Duration::from_secs(seconds);
    with_system(message, |system| system.delivery_timestamp = Some(at.into()))
}

/// The message of a lite topic.
pub(crate) fn in_lite(message: v2::Message, lite_topic: &str) -> v2::Message {
    typed(with_system(message, |system| system.lite_topic = Some(lite_topic.to_owned())), MessageType::Lite)
}

/// The message of a message group.
pub(crate) fn grouped(message: v2::Message, group: &str) -> v2::Message {
    typed(with_system(message, |system| system.message_group = Some(group.to_owned())), MessageType::Fifo)
}

/// The message with other system properties.
pub(crate) fn with_system(
    mut message: v2::Message,
    change: impl FnOnce(&mut v2::SystemProperties),
) -> v2::Message {
    change(system_mut(&mut message));
    message
}

fn system_mut(message: &mut v2::Message) -> &mut v2::SystemProperties {
    message.system_properties.as_mut().expect("a message with system properties")
}

pub(crate) fn system(message: &v2::Message) -> &v2::SystemProperties {
    message.system_properties.as_ref().expect("a message with system properties")
}

pub(crate) fn handle(message: &v2::Message) -> &str {
    system(message).receipt_handle()
}

pub(crate) fn attempt(message: &v2::Message) -> i32 {
    system(message).delivery_attempt()
}

pub(crate) fn body(message: &v2::Message) -> &str {
    std::str::from_utf8(&message.body).expect("text")
}

pub(crate) fn bodies(messages: &[v2::Message]) -> Vec<&str> {
    messages.iter().map(body).collect()
}

/// A receive of all messages of a topic on broker A, as a simple consumer makes it.
pub(crate) fn receiving(topic: &str, group: &str) -> v2::ReceiveMessageRequest {
    receiving_at(A, topic, group)
}

/// [`receiving`] at another broker.
pub(crate) fn receiving_at(broker: &str, topic: &str, group: &str) -> v2::ReceiveMessageRequest {
    let queue = v2::MessageQueue {
        topic: resource(topic),
        id: -1,
        broker: Some(v2::Broker { name: broker.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(queue),
        filter_expression: Some(filter(v2::FilterType::Tag, "*")),
        batch_size: 32,
        invisible_duration: duration(INVISIBLE),
        long_polling_timeout: duration(Duration::from_secs(5)),
        ..Default::default()
    }
}

pub(crate) fn filter(kind: v2::FilterType, expression: &str) -> v2::FilterExpression {
    v2::FilterExpression { r#type: kind.into(), expression: expression.to_owned() }
}

pub(crate) fn acking(topic: &str, group: &str, handles: &[&str]) -> v2::AckMessageRequest {
    let entry = |handle: &&str| v2::AckMessageEntry {
        message_id: "id".to_owned(),
        receipt_handle: (*handle).to_owned(),
        lite_topic: None,
    };
    v2::AckMessageRequest {
        group: resource(group),
        topic: resource(topic),
        entries: handles.iter().map(entry).collect(),
    }
}
