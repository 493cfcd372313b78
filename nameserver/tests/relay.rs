//! Long polls that a nameserver passes on to a broker: what goes through, and how they end.
#![allow(clippy::unwrap_used)]

mod support;

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use kerolox_gateway::routes::DEFAULT_LEASE;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code, ReceiveMessageResponse, messaging_service_server};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::{Service, StdError};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};

use support::{Running, broker, eventually, from_client};

/// Items of the one long poll, and what the call looked like.
type Items = mpsc::Sender<Result<ReceiveMessageResponse, Status>>;
type Call = (MetadataMap, v2::ReceiveMessageRequest, Items);

/// A broker that leaves each ReceiveMessage to the test.
#[derive(Clone, Default)]
struct FakeBroker {
    calls: Arc<Mutex<Vec<Call>>>,
}

impl NamedService for FakeBroker {
    const NAME: &'static str = messaging_service_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for FakeBroker {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let broker = self.clone();
        let codec = tonic_prost::ProstCodec::default();
        Box::pin(async move { Ok(Grpc::new(codec).server_streaming(broker, request).await) })
    }
}

impl ServerStreamingService<v2::ReceiveMessageRequest> for FakeBroker {
    type Response = ReceiveMessageResponse;
    type ResponseStream = ReceiverStream<Result<ReceiveMessageResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<v2::ReceiveMessageRequest>) -> Self::Future {
        let (items, receiver) = mpsc::channel(4);
        let (metadata, _, request) = request.into_parts();
        self.calls.lock().unwrap().push((metadata, request, items));
        ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}

async fn start() -> Result<(Running, FakeBroker), StdError> {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = tcp.local_addr()?.port();
    let fake = FakeBroker::default();
    let server = tonic::transport::Server::builder().add_service(fake.clone());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(tcp)));
    let nameserver = Running::start("127.0.0.1:0", DEFAULT_LEASE).await;
    nameserver.registry().await.register(broker("broker-a", "orders", 1, port)).await?;
    Ok((nameserver, fake))
}

/// A long poll at the nameserver, and its counterpart at the broker.
async fn poll(nameserver: &Running, fake: &FakeBroker) -> (tonic::Streaming<ReceiveMessageResponse>, Call) {
    let broker = v2::Broker { name: "broker-a".into(), ..v2::Broker::default() };
    let queue = v2::MessageQueue { broker: Some(broker), ..v2::MessageQueue::default() };
    let request = v2::ReceiveMessageRequest {
        message_queue: Some(queue),
        batch_size: 7,
        ..v2::ReceiveMessageRequest::default()
    };
    let mut request = from_client("consumer-1", request);
    request.set_timeout(Duration::from_secs(9));
    let stream = nameserver.client().await.receive_message(request).await.unwrap().into_inner();
    let call = fake.calls.lock().unwrap().pop().expect("the broker was called before the answer began");
    (stream, call)
}

fn item(content: Content) -> Result<ReceiveMessageResponse, Status> {
    Ok(ReceiveMessageResponse { content: Some(content) })
}

fn status(code: Code) -> Content {
    Content::Status(v2::Status { code: code.into(), message: String::new() })
}

#[tokio::test]
async fn items_headers_and_deadline_go_through() {
    let (nameserver, fake) = start().await.unwrap();
    let (mut stream, (metadata, request, items)) = poll(&nameserver, &fake).await;
    assert_eq!(metadata.get("x-mq-client-id").unwrap(), "consumer-1");
    assert!(metadata.contains_key("grpc-timeout") && metadata.contains_key("x-kerolox-relayed"));
    assert_eq!(request.batch_size, 7);

    let message = v2::Message { body: "hello".into(), ..v2::Message::default() };
    for content in [status(Code::Ok), Content::Message(message.clone())] {
        items.send(item(content)).await.unwrap();
    }
    assert_eq!(stream.next().await.unwrap().unwrap().content, Some(status(Code::Ok)));
    assert_eq!(stream.next().await.unwrap().unwrap().content, Some(Content::Message(message)));
    drop(items);
    assert!(stream.next().await.is_none());
    nameserver.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_poll_at_the_broker() {
    let (nameserver, fake) = start().await.unwrap();
    let (stream, (_, _, items)) = poll(&nameserver, &fake).await;
    assert!(!items.is_closed());
    drop(stream);
    eventually("the broker's stream is dropped", || async { items.is_closed() }).await;
    nameserver.stop().await;
}

#[tokio::test]
async fn a_broker_that_fails_is_told_in_the_body() {
    let (nameserver, fake) = start().await.unwrap();
    let (mut stream, (_, _, items)) = poll(&nameserver, &fake).await;
    items.send(Err(Status::internal("out of order"))).await.unwrap();
    let Some(Content::Status(status)) = stream.next().await.unwrap().unwrap().content else {
        panic!("no status")
    };
    assert_eq!(status.code(), Code::InternalServerError);
    assert!(status.message.contains("broker-a") && status.message.contains("out of order"), "{status:?}");
    assert!(stream.next().await.is_none());
    nameserver.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_long_polls_as_empty() {
    let (nameserver, fake) = start().await.unwrap();
    let (mut stream, (_, _, _items)) = poll(&nameserver, &fake).await;
    let begin = Instant::now();
    nameserver.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let Some(Content::Status(status)) = stream.next().await.unwrap().unwrap().content else {
        panic!("no status")
    };
    assert_eq!(status.code(), Code::MessageNotFound);
    assert!(stream.next().await.is_none());
}
